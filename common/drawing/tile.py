"""One picture with its tokens: where they lie, grid lines, dropped tokens dark, merged ones as one area of their mean colour.

The manner is ToMe's ("Token Merging: Your ViT But Faster", its visualisations): a group is filled with the mean of its
pixels and outlined in a colour of its own, so that parts of it which lie apart are recognised. Here tokens that stand for
themselves keep their pixels.
"""

from __future__ import annotations

import colorsys
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from revit.common.models.embed.patches import PatchEmbed, Sides
from revit.common.models.grid import TokenGrid

Pixels = NDArray[np.uint8]
Numbers = NDArray[np.int64]

PADDING = 225
"""Grey level of what a token sees beyond the picture."""
DARK = 0.22
"""Share that is left of a dropped token's light."""
PALE = 0.7
"""Share of white mixed into pixels that no token sees."""
NARROW = 20
"""Width of a cell in pixels of the drawing beyond which outlines have two pixels."""
LINE = 0.5
"""Share by which grid lines differ from what they cross."""
NOBODY, DROPPED = -2, -1


@dataclass(frozen=True)
class TokenCells:
    """Equal cells in rows and columns, one for each position, in pixels of the picture."""

    sides: Sides
    """Height and width of the picture."""
    map: TokenGrid
    """Rows and columns of cells."""
    patch: Sides
    """Height and width of a cell."""
    origin: Sides = (0, 0)
    """Distance by which the first cell begins above and left of the picture."""

    @property
    def extent(self) -> tuple[int, int, int, int]:
        """Top, left, bottom, right of the picture and all cells together; above and left of the picture it is negative."""
        top, left = self.origin
        bottom = max(self.sides[0], self.map.rows * self.patch[0] - top)
        right = max(self.sides[1], self.map.cols * self.patch[1] - left)
        return -top, -left, bottom, right

    def positions(self, y: NDArray[np.floating], x: NDArray[np.floating]) -> NDArray[np.int64]:
        """Find the position that holds each point: y (h,) and x (w,) in pixels -> (h, w), -1 where no token looks."""
        row = np.floor((y + self.origin[0]) / self.patch[0]).astype(np.int64)
        col = np.floor((x + self.origin[1]) / self.patch[1]).astype(np.int64)
        rows, cols = self.map.rows, self.map.cols
        found = row[:, None] * cols + col[None, :]
        inside = ((row >= 0) & (row < rows))[:, None] & ((col >= 0) & (col < cols))[None, :]
        return np.where(inside, found, -1)


def cells_of(model: nn.Module, grid: TokenGrid, sides: Sides) -> TokenCells:
    """Return the cells of pictures of `sides` pixels at one of the model's grids.

    Its patch embedding says where they lie; the cells of one that does not are spread evenly over the picture.
    """
    embed = getattr(model, "patch_embed", None)
    if isinstance(embed, PatchEmbed):
        return TokenCells(sides, embed.map_of(sides, grid), embed.patch_at(sides, grid), embed.origin(sides, grid))
    return TokenCells(sides, grid, (math.ceil(sides[0] / grid.rows), math.ceil(sides[1] / grid.cols)))


def paint(picture: Pixels, cells: TokenCells, fates: Numbers | None, scale: float) -> Image.Image:
    """Draw uint8 RGB (H, W, 3) as the model sees it, `scale` times as large, padding included.

    fates (S,): the position that stands for each, as in `revit.common.models.base.Reduction`; None: nothing was reduced.
    """
    top, left, bottom, right = cells.extent
    height, width = round((bottom - top) * scale), round((right - left) * scale)
    y = (np.arange(height) + 0.5) / scale + top
    x = (np.arange(width) + 0.5) / scale + left
    position = cells.positions(y, x)
    inside = ((y >= 0) & (y < cells.sides[0]))[:, None] & ((x >= 0) & (x < cells.sides[1]))[None, :]
    colours: NDArray[np.floating] = np.full((height, width, 3), float(PADDING))
    colours[inside] = _resized(picture, int(inside.any(1).sum()), int(inside.any(0).sum())).reshape(-1, 3)

    if fates is None:
        fates = np.arange(cells.map.num_positions)
    if len(fates) != cells.map.num_positions:
        raise ValueError(f"fates of {len(fates)} positions, but the picture has {cells.map.num_positions}")
    stands = np.where(position < 0, NOBODY, fates[position])  # whose token holds each pixel
    num, sizes = len(fates), np.bincount(fates[fates >= 0], minlength=len(fates))
    merged = (stands >= 0) & (sizes[np.maximum(stands, 0)] > 1)
    seen = merged & inside
    count = np.bincount(stands[seen], minlength=num)
    means = np.stack([np.bincount(stands[seen], colours[seen][:, c], num) / np.maximum(count, 1) for c in range(3)], 1)
    means[count == 0] = PADDING
    colours[merged] = means[stands[merged]]
    colours[stands == DROPPED] *= DARK
    colours[stands == NOBODY] += PALE * (255 - colours[stands == NOBODY])
    # Grid lines: lighter than a dark cell, darker than a light one; the right and lower side too where a neighbour is gone.
    border = _border(stands, 1, both_sides=False) | _border((stands >= 0).astype(np.int64), 1)
    line = border & ~merged & (stands >= 0)
    light = np.bincount(stands[line], colours[line].mean(1), num) / np.maximum(np.bincount(stands[line], None, num), 1)
    colours[line] += LINE * (np.where(light > 127, 0, 255)[stands[line]][:, None] - colours[line])
    rim = merged & _border(stands, 1 if min(cells.patch) * scale < NARROW else 2)
    colours[rim] = np.array([_colour(number) for number in range(num)])[stands[rim]]
    return Image.fromarray(np.rint(np.clip(colours, 0, 255)).astype(np.uint8))


def _resized(picture: Pixels, height: int, width: int) -> NDArray[np.floating]:
    # Enlarged pixels stay squares: they are what the model sees.
    how = Image.Resampling.NEAREST if height >= picture.shape[0] else Image.Resampling.BOX
    return np.asarray(Image.fromarray(picture).resize((width, height), how), dtype=np.float64)


def _border(area: Numbers, depth: int, both_sides: bool = True) -> NDArray[np.bool_]:
    """Find pixels within `depth` of another area or of the edge: on both sides of a border, or below and right of it."""
    found = np.zeros(area.shape, dtype=bool)
    for axis in (0, 1):
        for step in range(1, depth + 1):
            for turned in (1, -1) if both_sides else (1,):
                lines = np.moveaxis(area, axis, 0)[::turned]
                differs = np.ones(lines.shape, dtype=bool)
                differs[step:] = lines[step:] != lines[:-step]
                found |= np.moveaxis(differs[::turned], 0, axis)
    found[-depth:], found[:, -depth:] = True, True  # a grid has a last line too
    return found


def _colour(number: int) -> tuple[float, float, float]:
    """Return a bright colour, unlike those of the numbers next to it."""
    red, green, blue = colorsys.hsv_to_rgb(number * 0.61803 % 1, 0.9, 1.0)
    return 255 * red, 255 * green, 255 * blue
