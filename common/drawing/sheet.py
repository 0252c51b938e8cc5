"""A sheet of one input: the answer, and for each look at the input the picture or the frames, stage after stage."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, ImageOps
from torch import Tensor, nn

from revit.common.drawing.tile import DROPPED, TokenCells, cells_of, paint
from revit.common.models.base import Reduction
from revit.common.models.grid import TokenGrid

MARGIN, GAP = 12, 6
BLACK, GREY = (20, 20, 20), (95, 95, 95)
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
    parts: list[Image.Image] = [_text(short, 20, BLACK, bold=True)]
    for number, look in enumerate(looks):
        parts.append(_text(_spent(look, number, len(looks)), 14, GREY))
        parts += _picture(look) if look.pixels.ndim == 3 else _clip(look)
    return ImageOps.expand(_joined(parts, stacked=True), MARGIN, "white")


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
    scale = _scale(look.cells, PICTURE_PIXELS)
    tiles = []
    for heading, fates in _stages(look):
        tile = paint(look.pixels, look.cells, _of_frame(fates, 0), scale)
        tiles.append(_joined([_text(heading, 13, GREY, tile.width), tile], stacked=True) if heading else tile)
    return [_joined(tiles[start : start + PER_LINE]) for start in range(0, len(tiles), PER_LINE)]


def _clip(look: Look) -> list[Image.Image]:
    scale = _scale(look.cells, FRAME_PIXELS)
    num = len(look.pixels)
    shown = np.unique(np.linspace(0, num - 1, min(num, MAX_FRAMES)).round().astype(int))
    parts = []
    if len(shown) < num:
        parts.append(_text(f"frames {', '.join(str(frame + 1) for frame in shown)} of {num}", 13, GREY))
    for heading, fates in _stages(look):
        if heading:
            parts.append(_text(heading, 13, GREY))
        tiles = [paint(look.pixels[frame], look.cells, _of_frame(fates, int(frame)), scale) for frame in shown]
        parts.append(_joined(tiles))
    return parts


def _of_frame(fates: NDArray[np.int64] | None, frame: int) -> NDArray[np.int64] | None:
    return fates if fates is None or fates.ndim == 1 else fates[frame % len(fates)]


def _scale(cells: TokenCells, pixels: tuple[int, int]) -> float:
    top, _, bottom, _ = cells.extent
    wanted, limit = pixels
    height = bottom - top
    if height > limit:
        return limit / height
    times = round(wanted / height)
    return max(1, times if times * height <= limit else times - 1)


def _joined(parts: Sequence[Image.Image], stacked: bool = False) -> Image.Image:
    """Put pictures side by side, or one below the other, on white."""
    widths, heights = [part.width for part in parts], [part.height for part in parts]
    gaps = GAP * len(parts) - GAP
    size = (max(widths), sum(heights) + gaps) if stacked else (sum(widths) + gaps, max(heights))
    sheet, place = Image.new("RGB", size, "white"), 0
    for part in parts:
        sheet.paste(part, (0, place) if stacked else (place, 0))
        place += GAP + (part.height if stacked else part.width)
    return sheet


def _text(text: str, size: int, colour: tuple[int, int, int], width: int = 0, bold: bool = False) -> Image.Image:
    """Draw one line as a picture; smaller letters where `width` is too narrow for it."""
    asked, font = size, _font(size, bold)
    while width and font.getlength(text) > width and size > 8:
        size -= 1
        font = _font(size, bold)
    ascent, descent = font.getmetrics()
    height = max(ascent + descent, round(1.2 * asked))  # the same for smaller letters
    line = Image.new("RGB", (max(1, round(font.getlength(text)) + 1), height), "white")
    ImageDraw.Draw(line).text((0, 0), text, font=font, fill=colour)
    return line


@cache
def _font(size: int, bold: bool) -> Any:
    import matplotlib

    # The same letters on every machine; Pillow's own know few of the world's.
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return ImageFont.truetype(str(folder / ("DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf")), size)
