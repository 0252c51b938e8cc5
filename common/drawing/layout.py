"""Pictures and lines of text put together to one sheet."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

MARGIN, GAP = 12, 6
BLACK, GREY = (20, 20, 20), (95, 95, 95)


def stacked(parts: Sequence[Image.Image]) -> Image.Image:
    """Put the parts below each other, at the left."""
    sheet = _blank(max(part.width for part in parts), sum(part.height for part in parts) + GAP * len(parts) - GAP)
    y = 0
    for part in parts:
        sheet.paste(part, (0, y))
        y += part.height + GAP
    return sheet


def beside(parts: Sequence[Image.Image]) -> Image.Image:
    """Put the parts beside each other, at the top."""
    sheet = _blank(sum(part.width for part in parts) + GAP * len(parts) - GAP, max(part.height for part in parts))
    x = 0
    for part in parts:
        sheet.paste(part, (x, 0))
        x += part.width + GAP
    return sheet


def framed(sheet: Image.Image) -> Image.Image:
    """Leave a margin around a sheet."""
    framed = _blank(sheet.width + 2 * MARGIN, sheet.height + 2 * MARGIN)
    framed.paste(sheet, (MARGIN, MARGIN))
    return framed


def _blank(width: int, height: int) -> Image.Image:
    return Image.new("RGB", (width, height), "white")


def written(text: str, size: int, colour: tuple[int, int, int], width: int = 0, bold: bool = False) -> Image.Image:
    """Write one line as a picture, in smaller letters where `width` is too narrow for it."""
    asked, font = size, _font(size, bold)
    while width and font.getlength(text) > width and size > 8:
        size -= 1
        font = _font(size, bold)
    ascent, descent = font.getmetrics()
    height = max(ascent + descent, round(1.2 * asked))  # the same for smaller letters
    line = _blank(max(1, round(font.getlength(text)) + 1), height)
    ImageDraw.Draw(line).text((0, 0), text, font=font, fill=colour)
    return line


@cache
def _font(size: int, bold: bool) -> Any:
    import matplotlib

    # The same letters on every machine; Pillow's own know few of the world's.
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return ImageFont.truetype(str(folder / ("DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf")), size)
