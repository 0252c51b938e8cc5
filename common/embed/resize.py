"""Resizing what was learned at one size: patch kernels, position tables, time tables. Pure functions."""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from revit.common.tokens.grid import TokenGrid

POSITION_METHODS = ("bicubic", "nearest", "nearest_flat")
TIME_METHODS = ("linear", "nearest")


@lru_cache(maxsize=64)
def _kernel_factor(old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """(new * new, old * old) float64: pinv(B^T), where column j of B is the resized j-th unit image."""
    unit_images = torch.eye(old[0] * old[1], dtype=torch.float64).unflatten(1, (1, *old))
    resized = F.interpolate(unit_images, size=new, mode="bilinear", align_corners=False, antialias=False)
    return torch.linalg.pinv(resized.flatten(1))


def resize_patch_kernel(kernel: Tensor, size: tuple[int, int]) -> Tensor:
    """Pseudo-inverse resize of a patch kernel, (D, C, h, w) -> (D, C, *size) (FlexiViT section 3.4, "PI-resize").

    Enlarging is exact: the product of a resized patch with the new kernel equals that of the patch with the old
    one. Shrinking is the least-squares solution for white-noise patches. The resize behind it is bilinear with
    half-pixel centres and no antialiasing, as in the authors' code. Gradients reach `kernel`.
    """
    old = (kernel.shape[-2], kernel.shape[-1])
    if old == tuple(size):
        return kernel
    factor = _kernel_factor(old, tuple(size)).to(kernel.device)
    return (kernel.flatten(-2).double() @ factor.T).to(kernel.dtype).unflatten(-1, tuple(size))


def resize_positions(
    table: Tensor, num_prefix: int, source: TokenGrid, target: TokenGrid, method: str
) -> Tensor:
    """Resize a position table, (1, P + source, D) -> (1, P + target, D); the P prefix rows are kept.

    Methods: "bicubic" (two-dimensional, antialiased when shrinking; the default everywhere), and two rules of the
    published TimeSformer for parity: "nearest" (two-dimensional, its rule at run time; not applied when only the
    shape changes and the count does not) and "nearest_flat" (target patch i takes source patch floor(i * N / N')
    of the flattened table, its rule at load time, which scrambles the layout). Raises ValueError for another method or a table that does not match `source`.
    """
    if method not in POSITION_METHODS:
        raise ValueError(
            f"position resizing {method!r} is unknown; choose from {', '.join(POSITION_METHODS)}"
        )
    if table.shape[1] != num_prefix + source.num_positions:
        raise ValueError(
            f"a position table of {table.shape[1]} rows is not {num_prefix} prefix rows and a {source} grid"
        )
    same_count = source.num_positions == target.num_positions
    if source == target or (same_count and method.startswith("nearest")):
        return table
    prefix, patches = table[:, :num_prefix], table[:, num_prefix:]
    if method == "nearest_flat":
        patches = _nearest(patches, target.num_positions)
    else:
        as_map = patches.transpose(1, 2).unflatten(2, (source.rows, source.cols)).float()
        how = {"mode": "nearest"} if method == "nearest" else {"mode": "bicubic", "antialias": True}
        resized = F.interpolate(as_map, size=(target.rows, target.cols), **how)
        patches = resized.flatten(2).transpose(1, 2).to(table.dtype)
    return torch.cat([prefix, patches], dim=1)


def resize_times(table: Tensor, num_frames: int, method: str) -> Tensor:
    """Resize a time table, (1, T, D) -> (1, num_frames, D): "linear", or "nearest" as published."""
    if method not in TIME_METHODS:
        raise ValueError(f"time resizing {method!r} is unknown; choose from {', '.join(TIME_METHODS)}")
    if table.shape[1] == num_frames:
        return table
    if method == "nearest":
        return _nearest(table, num_frames)
    resized = F.interpolate(
        table.transpose(1, 2).float(), size=num_frames, mode="linear", align_corners=False
    )
    return resized.transpose(1, 2).to(table.dtype)


def _nearest(rows: Tensor, count: int) -> Tensor:
    """(1, N, D) -> (1, count, D), row i taken from floor(i * N / count), rounded in float32 as published."""
    numbers = torch.arange(rows.shape[1], dtype=torch.float32)
    taken = F.interpolate(numbers.view(1, 1, -1), size=count, mode="nearest").flatten().long()
    return rows[:, taken.to(rows.device)]
