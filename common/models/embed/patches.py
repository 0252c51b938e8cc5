"""How picture, patch and token grid are made to fit: decided here and nowhere else.

A grid need not divide the picture (10 x 10 at 224 pixels): the patch is then the next multiple of 8 pixels (24) and the
picture is padded with zeros on both sides (8 pixels each, 240 / 24 = 10); where that multiple gives another grid
(20 x 20 at 448), the next whole number of pixels (23). At another picture size than the nominal one the patch stays and
the map grows or shrinks; what does not fill a patch is padded, never cut off (the published models cut:
`remainder="cut"`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from revit.common.models.grid import TokenGrid

Sides = tuple[int, int]
"""Height and width."""
Remainder = Literal["pad", "cut"]


def sides_of(img_size: int | Sides) -> Sides:
    """Return height and width of a side, or of height and width."""
    return (img_size, img_size) if isinstance(img_size, int) else (img_size[0], img_size[1])


def patch_of(img_size: int | Sides, grid: TokenGrid) -> Sides:
    """Return patch height and width in pixels with which pictures of `img_size` give `grid`. Raise ValueError where no patch does."""

    def side(pixels: int, tokens: int) -> int:
        if pixels % tokens == 0:
            return pixels // tokens
        smallest = math.ceil(pixels / tokens)
        for patch in (8 * math.ceil(smallest / 8), smallest):
            if math.ceil(pixels / patch) == tokens:
                return patch
        nearest = math.ceil(pixels / smallest)
        raise ValueError(
            f"no patch cuts {pixels} pixels into {tokens} tokens: {smallest} pixels give {nearest}; "
            f"choose {nearest} or another img_size"
        )

    height, width = sides_of(img_size)
    return side(height, grid.rows), side(width, grid.cols)


def pad_to_patches(images: Tensor, patch: Sides) -> Tensor:
    """Pad (B, C, H, W) with zeros on both sides until the patch divides it."""
    missing = [-size % side for size, side in zip(images.shape[-2:], patch)]
    if not any(missing):
        return images
    top, left = (pixels // 2 for pixels in missing)
    return F.pad(images, (left, missing[1] - left, top, missing[0] - top))


class PatchEmbed(nn.Module):
    """Turns pictures (B, C, H, W) into the map (B, D, rows, cols) of each of a model's grids."""

    patches: dict[str, Sides]
    """Pixels per token, by the grid's name."""
    remainder: Remainder = "pad"

    def check_grid(self, grid: TokenGrid) -> None:
        """Raise KeyError for a grid that pictures of the model's own size cannot be cut into."""
        if grid.name not in self.patches:
            raise KeyError(f"this model was not made for grid {grid}; it runs at {', '.join(self.patches)}")

    def map_of(self, sides: Sides, grid: TokenGrid) -> TokenGrid:
        """Return the map that pictures of `sides` pixels give at `grid`: `grid` itself at the model's own size."""
        fit = math.floor if self.remainder == "cut" else math.ceil
        rows, cols = (fit(size / patch) for size, patch in zip(sides, self.patches[grid.name]))
        return TokenGrid(rows, cols)

    def patch_at(self, sides: Sides, grid: TokenGrid) -> Sides:
        """Return the pixels per token in pictures of `sides` pixels."""
        return self.patches[grid.name]

    def origin(self, sides: Sides, grid: TokenGrid) -> Sides:
        """Return how many pixels above and left of a picture of `sides` its first token begins, where it is padded."""
        if self.remainder == "cut":
            return (0, 0)
        top, left = (-size % patch // 2 for size, patch in zip(sides, self.patches[grid.name]))
        return (top, left)

    def start_short_grids(self) -> None:
        """Start the shorter grids' parts from the longest one's, where the two are of one kind."""


def re_tokenized(kernel: int, stride: int, times: int) -> tuple[int, int, int]:
    """Return dilation, and zeros before and behind, with which a kernel made for `stride` runs at `times` that stride.

    Dilation as in As-ViT's footnote 3. The paper gives no padding: in all max(0, dilation * (K - 1) + 1 - new stride), the
    smaller half in front, which at `times` 1 is the published stem's own and gives maps of exactly picture / stride.
    """
    dilation = round((times - 1) * kernel / (kernel - 1)) + 1 if kernel > 1 else 1
    total = max(0, dilation * (kernel - 1) + 1 - times * stride)
    return dilation, total // 2, total - total // 2


def strided_convolution(images: Tensor, conv: nn.Conv2d, times: int) -> Tensor:
    """Embed (B, C, H, W) -> (B, D, ceil(H / (times * stride)), ceil(W / ...)) at `times` the convolution's own stride.

    What fills no stride at the right and lower border gets zeros.
    """
    (down, top, bottom), (across, left, right) = (
        re_tokenized(kernel, stride, times) for kernel, stride in zip(conv.kernel_size, conv.stride)
    )
    steps = (times * conv.stride[0], times * conv.stride[1])
    rest = [-side % step for side, step in zip(images.shape[-2:], steps)]
    images = F.pad(images, (left, right + rest[1], top, bottom + rest[0]))
    return F.conv2d(images, conv.weight, conv.bias, stride=steps, dilation=(down, across))


class ReTokenizing(nn.Module):
    """A patch embedding that can be told to make fewer tokens while it trains. In evaluation it makes all of them."""

    coarser: int = 1
    """Factor of its own stride, per side."""
    in_evaluation: bool = False
    """Makes fewer tokens in evaluation as well: to count what they cost."""

    @property
    def times(self) -> int:
        """Factor of the stride as it is now."""
        return self.coarser if self.training or self.in_evaluation else 1

    @contextmanager
    def held_at(self, coarser: int) -> Iterator[None]:
        """Make it so much coarser inside, in training and in evaluation."""
        before = self.coarser, self.in_evaluation
        self.coarser, self.in_evaluation = coarser, True
        try:
            yield
        finally:
            self.coarser, self.in_evaluation = before


POSITION_METHODS = ("bicubic", "linear", "corners", "nearest", "nearest_flat")
TIME_METHODS = ("linear", "nearest")


def resize_patch_kernel(
    kernel: Tensor, size: tuple[int, int], mode: str = "bilinear", antialias: bool = False
) -> Tensor:
    """Resize a patch kernel by pseudo-inverse, (D, C, h, w) -> (D, C, *size) (FlexiViT section 3.4, "PI-resize").

    Enlarging is exact: the product of a resized patch with the new kernel equals that of the patch with the old
    one. Shrinking is the least-squares solution for white-noise patches. The resize behind it is bilinear with
    half-pixel centres and no antialiasing, as in the authors' code; `mode` "bicubic" and `antialias` are other
    programs' rules (timm's default is both), which differ by as much as the weights themselves. Gradients reach `kernel`.

    The paper's factor is the Kronecker product of one for rows and one for columns; applying those one after the other
    takes about a tenth of the operations. Computed in float32, or in the kernel's float64.
    """
    old = (kernel.shape[-2], kernel.shape[-1])
    if old == tuple(size):
        return kernel
    dtype = torch.float64 if kernel.dtype == torch.float64 else torch.float32
    rows, cols = _factors(kernel, size, mode, antialias, dtype)
    with torch.autocast(kernel.device.type, enabled=False):
        wide = kernel.to(dtype) @ cols.T  # (D, C, h, w')
        return (rows @ wide).to(kernel.dtype)  # (D, C, h', w')


@torch.compiler.disable  # a compiled model would compute the pseudo-inverses in every pass
def _factors(kernel: Tensor, size: tuple[int, int], mode: str, antialias: bool, dtype: torch.dtype) -> list[Tensor]:
    pairs = zip(kernel.shape[-2:], size)
    return [_pseudo_inverse(*pair, mode, antialias, kernel.device, dtype) for pair in pairs]


@lru_cache(maxsize=128)
def _pseudo_inverse(old: int, new: int, mode: str, antialias: bool, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Compute (new, old): pinv(B^T) in float64, then as `dtype`; column j of B is the j-th of `old` unit vectors, resized."""
    # Made in a forward pass under whatever mode, kept for all later ones: also for those that need gradients.
    with torch.inference_mode(False), torch.no_grad():
        unit_vectors = torch.eye(old, dtype=torch.float64, device="cpu").view(old, 1, 1, old)
        resized = _resized(unit_vectors, (1, new), mode=mode, antialias=antialias)
        return torch.linalg.pinv(resized.flatten(1)).to(device, dtype)


def resize_positions(table: Tensor, num_prefix: int, source: TokenGrid, target: TokenGrid, method: str) -> Tensor:
    """Resize a position table, (1, P + source, D) -> (1, P + target, D); the P prefix rows are kept.

    Methods:
    - "bicubic": two-dimensional, antialiased when shrinking; the default of models with a table per grid.
    - "linear": the same bilinear; FlexiViT's on the fly (jax's "linear", which antialiases too).
    - "corners": bilinear between aligned corners; FlexiViT's for a teacher's table at the start (scipy's zoom of order 1).
    - "nearest" (published TimeSformer at run time, for parity): two-dimensional; not applied when only the shape
      changes and the count does not.
    - "nearest_flat" (published TimeSformer at load time, for parity): target patch i takes source patch
      floor(i * N / N') of the flattened table, which scrambles the layout.

    Raise ValueError for another method or a table that does not match `source`.
    """
    if method not in POSITION_METHODS:
        raise ValueError(f"position resizing {method!r} is unknown; choose from {', '.join(POSITION_METHODS)}")
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
        resized = _resized(as_map, (target.rows, target.cols), **_MAPS[method])
        patches = resized.flatten(2).transpose(1, 2).to(table.dtype)
    return torch.cat([prefix, patches], dim=1)


def undo_position_resize(table: Tensor, source: TokenGrid, target: TokenGrid) -> Tensor:
    """Find the table (1, target, D) whose "linear" resize comes nearest to `table`, (1, source, D), by least squares.

    Exact for a table that was made by enlarging one of `target`, as those of converted FlexiViT files are.
    """
    rows = _linear(target.rows, source.rows).to(table.device)
    cols = _linear(target.cols, source.cols).to(table.device)
    as_map = table.transpose(1, 2).unflatten(2, (source.rows, source.cols)).double()
    fitted = torch.linalg.pinv(rows) @ as_map @ torch.linalg.pinv(cols).T
    return fitted.flatten(2).transpose(1, 2).to(table.dtype)


def _linear(old: int, new: int) -> Tensor:
    """Compute (new, old) float64: what "linear" does along one axis."""
    unit_vectors = torch.eye(old, dtype=torch.float64).view(old, 1, 1, old)
    return _resized(unit_vectors, (1, new), **_MAPS["linear"]).flatten(1).T


def _resized(maps: Tensor, size: tuple[int, int], **how: Any) -> Tensor:
    """Resize (B, C, h, w) -> (B, C, *size)."""
    # Antialiased resizing in torch 2.15 answers nonsense for maps of a single column.
    if maps.shape[-1] > 1:
        return F.interpolate(maps, size=size, **how)
    turned = F.interpolate(maps.transpose(2, 3).contiguous(), size=(size[1], size[0]), **how)
    return turned.transpose(2, 3)


_MAPS: dict[str, dict[str, Any]] = {
    "bicubic": {"mode": "bicubic", "antialias": True},
    "linear": {"mode": "bilinear", "antialias": True},
    "corners": {"mode": "bilinear", "align_corners": True},
    "nearest": {"mode": "nearest"},
}


def resize_times(table: Tensor, num_frames: int, method: str) -> Tensor:
    """Resize a time table, (1, T, D) -> (1, num_frames, D): "linear", or "nearest" as published."""
    if method not in TIME_METHODS:
        raise ValueError(f"time resizing {method!r} is unknown; choose from {', '.join(TIME_METHODS)}")
    if table.shape[1] == num_frames:
        return table
    if method == "nearest":
        return _nearest(table, num_frames)
    resized = F.interpolate(table.transpose(1, 2).float(), size=num_frames, mode="linear", align_corners=False)
    return resized.transpose(1, 2).to(table.dtype)


def _nearest(rows: Tensor, count: int) -> Tensor:
    """Pick rows, (1, N, D) -> (1, count, D): row i is floor(i * N / count), rounded in float32 as published."""
    numbers = torch.arange(rows.shape[1], dtype=torch.float32)
    taken = F.interpolate(numbers.view(1, 1, -1), size=count, mode="nearest").flatten().long()
    return rows[:, taken.to(rows.device)]
