"""FlexiViT's embedding: sizes, exactness, what the resizing keeps, and a flexible model beside a plain one."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

from revit.common.costs.flops import count
from revit.common.models.embed.patch_embed import FlexiPatchify
from revit.common.models.embed.patches import resize_patch_kernel, resize_positions, undo_position_resize
from revit.common.models.grid import TokenGrid
from revit.image.models.transformers import DeiT, LVViT
from revit.video.models.timesformer import TimeSformer

SMALL = {"embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 4, "drop_path_rate": 0.0}
FLEXI = {"patch_embed": "flexi", "kernel_size": 8, "position_grid": 4}


def flexible(grids=(4, 2), **changes):
    return DeiT(32, grids, **{**SMALL, **FLEXI, **changes}).eval()


@pytest.mark.parametrize("rule", [{}, {"antialias": True}, {"mode": "bicubic", "antialias": True}])
@pytest.mark.parametrize(("old", "new"), [((16, 16), (8, 8)), ((8, 6), (5, 9)), ((7, 7), (12, 10))])
def test_rows_and_columns_one_after_the_other_are_the_papers_factor(old, new, rule):
    """pinv(B^T) of the whole resize, as the paper has it, in one matrix."""
    images = torch.eye(old[0] * old[1], dtype=torch.float64).unflatten(1, (1, *old))
    how = {"mode": "bilinear", "align_corners": False, **rule}
    resize = F.interpolate(images, size=new, **how).flatten(1)  # (old * old, new * new), B^T
    kernel = torch.randn(3, 2, *old, dtype=torch.float64)
    expected = (kernel.flatten(2) @ torch.linalg.pinv(resize).T).unflatten(2, new)
    torch.testing.assert_close(resize_patch_kernel(kernel, new, **rule), expected, atol=1e-9, rtol=0)


@pytest.mark.parametrize(("pixels", "grid", "patch"), [(240, 7, 34), (48, 10, 4), (224, 15, 14), (32, 4, 8)])
def test_the_map_is_the_grid_and_the_rest_is_cut_off(pixels, grid, patch):
    grid = TokenGrid(grid, grid)
    embed = FlexiPatchify(pixels, [grid], 5, kernel_size=16)
    assert embed.patch_at((pixels, pixels), grid) == (patch, patch)
    images = torch.randn(2, 3, pixels, pixels)
    found = embed(images, grid)
    assert found.shape == (2, 5, grid.rows, grid.cols)
    beyond = images.clone()
    beyond[..., grid.rows * patch :, :] = 9.0
    beyond[..., grid.cols * patch :] = 9.0
    assert torch.equal(embed(beyond, grid), found)


def test_another_picture_size_keeps_the_grid():
    embed = FlexiPatchify(32, [TokenGrid(4, 4)], 5, kernel_size=8)
    assert embed(torch.randn(1, 3, 48, 64), TokenGrid(4, 2)).shape == (1, 5, 4, 2)


def test_enlarged_pictures_with_enlarged_patches_embed_the_same():
    """The identity of section 3.4, through the module: double picture, same grid."""
    embed = FlexiPatchify(32, [TokenGrid(4, 4)], 5, kernel_size=8).double()
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    # Every patch by itself, as the resize of a whole picture would mix neighbours at the seams.
    patches = images.unfold(2, 8, 8).unfold(3, 8, 8).reshape(-1, 1, 8, 8)
    larger = F.interpolate(patches, size=(16, 16), mode="bilinear", align_corners=False)
    larger = larger.view(2, 3, 4, 4, 16, 16).permute(0, 1, 2, 4, 3, 5).reshape(2, 3, 64, 64)
    grid = TokenGrid(4, 4)
    torch.testing.assert_close(embed(larger, grid), embed(images, grid), atol=1e-6, rtol=0)


def test_a_grid_finer_than_the_pixels_is_refused():
    with pytest.raises(ValueError, match="32x32 pixels cannot be cut into 33x33"):
        flexible(grids=(33,))
    with pytest.raises(KeyError, match="33x33 has more tokens"):
        flexible()(torch.zeros(1, 3, 32, 32), TokenGrid(33, 33))


def test_factors_made_in_inference_serve_training():
    embed = FlexiPatchify(36, [TokenGrid(4, 4)], 5, kernel_size=11)
    images, grid = torch.randn(1, 3, 36, 36), TokenGrid(4, 4)
    with torch.inference_mode():
        embed(images, grid)
    embed(images, grid).sum().backward()
    assert embed.proj.weight.grad is not None
    assert embed.proj.weight.grad.abs().sum() > 0


def test_gradients_of_the_kernel_are_those_of_the_factor():
    kernel = torch.randn(2, 1, 8, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda weight: resize_patch_kernel(weight, (5, 11)), kernel)


def test_nothing_of_the_sizes_is_in_the_state():
    model = flexible(grids=(8, 4, 2))
    model(torch.zeros(1, 3, 32, 32), TokenGrid(5, 5))
    names = set(model.state_dict())
    assert names == set(flexible(grids=(3,)).state_dict())
    assert model.state_dict()["patch_embed.proj.weight"].shape == (16, 3, 8, 8)
    assert model.state_dict()["pos_embed"].shape == (1, 16, 16)
    assert not any("short" in name or "dist" in name for name in names)


def plain_from(model, grid=4):
    """The plain model with the same weights, whose position row of the class token is zero."""
    plain = DeiT(32, (grid,), **SMALL).eval()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state["pos_embed"] = F.pad(state["pos_embed"], (0, 0, 1, 0))
    plain.load_state_dict(state)
    return plain


def test_one_size_is_the_plain_model():
    model = flexible(grids=(4,))
    images = torch.randn(3, 3, 32, 32)
    assert torch.equal(plain_from(model)(images).logits, model(images).logits)


def test_every_position_row_that_is_not_there_is_not_added():
    """Positions reach patches alone: the class token enters as it is."""
    model = flexible()
    prefix, patches, layout = model.embed(torch.zeros(1, 3, 32, 32), TokenGrid(2, 2))
    assert torch.equal(prefix, model.cls_token)
    table = resize_positions(model.pos_embed, 0, TokenGrid(4, 4), TokenGrid(2, 2), "linear")
    bias = model.patch_embed.proj.bias
    torch.testing.assert_close(patches, table + bias)
    assert (layout.num_prefix, layout.num_positions) == (1, 4)


@pytest.mark.parametrize("attention", ["divided_space_time", "joint_space_time", "space_only"])
def test_clips_run_at_grids_that_nobody_named(attention):
    sizes = {**SMALL, **FLEXI, "num_frames": 2, "attention": attention}
    model = TimeSformer(32, (4, 2), **sizes).eval()
    clips = torch.randn(2, 3, 2, 32, 32)
    for grid in (TokenGrid(4, 4), TokenGrid(3, 3), TokenGrid(2, 5)):
        assert model(clips, grid).logits.shape == (2, 4)
        count(model, (1, 3, 2, 32, 32), grid)  # raises where the three counts disagree


def test_an_lvvit_with_plain_patches_is_flexible_too():
    model = LVViT(32, (4, 2), **{**SMALL, **FLEXI}).eval()
    output = model(torch.randn(2, 3, 32, 32), TokenGrid(3, 3))
    assert output.patch_logits is not None
    assert output.patch_logits.shape == (2, 9, 4)


def test_recomputed_blocks_change_no_gradient():
    model = flexible()
    again = copy.deepcopy(model)
    again.set_grad_checkpointing()
    images = torch.randn(2, 3, 32, 32)
    for one in (model, again):
        one(images, TokenGrid(3, 3)).logits.sum().backward()
    assert torch.equal(model.patch_embed.proj.weight.grad, again.patch_embed.proj.weight.grad)


def test_compiled_models_answer_the_same_at_every_grid():
    model = flexible(depth=1)
    compiled = copy.deepcopy(model)
    compiled.compile(backend="eager")
    images = torch.randn(2, 3, 32, 32)
    for side in (4, 2, 3):
        grid = TokenGrid(side, side)
        torch.testing.assert_close(compiled(images, grid).logits, model(images, grid).logits)


@pytest.mark.parametrize(
    "change",
    [
        {"positions": "shared_interpolate"},
        {"distillation": "every_grid"},
        {"patch_embed": "patchify"},  # with a kernel size
    ],
)
def test_contradictions(change):
    with pytest.raises(ValueError, match="leave them out"):
        flexible(**change)


def test_a_table_that_was_enlarged_is_found_again():
    table = torch.randn(1, 7 * 7, 6)
    large = resize_positions(table, 0, TokenGrid(7, 7), TokenGrid(15, 12), "linear")
    small = undo_position_resize(large, TokenGrid(15, 12), TokenGrid(7, 7))
    torch.testing.assert_close(small, table, atol=1e-5, rtol=0)


@pytest.mark.parametrize("method", ["linear", "bicubic", "corners"])
def test_tables_of_one_column_are_resized_as_tables_of_one_row(method):
    table = torch.randn(1, 9, 4)
    upright = resize_positions(table, 0, TokenGrid(9, 1), TokenGrid(5, 1), method)
    flat = resize_positions(table, 0, TokenGrid(1, 9), TokenGrid(1, 5), method)
    torch.testing.assert_close(upright, flat)


def test_corners_are_those_of_scipys_zoom():
    """Order 1: target i of n reads the source at i (m - 1) / (n - 1)."""
    table = torch.randn(1, 25, 3)
    found = resize_positions(table, 0, TokenGrid(5, 5), TokenGrid(7, 7), "corners").view(7, 7, 3)
    as_map = table.view(5, 5, 3)
    for row in range(7):
        for col in range(7):
            y, x = row * 4 / 6, col * 4 / 6
            y0, x0 = min(int(y), 3), min(int(x), 3)
            dy, dx = y - y0, x - x0
            top = (1 - dx) * as_map[y0, x0] + dx * as_map[y0, x0 + 1]
            low = (1 - dx) * as_map[y0 + 1, x0] + dx * as_map[y0 + 1, x0 + 1]
            torch.testing.assert_close(found[row, col], (1 - dy) * top + dy * low, atol=1e-5, rtol=1e-5)


def test_published_cost_of_flexivit_small(monkeypatch):
    monkeypatch.setattr(torch.nn.init, "trunc_normal_", lambda tensor, *_, **__: tensor)  # costs depend on shapes
    model = DeiT(240, (15, 8), patch_embed="flexi")
    found = count(model, (1, 3, 240, 240), TokenGrid(15, 15))
    assert found.gmacs == pytest.approx(5.35, rel=0.02)
    # The published files have a kernel of 16 pixels and a table of 15 x 15: 22,061,416 parameters.
    assert found.params - 384 * (3 * (32**2 - 16**2) + 7**2 - 15**2) == 22_061_416
