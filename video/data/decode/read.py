"""Frames of a video file by number: one open per call, nothing kept alive.

Frame n is the n-th frame that a plain decode of the whole file hands out, whichever decoder reads it. PyAV lists the frames
in any case (`index`), so what a number means, how many there are, and whether the file is whole does not depend on what is
installed. decord and torchcodec read only files of kinds for which `tests/video/data/test_matrix.py` shows their frames to
be equal bit for bit; all others, and frames that are shrunk as they are read (decord's differ by 3 to 4 levels on average),
are PyAV's.

Handled: rotation tags (frames come upright; mirrored display matrices are not undone), variable frame rate (frames are
numbered as shown, whatever their spacing), odd sizes, B-frames and open groups, packed bitstreams, interlaced pictures (two
fields are one frame), edit lists, containers that promise more frames than they hold. Non-square pixels are not stretched;
only the first video stream is read; HDR is not tone-mapped.

Nothing here imports torch: the process that decodes must start fast.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Literal

import av
import numpy as np
from numpy.typing import ArrayLike, NDArray

from revit.common.data.lists import FilePart
from revit.common.system.errors import UserError
from revit.video.data.decode import frame_folder, libraries, pyav
from revit.video.data.decode.index import FrameIndex, VideoInfo, index_frames
from revit.video.data.decode.opening import DecodeError
from revit.video.data.decode.pyav import OtherFrames
from revit.video.data.decode.whole import decode_whole

Backend = Literal["auto", "decord", "pyav", "torchcodec"]
"""Decoder that is asked for. `auto` is PyAV: the frames are the same and, reading only what the wanted frames depend on, it took two
thirds of the time of bare decord (`benchmarks/loading.py` measures it here). `decord` and `torchcodec` ask for those; PyAV
then still reads what they cannot open or would show otherwise."""

Damaged = Literal["refuse", "salvage"]  # `DecodeError` for a damaged file, or its other frames


@dataclass(frozen=True)
class Wanted:
    """Frames to be read of a file."""

    numbers: ArrayLike
    """Frame numbers in any order, repeats allowed, any shape (read flat)."""
    short_side: int | None = None
    """Pixels: frames with a larger one are shrunk to it, as `short_side_size` says, while their colours are converted;
    smaller ones stay as they are. None: all do."""


ChooseIndices = Callable[[VideoInfo], "ArrayLike | Wanted"]
"""Function from facts about the file to the frames wanted; numbers alone mean frames as they are."""

Checked = tuple[NDArray[np.int64], "int | None"]
"""Numbers of frames (n,) that are in the file, and the short side of `Wanted`."""


class FrameNumberError(UserError, IndexError):
    """A frame was asked for that the file has not, or none at all."""


class DecoderError(UserError, ValueError):
    """A decoder was asked for that there is not, or that is not installed."""


# FFmpeg's own messages: everything worth saying is in DecodeError.
av.logging.set_level(None)


def resolve_backend(backend: Backend) -> Backend:
    """Return the decoder that is tried first. `DecoderError` if one is asked for that is not installed."""
    if backend == "auto" or backend == "pyav":
        return "pyav"
    if backend not in libraries.LIBRARIES:
        raise DecoderError(f"decoder {backend!r}: choose from auto, pyav, {', '.join(libraries.LIBRARIES)}")
    if not libraries.installed(backend):
        needed = " with the FFmpeg libraries that it needs" if backend == "torchcodec" else ""
        raise DecoderError(f"decoder {backend!r} is not installed here; install it{needed}, or use 'auto' or 'pyav'")
    return backend


def probe(path: str, damaged: Damaged = "refuse") -> VideoInfo:
    """Return what `read_frames` would tell `choose_indices`: what the packets of a file hold.

    Decodes no more than the first frame, unless only decoding all of them tells how many there are. damaged: "salvage" decodes
    all in any case, and counts those that are whole.
    """
    if os.path.isdir(path):
        return frame_folder.folder_info(frame_folder.frame_files(path))
    if damaged == "salvage":
        return decode_whole(path, salvage=True, keep=False).info
    index = index_frames(path)
    index.container.close()
    return index.info if index.is_numbered else decode_whole(path, keep=False).info


def salvage_frames(path: str, numbers: ArrayLike) -> NDArray[np.uint8]:
    """Read frames by their numbers among those that are whole, decoding the file to its end whatever is asked for.

    `DecodeError` if not one is whole; `FrameNumberError` for numbers beyond them.
    """
    return _read_whole(path, lambda info: checked(numbers, info), "salvage")


def read_frames(
    path: str, choose_indices: ChooseIndices, backend: Backend = "auto", damaged: Damaged = "refuse"
) -> NDArray[np.uint8]:
    """Open `path`, let `choose_indices` say which frames, and return them as uint8 (n, H, W, 3), RGB, upright.

    A folder of pictures is a clip of these frames. A `FilePart` is read where it lies in its file.

    H and W are those of the file unless a short side was asked for (`Wanted`).

    Frames are decoded once each in the file's order, then put in the order asked for. Where what the file's header says
    turns out wrong (the size, the rotation, frames that do not exist), `choose_indices` is asked again with the truth.

    damaged: "salvage" reads what is whole of a damaged or truncated file. Where damage is met, frames are numbered without the
        lost ones, which `VideoInfo.num_lost` counts, and `choose_indices` is asked again; a file is not known to be damaged where
        it is not read.

    `DecodeError` if the file is not a readable video; `FrameNumberError` if a number is outside 0 .. num_frames - 1.
    """
    decoder = resolve_backend(backend)
    # Asked again only if the file turns out to be another one than the caller was told.
    choice = cache(lambda info: checked(choose_indices(info), info))
    if os.path.isdir(path):
        files = frame_folder.frame_files(path)
        return frame_folder.read_folder(files, *choice(frame_folder.folder_info(files)))
    refused: DecodeError | None = None
    try:
        frames = _read_indexed(path, choice, decoder)
        if frames is not None:
            return frames
    except DecodeError as error:
        if damaged == "refuse":
            raise
        refused = error
    try:
        return _read_whole(path, choice, damaged)
    except DecodeError as error:
        raise refused or error from None


def _read_indexed(path: str, choice: Callable[[VideoInfo], Checked], decoder: Backend) -> NDArray[np.uint8] | None:
    """Read frames by the file's list of them; None where only decoding all of it tells which they are."""
    for quick in (True, False) if decoder == "pyav" else (False,):
        index = index_frames(path, quick)
        with index.container:
            if not index.is_numbered:
                return None
            wanted = choice(index.info)
            try:
                frames = _decode(index, wanted, decoder)
            except (DecodeError, OtherFrames):
                frames = None  # decoding everything tells damage from what was not understood
            if frames is not None or not index.assumed:
                return frames
    return None


def _read_whole(path: str, choice: Callable[[VideoInfo], Checked], damaged: Damaged) -> NDArray[np.uint8]:
    """Read frames of a file that is decoded from its first packet to its last."""
    whole = decode_whole(path, salvage=damaged == "salvage")
    info, (numbers, short_side) = whole.info, choice(whole.info)
    numbered = whole.read(set(numbers.tolist()))
    frames = _collect(pyav.pictures(path, numbered, info.rotation, short_side), numbers)
    if frames is None:
        raise DecodeError(path, f"damaged: not every one of its {info.num_frames} frames can be decoded")
    return frames


def checked(chosen: ArrayLike | Wanted, info: VideoInfo) -> Checked:
    """Return the choice in one form. `FrameNumberError` if it is nothing or not in the file, ValueError for a size below 1."""
    wanted = chosen if isinstance(chosen, Wanted) else Wanted(chosen)
    if wanted.short_side is not None and wanted.short_side < 1:
        raise ValueError(f"short_side {wanted.short_side}: at least 1 pixel, or None for frames as they are")
    numbers = np.asarray(wanted.numbers, dtype=np.int64).reshape(-1)
    if numbers.size == 0:
        raise FrameNumberError("no frame was asked for")
    if numbers.min() < 0 or numbers.max() >= info.num_frames:
        raise FrameNumberError(f"frames {numbers.min()}..{numbers.max()} asked of a video of {info.num_frames} frames")
    return numbers, wanted.short_side


def _decode(index: FrameIndex, wanted: Checked, backend: str) -> NDArray[np.uint8] | None:
    """Decode the frames, each once, into the order of the numbers; None if some of them do not come out."""
    numbers, short_side = wanted
    distinct, places = np.unique(numbers, return_inverse=True)
    as_they_are = short_side is None or min(index.info.height, index.info.width) <= short_side
    in_a_file = isinstance(index.path, FilePart)  # which PyAV alone can open
    if backend != "pyav" and as_they_are and not in_a_file and libraries.suits(backend, index):
        pictures = libraries.read(backend, index, distinct)
        if pictures is not None:
            return pictures if np.array_equal(distinct, numbers) else pictures[places]
    return _collect(pyav.read(index, set(distinct.tolist()), short_side), numbers)


def _collect(pictures: Iterable[tuple[int, NDArray[np.uint8]]], numbers: NDArray[np.int64]) -> NDArray[np.uint8] | None:
    """Put pictures into the order asked for by their numbers; None if some are missing."""
    frames: NDArray[np.uint8] | None = None
    places: dict[int, list[int]] = {}
    for place, number in enumerate(numbers.tolist()):
        places.setdefault(number, []).append(place)
    for number, picture in pictures:
        if frames is None:  # filled as pictures come, so that long clips of large frames are in memory once
            frames = np.empty((numbers.size, *picture.shape), np.uint8)
        for place in places.pop(number, ()):
            frames[place] = picture
    return None if places else frames
