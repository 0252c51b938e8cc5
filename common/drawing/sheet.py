"""A sheet of one input: what the answer was, and for each look at it the picture or the frames, stage after stage."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from revit.common.drawing.cells import TokenCells
from revit.common.drawing.layout import BLACK, GREY, beside, framed, stacked, written
from revit.common.drawing.tile import DROPPED, paint

PER_LINE = 4
"""Stages of a picture side by side."""
MAX_TITLE = 70
MAX_FRAMES = 16
"""Of a longer clip as many are drawn, evenly spaced."""
PICTURE_PIXELS, FRAME_PIXELS = (448, 512), (168, 224)
"""Height of a tile: enlarged to about the first by a whole number, made smaller beyond the second."""


@dataclass(frozen=True)
class Look:
    """One view of an input."""

    pixels: NDArray[np.uint8]
    """RGB as the model saw it, (H, W, 3), or frames (T, H, W, 3)."""
    cells: TokenCells
    trail: tuple[NDArray[np.int64], ...] = ()
    """What became of each position after every decision: (S,), or for frames that were decided about one by one (T, S)."""
    most: int = 0
    """Positions at the model's longest grid; 0: as many as these."""

    @property
    def num_positions(self) -> int:
        return self.cells.map.num_positions

    @property
    def num_left(self) -> float:
        """Tokens of the end, the mean where frames differ."""
        return _left(self.trail[-1]) if self.trail else self.num_positions

    def share(self, num: float) -> str:
        """Of the tokens at the longest grid."""
        return f"{num / max(self.most, self.num_positions):.0%}".replace("%", " %")


def draw_sheet(title: str, looks: Sequence[Look]) -> Image.Image:
    """The title, then each look: of a picture the stages side by side, of a clip one line of frames for each stage."""
    short = textwrap.shorten(title, MAX_TITLE, placeholder=" ...")
    parts: list[Image.Image] = [written(short, 20, BLACK, bold=True)]
    for number, look in enumerate(looks):
        parts.append(written(_spent(look, number, len(looks)), 14, GREY))
        parts += _picture(look) if look.pixels.ndim == 3 else _clip(look)
    return framed(stacked(parts))


def _spent(look: Look, number: int, of: int) -> str:
    view = f"view {number + 1} of {of}: " if of > 1 else ""
    each = " a frame" if look.pixels.ndim == 4 else ""
    most = max(look.most, look.num_positions)
    left = f"{look.num_left:.4g}"
    return f"{view}grid {look.cells.map}, {left} of {most} tokens{each} ({look.share(look.num_left)})"


def _stages(look: Look) -> Iterator[tuple[str, NDArray[np.int64] | None]]:
    """Heading and fates, the input first."""
    yield f"input: {look.num_positions} tokens" if look.trail else "", None
    before = float(look.num_positions)
    for number, fates in enumerate(look.trail, start=1):
        left = _left(fates)
        dropped = float((fates == DROPPED).sum(-1).mean())
        merged = look.num_positions - dropped - left
        gone = [f"{count:.4g} {what}" for count, what in ((dropped, "dropped"), (merged, "merged")) if count]
        name = "after reduction" if len(look.trail) == 1 else f"stage {number}"
        said = ", ".join([f"{left:.4g} tokens ({look.share(left)})", *gone]) if left != before or gone else ""
        yield f"{name}: {said or 'all tokens'}", fates
        before = left


def _left(fates: NDArray[np.int64]) -> float:
    return float((fates == np.arange(fates.shape[-1])).sum(-1).mean())


def _picture(look: Look) -> list[Image.Image]:
    scale = scale_of(look.cells, PICTURE_PIXELS)
    tiles = []
    for heading, fates in _stages(look):
        tile = paint(look.pixels, look.cells, _of_frame(fates, 0), scale)
        tiles.append(stacked([written(heading, 13, GREY, tile.width), tile] if heading else [tile]))
    lines = [tiles[start : start + PER_LINE] for start in range(0, len(tiles), PER_LINE)]
    return [beside(line) for line in lines]


def _clip(look: Look) -> list[Image.Image]:
    scale = scale_of(look.cells, FRAME_PIXELS)
    num = len(look.pixels)
    shown = frames_shown(num)
    parts = []
    if len(shown) < num:
        parts.append(written(f"frames {', '.join(str(frame + 1) for frame in shown)} of {num}", 13, GREY))
    for heading, fates in _stages(look):
        if heading:
            parts.append(written(heading, 13, GREY))
        tiles = [paint(look.pixels[frame], look.cells, _of_frame(fates, frame), scale) for frame in shown]
        parts.append(beside(tiles))
    return parts


def frames_shown(num: int) -> list[int]:
    """Return which of so many frames are drawn."""
    return sorted(set(np.linspace(0, num - 1, min(num, MAX_FRAMES)).round().astype(int).tolist()))


def _of_frame(fates: NDArray[np.int64] | None, frame: int) -> NDArray[np.int64] | None:
    return fates if fates is None or fates.ndim == 1 else fates[frame % len(fates)]


def scale_of(cells: TokenCells, pixels: tuple[int, int]) -> float:
    """Return how many times as large a tile is drawn that is to be so many pixels high, and at most so many."""
    top, _, bottom, _ = cells.extent
    wanted, limit = pixels
    height = bottom - top
    if height > limit:
        return limit / height
    times = round(wanted / height)
    return max(1, times if times * height <= limit else times - 1)
