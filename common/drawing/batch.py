"""A sheet of one training batch: its samples as the model gets them, and the tokens of the first at every grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from revit.common.drawing.layout import BLACK, GREY, beside, framed, stacked, written
from revit.common.drawing.sheet import FRAME_PIXELS, frames_shown, scale_of
from revit.common.drawing.tile import TokenCells, paint
from revit.common.models.grid import TokenGrid

MAX_CLIPS, MAX_PICTURES = 8, 32
"""Samples of a batch that are drawn."""
PER_LINE = 8
"""Pictures side by side."""
MAX_CAPTION = 48
"""Letters of a label or a name under a picture."""


@dataclass(frozen=True)
class Shown:
    """One sample."""

    labels: str
    name: str
    """File that it comes from."""
    pixels: NDArray[np.uint8]
    """RGB (H, W, 3), or frames (T, H, W, 3)."""


def draw_batch(title: str, samples: Sequence[Shown], grids: Sequence[TokenCells]) -> Image.Image:
    """Draw pictures in lines, of clips the frames of each in one line, and below them the first line once for each of
    `grids`, with the lines between tokens."""
    parts = [written(title, 20, BLACK, bold=True)]
    if samples[0].pixels.ndim == 3:
        tiles = [_picture(sample) for sample in samples]
        parts += [beside(tiles[start : start + PER_LINE]) for start in range(0, len(tiles), PER_LINE)]
    else:
        num = len(samples[0].pixels)
        if len(shown := frames_shown(num)) < num:
            parts.append(written(f"frames {', '.join(str(frame + 1) for frame in shown)} of {num}", 13, GREY))
        for sample in samples:
            parts += [written(f"{sample.labels}   ({sample.name})", 14, BLACK), _line(sample)]
    each, first = (" a frame", samples[:1]) if samples[0].pixels.ndim == 4 else ("", samples[:PER_LINE])
    for cells in grids:
        said = f"grid {cells.map}: {cells.map.num_positions} tokens{each} of {cells.patch[0]}x{cells.patch[1]} pixels"
        parts += [written(said, 14, GREY), beside([_line(sample, cells) for sample in first])]
    return framed(stacked(parts))


def _picture(sample: Shown) -> Image.Image:
    tile = _line(sample)
    lines = [(sample.labels[:MAX_CAPTION], BLACK), (sample.name[-MAX_CAPTION:], GREY)]
    return stacked([*(written(line, 12, colour, tile.width) for line, colour in lines), tile])


def _line(sample: Shown, cells: TokenCells | None = None) -> Image.Image:
    """Draw a picture, or a clip's frames beside each other, as one token where no cells are given."""
    pixels = sample.pixels if sample.pixels.ndim == 4 else sample.pixels[None]
    sides = (pixels.shape[1], pixels.shape[2])
    cells = cells or TokenCells(sides, TokenGrid(1, 1), sides)
    scale = scale_of(cells, FRAME_PIXELS)
    return beside([paint(pixels[frame], cells, None, scale) for frame in frames_shown(len(pixels))])
