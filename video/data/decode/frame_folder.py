"""A folder of pictures that are the frames of one clip, in the order of the numbers in their names."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from revit.video.data.decode.index import VideoInfo
from revit.video.data.decode.opening import DecodeError

PICTURE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
FRAMES_PER_SECOND = 30.0
"""Rate that such a folder is taken for: nothing in it says the true one."""


def frame_files(folder: str) -> list[str]:
    """Return the picture files of a folder, `f2` before `f10`. `DecodeError` if there are none or it cannot be read."""
    try:
        names = [name for name in os.listdir(folder) if name.lower().endswith(PICTURE_EXTENSIONS) and name[0] != "."]
    except OSError as error:
        raise DecodeError(folder, (error.strerror or str(error)).lower()) from None
    if not names:
        raise DecodeError(folder, f"is a folder without pictures ({' '.join(PICTURE_EXTENSIONS)}), and no video file")
    return [os.path.join(folder, name) for name in sorted(names, key=_by_number)]


def folder_info(files: Sequence[str]) -> VideoInfo:
    """Return what the first picture and the number of files say of such a clip. `DecodeError` if it cannot be read."""
    height, width = _picture(files[0], None).shape[:2]
    seconds = len(files) / FRAMES_PER_SECOND
    return VideoInfo(len(files), FRAMES_PER_SECOND, width, height, 0, seconds)


def read_folder(files: Sequence[str], numbers: NDArray[np.int64], short_side: int | None) -> NDArray[np.uint8]:
    """Read pictures by number, uint8 (n, H, W, 3). `DecodeError` for one that cannot be read or has another size."""
    distinct, places = np.unique(numbers, return_inverse=True)
    pictures = [_picture(files[number], short_side) for number in distinct]
    other = next((n for n, picture in zip(distinct, pictures) if picture.shape != pictures[0].shape), None)
    if other is not None:
        raise DecodeError(files[other], f"is of another size than {os.path.basename(files[distinct[0]])}")
    return np.stack(pictures)[places]


def _picture(path: str, short_side: int | None) -> NDArray[np.uint8]:
    try:
        with Image.open(path) as image:
            picture = image.convert("RGB")
    except Exception as error:  # what a damaged picture raises depends on its format
        raise DecodeError(path, f"cannot be read as a picture ({error})") from None
    side = min(picture.size)
    if short_side is not None and side > short_side:
        picture = picture.resize(
            [max(1, round(length * short_side / side)) for length in picture.size], Image.Resampling.BILINEAR
        )
    return np.asarray(picture)


def _by_number(name: str) -> list[tuple[int, str]]:
    """Return a key by which numbers in names count as numbers."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name) if part]
