"""Progressive re-tokenisation: the same weights on fewer tokens, early in training only."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from revit.common.costs.flops import count
from revit.common.methods.retokenize import METHOD, PUBLISHED_COSTS, RetokenizeOptions, RetokenizeTask
from revit.common.methods.revit.task import ResizableTask
from revit.common.methods.task import Progress
from revit.common.models.embed.patch_embed import Patchify
from revit.common.models.embed.patches import re_tokenized, strided_convolution
from revit.common.models.grid import TokenGrid
from revit.common.system.errors import UserError
from revit.image.models.asvit import AsViT
from revit.image.models.genotype import PUBLISHED
from revit.image.models.transformers import DeiT
from revit.video.models.timesformer import TimeSformer

# As-ViT's footnote 3, by hand: (kernel, times) -> dilation.
DILATIONS = {(4, 4): 5, (4, 2): 2, (5, 4): 5, (5, 2): 2, (6, 4): 5, (7, 4): 5, (7, 2): 2, (8, 4): 4, (8, 2): 2}


@pytest.mark.parametrize(("kernel", "times"), DILATIONS)
def test_dilation_is_the_footnotes(kernel, times):
    dilation, before, behind = re_tokenized(kernel, 4, times)
    assert dilation == DILATIONS[kernel, times]
    assert before + behind == max(0, dilation * (kernel - 1) + 1 - 4 * times)
    assert behind - before in (0, 1)


@pytest.mark.parametrize("kernel", range(4, 9))
@pytest.mark.parametrize(("times", "side"), [(1, 56), (2, 28), (4, 14)])
def test_every_first_kernel_of_the_search_space_gives_the_published_maps(kernel, times, side):
    conv = nn.Conv2d(3, 2, kernel, stride=4)
    tokens = strided_convolution(torch.randn(1, 3, 224, 224), conv, times)
    assert tokens.shape == (1, 2, side, side)


def test_at_its_own_stride_it_is_the_plain_convolution():
    embed = Patchify(24, [TokenGrid(3, 3)], 5)
    images = torch.randn(2, 3, 24, 24)
    again = strided_convolution(images, embed.proj, 1)
    assert torch.allclose(embed(images, TokenGrid(3, 3)), again, atol=1e-6)


def test_a_coarse_token_is_the_kernel_spread_over_its_stride():
    """Against taking every dilated pixel by hand."""
    conv = nn.Conv2d(1, 2, 4, stride=4, bias=False).double()
    images = torch.randn(1, 1, 16, 16, dtype=torch.float64)
    tokens = strided_convolution(images, conv, 2)
    dilation, before, behind = re_tokenized(4, 4, 2)
    padded = F.pad(images, (before, behind, before, behind))
    for row in range(2):
        for col in range(2):
            rows = [8 * row + dilation * i for i in range(4)]
            cols = [8 * col + dilation * i for i in range(4)]
            window = padded[0, 0][rows][:, cols]
            assert torch.allclose(tokens[0, :, row, col], (conv.weight[:, 0] * window).sum((1, 2)))


@pytest.mark.parametrize("side", [33, 40, 224])
def test_any_picture_size_gives_whole_maps(side):
    tokens = strided_convolution(torch.randn(1, 3, side, side), nn.Conv2d(3, 2, 5, stride=4), 4)
    assert tokens.shape[-1] == -(-side // 16)


@pytest.mark.parametrize(
    "model",
    [
        AsViT("4,2,2|2,1,2|2,1,2|2,1,2|8,16", 32, num_classes=3),
        DeiT(32, [8], num_classes=3, embed_dim=16, depth=1, num_heads=2),
        DeiT(32, [8, 4], num_classes=3, embed_dim=16, depth=1, num_heads=2),
    ],
    ids=["as-vit", "deit", "revit-deit"],
)
def test_fewer_tokens_in_training_all_in_evaluation(model):
    images = torch.randn(2, 3, 32, 32)
    task = RetokenizeTask(ResizableTask(), model.patch_embed, RetokenizeOptions())
    model.eval()
    whole = model(images).logits
    sizes = []
    for fraction in (0.0, 0.39, 0.4, 0.69, 0.7, 1.0):
        task.begin(Progress(0, fraction))
        model.eval()
        assert torch.equal(model(images).logits, whole)
        model.train()
        sizes.append(model.patch_embed(images, model.grids[0]).shape if isinstance(model, DeiT) else None)
        if isinstance(model, AsViT):
            sizes[-1] = model.patch_embed(images).permute(0, 3, 1, 2).shape
    assert [size[-1] for size in sizes] == [2, 2, 4, 4, 8, 8]


def test_clips_too():
    model = TimeSformer(32, [4], num_frames=3, num_classes=3, embed_dim=16, depth=1, num_heads=2).train()
    model.patch_embed.coarser = 2
    output = model(torch.randn(2, 3, 3, 32, 32))
    assert output.patch_features.shape == (2, 2 * 2 * 3, 16)
    output.logits.sum().backward()
    assert model.patch_embed.proj.weight.grad.abs().sum() > 0


def test_every_weight_of_the_full_model_is_trained_by_coarse_tokens():
    model = AsViT("8,8,2|4,4,2|3,2,2|2,1,2|8,16", 64, num_classes=3).train()
    model.patch_embed.coarser = 4
    model(torch.randn(2, 3, 64, 64)).logits.sum().backward()
    assert all(weight.grad is not None for weight in model.parameters())


def test_phases_are_checked():
    with pytest.raises(ValueError, match=r"phases end at 0\.5, 0\.5"):
        RetokenizeOptions(phases=[{"until": 0.5, "coarser": 4}, {"until": 0.5, "coarser": 2}])


def test_the_method_is_known_by_its_file():
    assert METHOD.options_class is RetokenizeOptions


# As-ViT's table 6: epochs at a sixteenth and at a quarter of the tokens, of 300 -> percent saved.
TABLE_6 = {(40, 70): 18.7, (80, 140): 37.4, (120, 210): 56.2}


def phases(first: int, second: int) -> RetokenizeOptions:
    return RetokenizeOptions(phases=[{"until": first / 300, "coarser": 4}, {"until": second / 300, "coarser": 2}])


@pytest.mark.parametrize("ends", TABLE_6)
def test_the_papers_relative_costs_give_the_papers_savings(ends):
    assert 100 * phases(*ends).saving(PUBLISHED_COSTS) == pytest.approx(TABLE_6[ends], abs=0.06)


def test_the_cost_of_a_phase_is_that_of_the_coarser_map():
    with torch.device("meta"):  # sizes are enough
        model = AsViT(PUBLISHED["asvit_large"])
    shape = (1, 3, 224, 224)
    rows = METHOD(phases(120, 210)).cost_rows(model, shape)
    whole = count(model, shape).gmacs
    for row, side in zip(rows, (14, 28)):
        assert row["gmacs"] == pytest.approx(count(model, shape, TokenGrid(side, side)).gmacs)
    # Maps of an odd side are rounded up: 5.6 and 21.1 percent of the full cost, where the paper has 13.2 and 28.5.
    assert [round(100 * row["gmacs"] / whole, 1) for row in rows[:2]] == [5.6, 21.1]
    assert ["61.4%" in rows[2]["rule"], "56.2%" in rows[3]["rule"]] == [True, True]


def test_a_transformer_of_one_patch_size_has_the_cost_of_a_smaller_map():
    model = DeiT(224, [14], num_classes=10, embed_dim=32, depth=2, num_heads=2)
    (row, *_) = METHOD(RetokenizeOptions(phases=[{"until": 0.5, "coarser": 2}])).cost_rows(model, (1, 3, 224, 224))
    small = count(DeiT(112, [7], num_classes=10, embed_dim=32, depth=2, num_heads=2), (1, 3, 112, 112))
    assert row["gmacs"] == pytest.approx(small.gmacs)


def test_a_phase_of_one_token_is_refused():
    model = DeiT(32, [4], num_classes=3, embed_dim=16, depth=1, num_heads=2)
    METHOD(RetokenizeOptions(phases=[{"until": 0.5, "coarser": 3}])).attach(model)
    with pytest.raises(UserError, match="4 times the stride makes one token of 4x4"):
        METHOD(RetokenizeOptions(phases=[{"until": 0.5, "coarser": 4}])).attach(model)
