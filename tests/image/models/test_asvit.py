"""As-ViT's backbone: published sizes, windows against slow loops, odd maps, coarser grids, stochastic depth."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from revit.common.costs.flops import count
from revit.common.models.grid import TokenGrid
from revit.common.models.reducer import TokenLayout
from revit.image.models.asvit import AsViT, ReEmbed, WindowStage
from revit.image.models.genotype import PUBLISHED, SEED_TOPOLOGY, Genotype, Stage, split_side, stage_maps

SMALL = "5,2,3,2|3,2,2,1|2,1,4,1|4,1,2,1|8,8"


@pytest.mark.parametrize(
    ("name", "params", "with_positions", "gmacs"),
    [
        ("asvit_seed", 2_319_624, 2.420, 0.4915),
        ("asvit_small", 28_775_328, 29.051, 5.1321),
        ("asvit_base", 52_258_652, 52.622, 8.7537),
        ("asvit_large", 87_580_820, 88.145, 22.3578),
    ],
)
def test_published_models_have_the_published_size(name, params, with_positions, gmacs):
    """GMACs: those of matrix products and the convolution."""
    model = AsViT(PUBLISHED[name])
    own = sum(parameter.numel() for parameter in model.parameters())
    assert own == params
    assert (own + 56 * 56 * PUBLISHED[name].width) / 1e6 == pytest.approx(with_positions, abs=6e-4)
    assert sum(model.closed_form_macs((1, 3, 224, 224)).values()) / 1e9 == pytest.approx(gmacs, rel=1e-3)


@pytest.mark.parametrize(("name", "gmacs"), [("asvit_seed", 0.497427712), ("asvit_small", 5.1565)])
def test_the_counter_sees_the_published_cost(name, gmacs):
    """With what the counter adds for norms."""
    assert count(AsViT(PUBLISHED[name]).eval(), (1, 3, 224, 224)).gmacs == pytest.approx(gmacs, rel=1e-3)


def test_positions_are_one_table_of_the_stem_map():
    plain, placed = (AsViT(SMALL, 64, num_classes=10, position=kind) for kind in ("none", "absolute"))
    more = sum(p.numel() for p in placed.parameters()) - sum(p.numel() for p in plain.parameters())
    assert more == 16 * 16 * 8
    placed.load_state_dict({**plain.state_dict(), "pos_embed": torch.zeros(1, 256, 8)})
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(plain.eval()(images).logits, placed.eval()(images).logits)


def windows_by_loop(stage: WindowStage, tokens: torch.Tensor) -> torch.Tensor:
    """Every window of the map cut out, put through the blocks alone, and put back."""
    out = torch.empty_like(tokens)
    rows, cols = (split_side(side, stage.splits) for side in tokens.shape[1:3])
    h, w = tokens.shape[1] // rows, tokens.shape[2] // cols
    for row in range(rows):
        for col in range(cols):
            place = (slice(None), slice(row * h, (row + 1) * h), slice(col * w, (col + 1) * w))
            window = tokens[place].flatten(1, 2)
            for block in stage.blocks:
                window = block(window, TokenLayout(stage.grid, 0, h * w))
            out[place] = window.unflatten(1, (h, w))
    return out


@pytest.mark.parametrize("splits", [1, 2, 4, 8])
@pytest.mark.parametrize("sides", [(16, 16), (8, 12), (7, 9), (5, 16)])
def test_windows_are_cut_and_put_back(splits, sides):
    stage = WindowStage(Stage(4, splits, 2, 2), 8, 2, TokenGrid(16, 16), [0.0, 0.0]).double().eval()
    for parameter in stage.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    tokens = torch.randn(2, *sides, 8, dtype=torch.float64)
    torch.testing.assert_close(stage(tokens), windows_by_loop(stage, tokens), rtol=0, atol=1e-12)


def test_no_token_leaves_its_window():
    stage = WindowStage(Stage(4, 2, 2), 8, 2, TokenGrid(8, 8), [0.0]).eval()
    tokens = torch.randn(1, 8, 8, 8)
    changed = tokens.clone()
    changed[:, :4, :4] += 1
    moved = (stage(tokens) - stage(changed)).abs().sum(-1)[0] > 0
    assert moved[:4, :4].all()
    assert not moved[4:].any()
    assert not moved[:, 4:].any()


@pytest.mark.parametrize(("side", "splits", "expected"), [(56, 8, 8), (14, 4, 2), (7, 2, 1), (14, 8, 7), (3, 8, 3)])
def test_splits_that_do_not_divide_become_fewer(side, splits, expected):
    assert split_side(side, splits) == expected


@pytest.mark.parametrize("kernel", [2, 3, 4])
@pytest.mark.parametrize("sides", [(6, 8), (5, 8), (7, 3)])
def test_re_embedding_against_a_loop(kernel, sides):
    """Odd sides get a row or column of zeros behind; features are ordered channel, row, column."""
    embed = ReEmbed(kernel, 3, 5).double()
    for parameter in embed.parameters():
        torch.nn.init.normal_(parameter)
    tokens = torch.randn(2, *sides, 3, dtype=torch.float64)
    before = (kernel - 2) // 2
    padded = F.pad(tokens, (0, 0, before, kernel, before, kernel))
    rows, cols = (-(-side // 2) for side in sides)
    expected = torch.empty(2, rows, cols, 5, dtype=torch.float64)
    for row in range(rows):
        for col in range(cols):
            window = padded[:, 2 * row : 2 * row + kernel, 2 * col : 2 * col + kernel]
            expected[:, row, col] = embed.reduction(embed.norm(window.permute(0, 3, 1, 2).flatten(1)))
    torch.testing.assert_close(embed(tokens), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kernel", [4, 5, 6, 7, 8])
@pytest.mark.parametrize(("side", "dilation"), [(14, None), (28, 2), (56, 1)])
def test_coarser_stems_cover_the_picture(kernel, side, dilation):
    """14, 28 and 56 tokens a side at 224 pixels, with the convolution of the paper's stride and dilation."""
    model = AsViT(f"{kernel},1,2|2,1,2|2,1,2|2,1,2|8,8", num_classes=3).eval()
    stride = 224 // side
    dilation = dilation or (4 if kernel == 8 else 5)
    images = torch.randn(1, 3, 224, 224)
    tokens = model.patch_embed(images, stride // 4)
    assert tokens.shape == (1, side, side, 8)
    total = max(0, dilation * (kernel - 1) + 1 - stride)
    padded = F.pad(images, (total // 2, total - total // 2) * 2)
    plain = F.conv2d(padded, model.patch_embed.proj.weight, model.patch_embed.proj.bias, stride, 0, dilation)
    torch.testing.assert_close(tokens, model.patch_embed.norm(plain.permute(0, 2, 3, 1)), rtol=0, atol=1e-5)
    with torch.no_grad():
        maps = model.feature_maps(images, TokenGrid(side, side))
    wanted = stage_maps(TokenGrid(side, side), 4)
    assert [TokenGrid(*one.shape[1:3]) for one in maps] == wanted


def test_a_grid_that_no_stride_gives_is_refused():
    model = AsViT(SMALL, 64, num_classes=3)
    with pytest.raises(ValueError, match="no stride"):
        model(torch.zeros(1, 3, 64, 64), TokenGrid(15, 15))


@pytest.mark.parametrize("sides", [(64, 64), (224, 32), (50, 37), (4, 4)])
def test_any_picture_size(sides):
    model = AsViT(SMALL, sides, num_classes=3).eval()
    assert model(torch.randn(2, 3, *sides)).logits.shape == (2, 3)


def test_positions_are_resized_for_other_pictures():
    model = AsViT(SMALL, 64, num_classes=3, position="absolute").eval()
    assert model(torch.randn(1, 3, 96, 80)).logits.shape == (1, 3)


def test_stochastic_depth_is_drawn_per_picture():
    """All windows of a picture lose a branch together."""
    stage = WindowStage(Stage(4, 4, 2), 8, 2, TokenGrid(8, 8), [0.5]).train()
    for parameter in stage.parameters():
        torch.nn.init.normal_(parameter)
    tokens = torch.randn(1, 8, 8, 8).expand(64, -1, -1, -1)
    out = stage(tokens)
    kinds = {tuple(picture.flatten()[:16].tolist()) for picture in out}
    assert len(kinds) == 4  # neither branch, the first, the second, both
    by_windows = out.unflatten(2, (4, 2)).unflatten(1, (4, 2))
    same = by_windows[:, None] == by_windows[None]
    whole = same.flatten(2).all(-1)
    first = same[:, :, 0, :, 0].flatten(2).all(-1)
    assert torch.equal(whole, first)


def test_head_width_rounds_down():
    genotype = Genotype.parse("4,1,2|2,1,2|2,1,2|2,1,2|16,9")
    model = AsViT(genotype, 32, num_classes=3)
    assert model.layers[0].blocks[0].attn.qkv.weight.shape == (3 * 2 * 4, 9)
    assert model(torch.randn(1, 3, 32, 32)).logits.shape == (1, 3)


def test_genotypes_read_back():
    for genotype in PUBLISHED.values():
        assert Genotype.parse(str(genotype)) == genotype
    assert Genotype.parse("8,2,3/4,1,2/4,1,4/4,1,6/32") == SEED_TOPOLOGY


@pytest.mark.parametrize(
    "wrong",
    ["", "8,2,3|4,1,2", "8,2|4,1,2|4,1,4|4,1,6|32", "a,2,3|4,1,2|4,1,4|4,1,6|32", "8,2,3|4,1,2|4,1,4|4,1,6|30",
     "3,2,3|4,1,2|4,1,4|4,1,6|32", "8,2,3|1,1,2|4,1,4|4,1,6|32", "8,0,3|4,1,2|4,1,4|4,1,6|32", "8,2,3|4,1,2|4,1,4|4,1,6|64,4"],
)  # fmt: skip
def test_what_is_no_genotype_is_refused(wrong):
    with pytest.raises(ValueError, match=r"genotype|head|kernel|splits"):
        Genotype.parse(wrong)
