"""LV-ViT's stem at several grids."""

from __future__ import annotations

import pytest
import torch

from revit.common.models.embed.patch_embed import LVViTStem
from revit.common.models.embed.patches import resize_patch_kernel
from revit.common.models.grid import TokenGrid, longest_first

GRIDS = longest_first([14, 10, 7])


def stem(**changes: object) -> LVViTStem:
    return LVViTStem(**{"img_size": 224, "grids": GRIDS, "width": 6, "stem_widths": (4, 4, 4), **changes}).eval()


def test_the_last_kernel_is_half_a_patch_and_the_map_is_padded_to_it():
    three = stem()
    assert [three.stem_of(grid).kernel for grid in GRIDS] == [(8, 8), (12, 12), (16, 16)]
    # 10x10: 112 + 8 = 120 = 10 * 12, so the first patch begins 4 tokens of the half map outside the picture.
    ten = three.stem_of(GRIDS[1])
    half = torch.randn(1, 4, 112, 112)
    for layer in (ten.conv1, ten.conv2, ten.conv3):
        torch.nn.init.dirac_(layer.weight)
    seen: list[torch.Tensor] = []
    ten.proj.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    three(torch.randn(1, 3, 224, 224), GRIDS[1])
    assert seen[0].shape == (1, 4, 120, 120)
    assert seen[0][..., :4, :].abs().max() == seen[0][..., -4:].abs().max() == 0
    assert seen[0][..., 4:-4, 4:-4].shape == half.shape


def test_short_stems_start_from_the_long_one():
    three = stem()
    for name, buffer in three.named_buffers():
        if "short" not in name and name.endswith("running_mean"):
            buffer.copy_(torch.randn_like(buffer))
    three.start_short_grids()
    for grid in GRIDS[1:]:
        short = three.stem_of(grid)
        assert torch.equal(short.conv2.weight, three.conv2.weight)
        assert torch.equal(short.bn3.running_mean, three.bn3.running_mean)
        assert torch.equal(short.proj.weight, resize_patch_kernel(three.proj.weight, short.kernel))
        assert short.conv2.weight.data_ptr() != three.conv2.weight.data_ptr()


def test_each_grid_keeps_its_own_statistics():
    three = stem().train()
    three(torch.randn(2, 3, 224, 224), GRIDS[2])
    assert int(three.stem_of(GRIDS[2]).bn1.num_batches_tracked) == 1
    assert int(three.bn1.num_batches_tracked) == int(three.stem_of(GRIDS[1]).bn1.num_batches_tracked) == 0


@pytest.mark.parametrize("sides", [(224, 224), (97, 130), (71, 64)])
@pytest.mark.parametrize("remainder", ["pad", "cut"])
def test_the_map_is_what_it_says(sides, remainder):
    model = stem(remainder=remainder)
    for grid in GRIDS:
        found = model(torch.zeros(1, 3, *sides), grid)
        assert TokenGrid(*found.shape[-2:]) == model.map_of(sides, grid)


def test_what_cannot_be_built_is_said():
    with pytest.raises(ValueError, match=r"halves the picture.*224 pixels into 20 tokens"):
        stem(img_size=448, grids=longest_first([28, 20]))
    with pytest.raises(ValueError, match="three"):
        stem(stem_widths=(24, 48, 96, 192))
