"""One picture file to RGB pixels.

Pictures come upright (their EXIF orientation is applied; the published pipelines ignore it, which concerns a few pictures
of ImageNet). Alpha is dropped, palettes, grey, CMYK and other colour spaces become RGB as PIL converts them, all as the
published pipelines do. Grey pictures of 16 bits keep their upper 8 (PIL would cut everything above 255 to white). Of
animations the first picture is taken. Pixels of 32-bit integers or floats have no known range and are refused. No torch here.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from revit.common.data.broken import BrokenSample


def read_picture(path: str, open_file: Callable[[], BinaryIO] | None = None) -> Image.Image:
    """Read a picture in RGB. open_file: opens its contents, where `path` is only what messages call it.

    Raises BrokenSample if there is none.
    """
    try:
        with open_file() if open_file is not None else open(path, "rb") as file:
            return _decode(path, file)
    except OSError as error:
        raise BrokenSample(path, (error.strerror or str(error)).lower()) from None


def check_shape(path: str, picture: Image.Image, size: tuple[int, int]) -> None:
    """Raise BrokenSample for a line of pixels: resized for `size` (height, width), it is empty or beyond all memory."""
    if max(picture.size) > min(picture.size) * min(size):
        width, height = picture.size
        raise BrokenSample(path, f"{width}x{height} pixels are too narrow for a crop of {size[0]}x{size[1]}")


def _decode(path: str, file: BinaryIO) -> Image.Image:
    if file.seek(0, os.SEEK_END) == 0:
        raise BrokenSample(path, "the file is empty (0 bytes)")
    file.seek(0)
    try:
        # PIL warns of what it repairs (odd EXIF data, large pictures): once for every epoch and worker.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(file) as picture:
                picture.load()
                with contextlib.suppress(Exception):  # damaged EXIF data says nothing; the pixels are whole
                    ImageOps.exif_transpose(picture, in_place=True)
                return _to_rgb(path, picture)
    except BrokenSample:
        raise
    except UnidentifiedImageError:
        raise BrokenSample(path, "not a picture, or of a kind that PIL does not know") from None
    except Image.DecompressionBombError:
        raise BrokenSample(path, "too many pixels (PIL opens up to 179 million); make it smaller") from None
    except Exception as error:  # damaged bytes break PIL's readers in any way there is
        reason = " ".join(str(error).split()) or type(error).__name__
        raise BrokenSample(path, f"damaged picture ({reason})") from None


def _to_rgb(path: str, picture: Image.Image) -> Image.Image:
    if picture.mode == "RGB":
        return picture  # convert() would copy it
    if picture.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8)).convert("RGB")
    if picture.mode in ("I", "F"):
        raise BrokenSample(path, f"pixels of 32 bits (PIL's mode {picture.mode}); save it with 8 or 16")
    if picture.mode == "P" and "transparency" in picture.info:
        picture = picture.convert("RGBA")  # the same colours, without PIL's warning
    return picture.convert("RGB")
