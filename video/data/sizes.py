"""Sizes of resized frames: one rule for the transform and for the decoder. No torch here."""

from __future__ import annotations

import math


def short_side_size(height: int, width: int, short_side: int) -> tuple[int, int]:
    """Height and width with the shorter one at `short_side` pixels; the longer one is rounded down (published)."""
    if width < height:
        return math.floor(height / width * short_side), short_side
    return short_side, math.floor(width / height * short_side)
