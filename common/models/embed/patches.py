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
from typing import Literal

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
