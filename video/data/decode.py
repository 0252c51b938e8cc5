"""Frames of a video file by number: one open per call, nothing kept alive.

Three decoders, decord, torchcodec and PyAV, return bit-identical frames (tested for H.264, HEVC, VP9 and MPEG-4 in 8-bit
4:2:0, full and limited range, BT.601 and BT.709, all rotation tags); files in which they would not, and frames that are
shrunk as they are read (decord's differ by 3 to 4 levels on average), are PyAV's alone. PyAV reads the
list of frames in any case, so what a frame's number means, how many there are, and whether the file is whole does not
depend on what is installed either.

Handled: rotation tags (frames come upright; mirrored display matrices are not undone), variable frame rate (frames are
numbered as shown, whatever their spacing), odd sizes, B-frames and open groups, edit lists, 10-bit and AV1 (PyAV alone),
containers that promise more frames than they hold. Non-square pixels are not stretched; only the first video stream is
read; HDR is not tone-mapped.

Nothing here imports torch: the helper process that decodes must start fast.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import av
import numpy as np
from numpy.typing import ArrayLike, NDArray

from revit.video.data import decode_decord, decode_pyav, decode_torchcodec
from revit.video.data.frame_index import FrameIndex, VideoInfo, index_frames
from revit.video.data.opening import DecodeError

__all__ = [
    "Backend",
    "ChooseIndices",
    "DecodeError",
    "VideoInfo",
    "Wanted",
    "probe",
    "read_frames",
    "resolve_backend",
]

Backend = Literal["auto", "decord", "pyav", "torchcodec"]
"""Who decodes. `auto` is PyAV: the frames are the same and, reading only what the wanted frames depend on, it took two
thirds of the time of bare decord (`benchmarks/loading.py` measures it here). `decord` and `torchcodec` ask for those; PyAV
then still reads what they cannot open or would show otherwise."""

Decoder = Literal["decord", "pyav", "torchcodec"]

OTHERS = {"decord": decode_decord, "torchcodec": decode_torchcodec}
"""The decoders that are not PyAV: each says what suits it, and reads that."""


@dataclass(frozen=True)
class Wanted:
    """What is to be read of a file."""

    numbers: ArrayLike
    """Of the frames: any order, repeats allowed, any shape (read flat)."""
    short_side: int | None = None
    """Pixels: frames with a larger one are shrunk to it, as `short_side_size` says, while their colours are converted;
    smaller ones stay as they are. None: all do."""


ChooseIndices = Callable[[VideoInfo], "ArrayLike | Wanted"]
"""From what is known of the file to the frames wanted; their numbers alone mean frames as they are."""

Allocate = Callable[[tuple[int, ...]], NDArray[np.uint8]]
"""From a shape to an array of bytes to fill."""


def new_array(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Ordinary memory."""
    return np.empty(shape, dtype=np.uint8)


# FFmpeg's own messages: everything worth saying is in DecodeError.
av.logging.set_level(None)


def resolve_backend(backend: Backend) -> Decoder:
    """Which decoder is tried first. ValueError if one is asked for that is not installed."""
    if backend == "auto" or backend == "pyav":
        return "pyav"
    if not OTHERS[backend].installed():
        libraries = " with the FFmpeg libraries that it needs" if backend == "torchcodec" else ""
        raise ValueError(
            f"decoder {backend!r} is not installed here; install it{libraries}, or use 'auto' or 'pyav'"
        )
    return backend


def probe(path: str) -> VideoInfo:
    """What `read_frames` would tell `choose_indices`, without decoding more than the first frame."""
    index = index_frames(path)
    index.container.close()
    return index.info


def read_frames(
    path: str, choose_indices: ChooseIndices, backend: Backend = "auto", allocate: Allocate = new_array
) -> NDArray[np.uint8]:
    """Open `path`, let `choose_indices` say which frames, and return them as uint8 (n, H, W, 3), RGB, upright.

    H and W are those of the file unless a short side was asked for (`Wanted`).

    Frames are decoded once each in the file's order, then put in the order asked for. Where what the file's header says
    turns out wrong (the size, the rotation, frames that do not exist), `choose_indices` is asked again with the truth.

    allocate: makes the array that PyAV's frames are put into; the others make their own.

    `DecodeError` if the file is not a readable video; `IndexError` if a number is outside 0 .. num_frames - 1.
    """
    first = resolve_backend(backend)
    index = index_frames(path, quick=first == "pyav")
    try:
        wanted = checked(choose_indices(index.info), index.info)
        try:
            frames = _decode(index, wanted, first, allocate)
        except DecodeError:
            if not index.assumed:
                raise
            frames = None
        if frames is None and index.assumed:
            assumed = index
            assumed.container.close()
            index = index_frames(path)
            if index.info != assumed.info:
                wanted = checked(choose_indices(index.info), index.info)
            frames = _decode(index, wanted, first, allocate)
        if frames is None:
            index = decode_pyav.recount(index)
            wanted = checked(choose_indices(index.info), index.info)
            frames = _decode(index, wanted, "pyav", allocate)
        if frames is None:
            raise DecodeError(
                path, f"damaged: not every one of its {index.info.num_frames} frames can be decoded"
            )
        return frames
    finally:
        index.container.close()


@dataclass(frozen=True)
class Checked:
    """Frames that are in the file. numbers: int64 (n,).  short_side: see `Wanted`."""

    numbers: NDArray[np.int64]
    short_side: int | None


def checked(chosen: ArrayLike | Wanted, info: VideoInfo) -> Checked:
    """What was chosen, in one form. `IndexError` if it is nothing or not in the file, ValueError for a size below 1."""
    wanted = chosen if isinstance(chosen, Wanted) else Wanted(chosen)
    if wanted.short_side is not None and wanted.short_side < 1:
        raise ValueError(f"short_side {wanted.short_side}: at least 1 pixel, or None for frames as they are")
    numbers = np.asarray(wanted.numbers, dtype=np.int64).reshape(-1)
    if numbers.size == 0:
        raise IndexError("no frame was asked for")
    if numbers.min() < 0 or numbers.max() >= info.num_frames:
        raise IndexError(
            f"frames {numbers.min()}..{numbers.max()} asked of a video of {info.num_frames} frames"
        )
    return Checked(numbers, wanted.short_side)


def _decode(index: FrameIndex, wanted: Checked, backend: str, allocate: Allocate) -> NDArray[np.uint8] | None:
    """The frames in the order of the numbers, or None if some of them do not come out. Each is decoded once."""
    numbers, short_side = wanted.numbers, wanted.short_side
    distinct, places = np.unique(numbers, return_inverse=True)
    other = OTHERS.get(backend)
    as_they_are = short_side is None or min(index.info.height, index.info.width) <= short_side
    if other is not None and as_they_are and other.suits(index):
        pictures = other.read(index, distinct)
        if pictures is not None:
            return pictures if np.array_equal(distinct, numbers) else pictures[places]
    frames: NDArray[np.uint8] | None = None
    missing = set(distinct.tolist())
    for number, picture in decode_pyav.read(index, set(missing), short_side):
        if frames is None:  # filled as pictures come, so that long clips of large frames are in memory once
            frames = allocate((numbers.size, *picture.shape))
        frames[numbers == number] = picture
        missing.discard(number)
    return None if missing else frames
