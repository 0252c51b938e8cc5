"""One picture as the data doctor sees it: decoded, and what is odd about the file. No torch here."""

from __future__ import annotations

import io
from math import isqrt

import av
import numpy as np
from av.error import InvalidDataError
from av.packet import Packet
from PIL import Image

from revit.common.data.broken import BrokenSample
from revit.common.data.check.facts import PRINT_BYTES, Facts, Kind, open_file
from revit.common.data.lists import FilePart
from revit.common.system.crew import Alive
from revit.image.data.decode import read_picture

PRINT_SIDE = isqrt(PRINT_BYTES)
"""Pixels of the side of the grey picture that is a print."""
TRUNCATED = ("truncated", "broken png file", "unexpected end")
"""Words of PIL's for a file that ends too early."""
EXIF_ORIENTATION = 0x0112

assert PRINT_SIDE**2 == PRINT_BYTES

av.logging.set_level(None)  # what FFmpeg says of a file, its reason does


def look_at_picture(path: str, alive: Alive) -> Facts:
    """Decode a picture; a JPEG by FFmpeg, too: libjpeg shows what it makes of damaged data without a word."""
    with open_file(path) as file:
        content = file.read(path.size if isinstance(path, FilePart) else -1)
    try:
        picture = read_picture(path, lambda: io.BytesIO(content))
    except BrokenSample as error:
        return Facts(_kind(error.reason), error.reason)
    alive()
    if content[:2] == b"\xff\xd8" and not _is_whole_jpeg(content):
        return Facts(
            "damaged", "damaged picture (a part of its data cannot be decoded; readers fill it without a word)"
        )
    grey = picture.convert("L").resize((PRINT_SIDE, PRINT_SIDE), Image.Resampling.BOX)
    return Facts(odd="; ".join(_remarks(content)), print=np.asarray(grey).tobytes())


def _kind(reason: str) -> Kind:
    if not reason.startswith("damaged"):
        return "unreadable"
    return "truncated" if any(word in reason.lower() for word in TRUNCATED) else "damaged"


def _is_whole_jpeg(content: bytes) -> bool:
    """Tell whether FFmpeg decodes all of a JPEG. What it has no decoder for is not damaged."""
    codec = av.CodecContext.create("mjpeg", "r")
    codec.thread_count = 1
    codec.options = {"err_detect": "explode"}
    try:
        pictures = [picture for packet in (Packet(content), None) for picture in codec.decode(packet)]
    except InvalidDataError:
        return False
    except (av.FFmpegError, OSError, ValueError):
        return True
    return not any(picture.is_corrupt for picture in pictures)


def _remarks(content: bytes) -> list[str]:
    remarks = []
    with Image.open(io.BytesIO(content)) as picture:
        if picture.getexif().get(EXIF_ORIENTATION, 1) not in (0, 1):
            remarks.append("to be turned or mirrored, by its EXIF data (it is, here)")
        if (count := getattr(picture, "n_frames", 1)) > 1:
            remarks.append(f"an animation of {count} pictures, of which the first is taken")
        if picture.mode == "CMYK":
            remarks.append("in colours of a printer (CMYK), which become RGB without its profile")
    return remarks
