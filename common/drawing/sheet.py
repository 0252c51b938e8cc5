"""A sheet of one input: the answer, and for each look at the input the picture or the frames, stage after stage."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from revit.common.drawing.layout import BLACK, GREY, beside, framed, stacked, written
from revit.common.drawing.tile import DROPPED, TokenCells, cells_of, paint
from revit.common.models.base import Reduction
from revit.common.models.grid import TokenGrid

PER_LINE = 4
"""Number of a picture's stages side by side."""
MAX_TITLE = 70
MAX_FRAMES = 16
"""Number of frames that are drawn of a longer clip, evenly spaced."""
PICTURE_PIXELS, FRAME_PIXELS = (448, 512), (168, 224)
"""Height of a tile: enlarged to about the first by a whole number, made smaller beyond the second."""


@dataclass(frozen=True)
class Look:
    """One view of an input."""

    pixels: NDArray[np.uint8]
    """Pixels as the model saw them, RGB (H, W, 3), or frames (T, H, W, 3)."""
    cells: TokenCells
    trail: tuple[NDArray[np.int64], ...] = ()
    """Fate of each position after every decision: (S,), or for frames that were decided about one by one (T, S)."""
    most: int = 0
    """Number of positions at the model's longest grid; 0: as many as these."""

    @property
    def num_positions(self) -> int:
        return self.cells.map.num_positions

    @property
    def num_left(self) -> float:
        """Number of tokens at the end, the mean where frames differ."""
        return _left(self.trail[-1]) if self.trail else self.num_positions

    def share(self, num: float) -> str:
        """Write the share of the tokens at the longest grid."""
        return f"{num / max(self.most, self.num_positions):.0%}".replace("%", " %")


def looks_of(
    model: nn.Module, views: Tensor, grids: Sequence[TokenGrid], reductions: Sequence[Reduction | None]
) -> list[Look]:
    """Make a look of each of the uint8 views (V, C, H, W) or (V, C, T, H, W) as the model saw them, before they were
    normalised; `grids` and `reductions`, what a reducer did, are those of the views."""
    sides = (views.shape[-2], views.shape[-1])
    longest: TokenGrid = model.grids[0]  # type: ignore[assignment, index]
    most = cells_of(model, longest, sides).map.num_positions
    looks = []
    for view, grid, reduction in zip(views, grids, reductions):
        pixels = np.ascontiguousarray(view.movedim(0, -1).expand(*view.shape[1:], 3).cpu().numpy())
        trail = () if reduction is None else tuple(one.cpu().numpy() for one in reduction.token_source_maps)
        # One row of fates is for the whole input; several are one for each frame.
        trail = tuple(fates[0] if len(fates) == 1 else fates for fates in trail)
        looks.append(Look(pixels, cells_of(model, grid, sides), trail, most))
    return looks


def draw_sheet(title: str, looks: Sequence[Look]) -> Image.Image:
    """Draw the title, then each look: of a picture the stages side by side, of a clip one line of frames for each stage."""
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
    share = look.share(look.num_left)
    return f"{view}grid {look.cells.map}, {look.num_left:.4g} of {most} tokens{each} ({share})"


def _stages(look: Look) -> Iterator[tuple[str, NDArray[np.int64] | None]]:
    """Yield heading and fates, the input first."""
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
