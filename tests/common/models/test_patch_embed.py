from __future__ import annotations

import pytest
import torch

from revit.common.models.embed.patch_embed import PATCH_EMBEDS, ConvStem, Patchify, SharedPatchify
from revit.common.models.embed.patches import pad_to_patches, patch_of
from revit.common.models.grid import TokenGrid, longest_first


@pytest.mark.parametrize(
    ("img_size", "grid", "patch"),
    [
        (224, 14, 16),
        (224, 10, 24),
        (224, 7, 32),
        (448, 28, 16),
        (448, 20, 23),
        (448, 14, 32),
        (288, 12, 24),
        (48, 3, 16),
    ],
)
def test_patches_of_the_papers_grids(img_size, grid, patch):
    assert patch_of(img_size, TokenGrid(grid, grid)) == (patch, patch)


def test_an_unreachable_grid_says_what_is_near():
    with pytest.raises(ValueError, match="choose 45"):
        patch_of(224, TokenGrid(50, 50))


@pytest.mark.parametrize("kind", [kind for kind in PATCH_EMBEDS if kind != "flexi"])
@pytest.mark.parametrize(("height", "width"), [(224, 224), (160, 160), (170, 230), (288, 224)])
def test_any_size_gives_a_map_that_covers_it(kind, height, width):
    grids = longest_first([14, 10, 7])
    embed = PATCH_EMBEDS[kind](224, grids, 8).eval()
    for grid, patch in zip(grids, (16, 24, 32)):
        assert embed(torch.zeros(1, 3, height, width), grid).shape == (1, 8, -(-height // patch), -(-width // patch))


def test_padding_is_shared_by_both_sides():
    padded = pad_to_patches(torch.ones(1, 1, 224, 220), (24, 24))
    assert padded.shape[-2:] == (240, 240)
    assert padded[0, 0, 120].nonzero().flatten().tolist() == list(range(10, 230))
    assert padded[0, 0, :, 120].nonzero().flatten().tolist() == list(range(8, 232))


def test_patchify_is_the_linear_map_of_each_patch():
    grids = longest_first([4, 2])
    embed = Patchify(16, grids, 5)
    image = torch.randn(2, 3, 16, 16)
    for grid, conv in ((grids[0], embed.proj), (grids[1], embed.short["2x2"])):
        side = 16 // grid.rows
        patches = image.unfold(2, side, side).unfold(3, side, side)  # (B, C, rows, cols, side, side)
        expected = torch.einsum("bcrsij,dcij->bdrs", patches, conv.weight) + conv.bias.view(1, -1, 1, 1)
        assert torch.allclose(embed(image, grid), expected, atol=1e-5)


def test_short_kernels_start_from_the_long_one():
    """What an enlarged picture gives at the short grid is what the picture itself gives at the long one."""
    embed = Patchify(32, longest_first([4, 2]), 5)
    embed.start_short_grids()
    image = torch.randn(1, 3, 16, 16)
    larger_patches = (
        torch.nn.functional.interpolate(
            image.unfold(2, 8, 8).unfold(3, 8, 8).permute(0, 2, 3, 1, 4, 5).flatten(0, 2),
            size=(16, 16),
            mode="bilinear",
            align_corners=False,
        )
        .unflatten(0, (2, 2))
        .permute(2, 0, 3, 1, 4)
        .reshape(1, 3, 32, 32)
    )
    assert torch.allclose(embed(larger_patches, TokenGrid(2, 2)), embed(image, TokenGrid(4, 4)), atol=1e-5)


def test_shared_kernel_is_cropped_around_its_centre():
    embed = SharedPatchify(224, longest_first([14, 7]), 4)
    image = torch.randn(1, 3, 224, 224)
    centre = embed.proj.weight[:, :, 8:24, 8:24]
    expected = torch.nn.functional.conv2d(image, centre, embed.proj.bias, stride=16)
    assert torch.equal(embed(image, TokenGrid(14, 14)), expected)
    assert len(list(embed.parameters())) == 2


def test_stem_has_one_branch_per_grid_and_says_when_a_grid_cannot_be_reached():
    stem = ConvStem(224, longest_first([14, 10, 7]), 384)
    assert sorted(stem.stems) == ["10x10", "14x14", "7x7"]
    assert sum(weight.numel() for weight in stem.stems["14x14"].parameters()) == pytest.approx(0.29e6, rel=0.15)
    with pytest.raises(ValueError, match="stem_widths"):
        ConvStem(224, longest_first([14, 7]), 384, stem_widths=(24, 48))
