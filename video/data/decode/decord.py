"""Frames by number through decord, for the formats in which it returns exactly what PyAV returns."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from revit.video.data.decode.index import FrameIndex, Numbering
from revit.video.data.decode.opening import real_path
from revit.video.data.decode.scan.packets import Entry

IDENTICAL: dict[str, tuple[str, ...]] = {"mp4": ("h264", "hevc", "vp9"), "matroska": ("h264", "hevc", "vp8", "vp9")}
"""Containers, and the codecs in them, of which `tests/video/data/test_matrix.py` shows every frame to be the same. In AVI, ASF,
FLV and transport streams decord takes frames for others, in MPEG-4 with B-frames nearly everywhere."""

IDENTICAL_PIXELS = ("yuv420p", "yuvj420p")
"""Pixel formats whose conversion to RGB is bit-identical in the FFmpeg of decord and in PyAV's, at even sizes. Of 10-bit
formats, and of half-size chroma at odd sizes, the two make different pictures."""


def installed() -> bool:
    """Tell whether decord can be imported on this machine (it has no build for ARM)."""
    return importlib.util.find_spec("decord") is not None


def suits(index: FrameIndex, identical: Mapping[str, Sequence[str]] = IDENTICAL) -> bool:
    """Tell whether decord returns the same frames as PyAV for this file.

    Besides container, codec and pixels: there is one video stream, every packet is one frame with its own stamp, none is
    outside an edit list, and groups are closed and flagged as what they are (decord begins at flagged packets, and in an
    open group it takes the frames that lead a key frame for those behind it).
    """
    names = index.container.format.name.split(",")
    codecs = next((identical[name] for name in names if name in identical), ())
    packets = index.packets
    return (
        index.codec in codecs
        and index.pixel_format in IDENTICAL_PIXELS
        and index.info.width % 2 == index.info.height % 2 == 0
        and index.numbering is Numbering.STAMPS
        and not any(packets.hidden)
        and len(index.container.streams.video) == 1
        and packets.flags_true
        and all(held.frames == 1 and held.entry in (Entry.NONE, Entry.CLOSED) for held in packets.held)
    )


def read(index: FrameIndex, wanted: NDArray[np.int64]) -> NDArray[np.uint8] | None:
    """Read the frames numbered `wanted` (sorted, each once): (n, H, W, 3), or None if decord fails or disagrees with PyAV.

    One reader per call, one thread, rewound and dropped at once: an idle reader goes on decoding the whole file into
    memory, and one kept between calls grows.
    """
    import decord

    decord.logging.set_level(decord.logging.ERROR)
    before = noise_bytes()
    try:
        reader = decord.VideoReader(real_path(index.path), ctx=decord.cpu(0), num_threads=1)
        if len(reader) != index.info.num_frames:
            return None
        pictures: NDArray[np.uint8] = reader.get_batch(wanted).asnumpy()
        reader.seek(0)
        del reader
    except Exception:  # RuntimeError, IndexError and DECORDError, which derives from Exception alone
        return None
    if pictures.shape[1:3] != (index.info.height, index.info.width) or noise_bytes() != before:
        return None
    return pictures


def noise_bytes() -> int:
    """Count the bytes of complaints in the file that standard error goes to.

    FFmpeg inside decord fills holes in damaged frames and only complains on standard error. In the helper process that
    is a file; elsewhere (a terminal, a pipe) this is constantly 0 or -1 and the complaint stays unseen.
    """
    try:
        return os.fstat(2).st_size
    except OSError:
        return -1
