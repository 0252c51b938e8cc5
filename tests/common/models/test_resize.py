from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from revit.common.models.embed.patches import resize_patch_kernel, resize_positions, resize_times
from revit.common.models.grid import TokenGrid


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("old", "new"), [(8, 16), (16, 24), (16, 32), (5, 7)])
def test_enlarged_kernel_gives_enlarged_patches_the_old_embedding(old, new, seed):
    """FlexiViT's identity: <resize(patch), resized kernel> = <patch, kernel>."""
    generator = torch.Generator().manual_seed(seed)
    kernel = torch.randn(4, 3, old, old, generator=generator, dtype=torch.float64)
    patch = torch.randn(1, 3, old, old, generator=generator, dtype=torch.float64)
    larger = F.interpolate(patch, size=(new, new), mode="bilinear", align_corners=False)
    resized = resize_patch_kernel(kernel, (new, new))
    assert torch.allclose((larger * resized).sum((1, 2, 3)), (patch * kernel).sum((1, 2, 3)), atol=1e-9)


def test_shrunk_kernel_is_the_least_squares_solution():
    """No small change of the kernel fits resized unit images better."""
    kernel = torch.randn(1, 1, 8, 8, dtype=torch.float64)
    small = resize_patch_kernel(kernel, (5, 5))
    images = torch.eye(64, dtype=torch.float64).unflatten(1, (1, 8, 8))
    resized = F.interpolate(images, size=(5, 5), mode="bilinear", align_corners=False).flatten(1)
    normal_equations = resized.T @ (resized @ small.flatten() - kernel.flatten())
    assert normal_equations.abs().max() < 1e-10


def test_gradients_reach_the_stored_kernel():
    kernel = torch.randn(2, 3, 8, 8, requires_grad=True)
    resize_patch_kernel(kernel, (12, 12)).sum().backward()
    assert kernel.grad is not None
    assert kernel.grad.abs().sum() > 0


@pytest.mark.parametrize(("source", "target"), [((2, 2), (3, 3)), ((14, 14), (10, 10)), ((4, 6), (7, 5))])
def test_published_position_rules(source, target):
    """Both nearest rules against their index formulas, written out in numpy."""
    source, target = TokenGrid(*source), TokenGrid(*target)
    table = torch.arange(1.0 + source.num_positions).view(1, -1, 1)
    rows = np.arange(target.rows) * source.rows // target.rows
    cols = np.arange(target.cols) * source.cols // target.cols
    flat = np.arange(target.num_positions) * source.num_positions // target.num_positions
    expected = {"nearest": (rows[:, None] * source.cols + cols).ravel(), "nearest_flat": flat}
    for method, index in expected.items():
        resized = resize_positions(table, 1, source, target, method)
        assert resized.flatten().tolist() == [0, *(index + 1).tolist()]


def test_proper_position_resize_keeps_a_gradient_a_gradient():
    """A table that rises linearly still does after enlarging, away from the border."""
    source, target = TokenGrid(8, 8), TokenGrid(16, 16)
    rising = torch.arange(8.0).repeat_interleave(8).view(1, -1, 1)
    table = torch.cat([torch.full((1, 2, 1), 9.0), rising], dim=1)
    resized = resize_positions(table, 2, source, target, "bicubic")
    assert resized[0, :2].flatten().tolist() == [9.0, 9.0]
    steps = resized[0, 2:, 0].view(16, 16).diff(dim=0)[4:-4]
    assert torch.allclose(steps, torch.full_like(steps, 0.5), atol=1e-5)


def test_same_size_is_the_same_table():
    table = torch.randn(1, 5, 3)
    assert resize_positions(table, 1, TokenGrid(2, 2), TokenGrid(2, 2), "bicubic") is table
    assert resize_times(table, 5, "linear") is table


def test_time_tables():
    table = torch.tensor([0.0, 1.0, 2.0, 3.0]).view(1, 4, 1)
    assert resize_times(table, 8, "nearest").flatten().tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert resize_times(table, 6, "nearest").flatten().tolist() == [0, 0, 1, 2, 2, 3]
    inner = resize_times(table, 8, "linear").flatten()[1:-1]
    assert torch.allclose(inner.diff(), torch.full((5,), 0.5))


def test_unknown_rules_and_wrong_tables_are_named():
    with pytest.raises(ValueError, match="bilinear"):
        resize_positions(torch.zeros(1, 5, 1), 1, TokenGrid(2, 2), TokenGrid(3, 3), "bilinear")
    with pytest.raises(ValueError, match="6 rows"):
        resize_positions(torch.zeros(1, 6, 1), 1, TokenGrid(2, 2), TokenGrid(3, 3), "bicubic")
    with pytest.raises(ValueError, match="cubic"):
        resize_times(torch.zeros(1, 5, 1), 4, "cubic")
