"""What a conversion makes of a clip: sizes in pixels, and how H.264 is written."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from revit.common.system.errors import UserError

FORMAT = 1
"""Raised whenever equal settings would give other files."""

ENCODER = "libx264"


@dataclass(frozen=True)
class ConvertSettings:
    """Everything that a converted file depends on, its source apart.

    What is fixed was chosen by measuring how long 8 frames take that are spread over a clip (README): entropy coding by
    CABAC alone doubles that time for 6 to 20 % of the size, and of seven B-frames in a row, none of which others are
    built on, a reader leaves all undecoded but the one it wants.
    """

    short_side: int = 256
    """Pixels; larger clips are shrunk to it, smaller ones stay as they are."""
    gop: int = 16
    """Frames from one key frame to the next."""
    crf: int = 18
    """Constant rate factor of x264: less is better and larger."""

    def __post_init__(self) -> None:
        if self.short_side < 16 or self.short_side % 2:
            raise UserError(
                f"--short-side {self.short_side}: an even number from 16, as H.264 halves the colour planes"
            )
        if self.gop < 1:
            raise UserError(f"--gop {self.gop}: at least 1, which makes every frame a key frame")
        if not 1 <= self.crf <= 40:
            raise UserError(f"--crf {self.crf}: between 1 (large) and 40 (poor); 18 looks like the source")

    @property
    def encoder_options(self) -> dict[str, str]:
        """For libx264: a fixed pattern of frames, no B-frame a reference, neither CABAC nor deblocking."""
        return {
            "preset": "veryfast",
            "tune": "fastdecode",
            "crf": str(self.crf),
            "g": str(self.gop),
            "keyint_min": str(self.gop),
            "sc_threshold": "0",
            "bf": str(min(7, self.gop - 1)),
            "b_strategy": "0",
            "x264-params": "b-pyramid=none",
        }

    @property
    def smallest_psnr(self) -> float:
        """dB of luma that a frame must reach against its resized source: the error of a quantiser six steps coarser than
        asked for, as if all of its width were error, between 18 and 28 dB. Another frame of a clip that moves is below."""
        step = 0.625 * 2 ** ((self.crf + 6) / 6)
        return min(28.0, max(18.0, 20 * math.log10(255 / step)))

    def fingerprint(self) -> dict[str, Any]:
        """As JSON gives it back."""
        return {"format": FORMAT, "encoder": ENCODER, **asdict(self)}


def target_size(width: int, height: int, short_side: int) -> tuple[int, int]:
    """Width and height with the shorter one at `short_side`, never enlarged, both even (the longer one to the nearest even
    number, those that are not shrunk to the next lower one)."""
    if min(width, height) <= short_side:
        return max(width - width % 2, 2), max(height - height % 2, 2)
    scale = short_side / min(width, height)
    return _even(width * scale), _even(height * scale)


def _even(pixels: float) -> int:
    return 2 * round(pixels / 2)
