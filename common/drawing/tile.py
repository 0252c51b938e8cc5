"""One picture with its tokens: grid lines, dropped tokens dark, merged ones as one area of their mean colour.

The manner is ToMe's ("Token Merging: Your ViT But Faster", its visualisations): a group is filled with the mean of its
pixels and outlined in a colour of its own, so that parts of it which lie apart are recognised. Here tokens that stand for
themselves keep their pixels.
"""

from __future__ import annotations

import colorsys

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from revit.common.drawing.cells import TokenCells

Pixels = NDArray[np.uint8]
Numbers = NDArray[np.int64]

PADDING = 225
"""Grey of what a token sees beyond the picture."""
DARK = 0.22
"""What is left of a dropped token's light."""
PALE = 0.7
"""White mixed into pixels that no token sees."""
NARROW = 20
"""Pixels of the drawing; wider cells get outlines of two pixels."""
LINE = 0.5
"""How strongly grid lines differ from what they cross."""
NOBODY, DROPPED = -2, -1


def paint(picture: Pixels, cells: TokenCells, fates: Numbers | None, scale: float) -> Image.Image:
    """uint8 RGB (H, W, 3) as the model sees it -> the drawing, `scale` times as large, padding included.

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
    sizes = np.bincount(fates[fates >= 0], minlength=len(fates))
    thick = 1 if min(cells.patch) * scale < NARROW else 2
    colours = _fill(colours, stands, sizes, inside, thick)
    return Image.fromarray(np.rint(np.clip(colours, 0, 255)).astype(np.uint8))


def _resized(picture: Pixels, height: int, width: int) -> NDArray[np.floating]:
    # Enlarged pixels stay squares: they are what the model sees.
    how = Image.Resampling.NEAREST if height >= picture.shape[0] else Image.Resampling.BOX
    return np.asarray(Image.fromarray(picture).resize((width, height), how), dtype=np.float64)


def _fill(
    colours: NDArray[np.floating], stands: Numbers, sizes: Numbers, inside: NDArray[np.bool_], thick: int
) -> NDArray[np.floating]:
    num = len(sizes)
    merged = (stands >= 0) & (sizes[np.maximum(stands, 0)] > 1)
    seen = merged & inside
    count = np.bincount(stands[seen], minlength=num)
    means = np.stack([np.bincount(stands[seen], colours[seen][:, c], num) / np.maximum(count, 1) for c in range(3)], 1)
    means[count == 0] = PADDING
    # The right and lower side too where a token's neighbour is gone.
    border = _border(stands, 1, both_sides=False) | _border((stands >= 0).astype(np.int64), 1)
    out = colours.copy()
    out[merged] = means[stands[merged]]
    out[stands == DROPPED] *= DARK
    out[stands == NOBODY] += PALE * (255 - out[stands == NOBODY])
    # Grid lines: lighter than a dark cell, darker than a light one.
    line = border & ~merged & (stands >= 0)
    light = np.bincount(stands[line], out[line].mean(1), num) / np.maximum(np.bincount(stands[line], None, num), 1)
    out[line] += LINE * (np.where(light > 127, 0, 255)[stands[line]][:, None] - out[line])
    rim = merged & _border(stands, thick)
    out[rim] = np.array([_colour(number) for number in range(num)])[stands[rim]]
    return out


def _border(area: Numbers, depth: int, both_sides: bool = True) -> NDArray[np.bool_]:
    """Pixels within `depth` of another area or of the edge; one side of a border has them, above or left of which the other
    area lies, or both."""
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
    """Bright, and unlike those of the numbers next to it."""
    red, green, blue = colorsys.hsv_to_rgb(number * 0.61803 % 1, 0.9, 1.0)
    return 255 * red, 255 * green, 255 * blue
