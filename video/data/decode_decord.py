"""Frames by number through decord, for the formats in which it returns exactly what PyAV returns."""

from __future__ import annotations

import importlib.util
import os

import numpy as np
from numpy.typing import NDArray

from revit.video.data.frame_index import FrameIndex

IDENTICAL_CODECS = ("h264", "hevc", "mpeg4", "vp8", "vp9", "libvpx-vp9")
"""Codecs that the FFmpeg inside decord decodes; AV1 it cannot open."""

IDENTICAL_PIXELS = ("yuv420p", "yuvj420p")
"""Pixel formats whose conversion to RGB is bit-identical in the FFmpeg of decord and in PyAV's, at even sizes. Of 10-bit
formats, and of half-size chroma at odd sizes, the two make different pictures: those are PyAV's alone, so that no answer
depends on what is installed."""


def installed() -> bool:
    """Whether decord can be imported on this machine (it has no build for ARM)."""
    return importlib.util.find_spec("decord") is not None


def suits(index: FrameIndex, codecs: tuple[str, ...] = IDENTICAL_CODECS) -> bool:
    """Whether decord returns the same frames as PyAV for this file: known format, every frame with its own stamp."""
    even = index.info.width % 2 == 0 and index.info.height % 2 == 0
    known = index.codec in codecs and index.pixel_format in IDENTICAL_PIXELS
    return index.pts is not None and even and known


def read(index: FrameIndex, wanted: NDArray[np.int64]) -> NDArray[np.uint8] | None:
    """The frames numbered `wanted` (sorted, each once) as (n, H, W, 3), or None if decord fails or disagrees about the
    file: PyAV has the last word.

    One reader per call, one thread, rewound and dropped at once: an idle reader goes on decoding the whole file into
    memory, and one kept between calls grows.
    """
    import decord

    decord.logging.set_level(decord.logging.ERROR)
    before = noise_bytes()
    try:
        reader = decord.VideoReader(index.path, ctx=decord.cpu(0), num_threads=1)
        if len(reader) != index.info.num_frames:
            return None
        pictures: NDArray[np.uint8] = reader.get_batch(wanted).asnumpy()
        reader.seek(0)
        del reader
    except (
        Exception
    ):  # decord raises RuntimeError, IndexError and DECORDError, which derives from Exception alone
        return None
    if pictures.shape[1:3] != (index.info.height, index.info.width) or noise_bytes() != before:
        return None
    return pictures


def noise_bytes() -> int:
    """Bytes of complaints in the file that standard error goes to.

    FFmpeg inside decord fills holes in damaged frames and only complains on standard error. In the helper process that
    is a file; elsewhere (a terminal, a pipe) this is constantly 0 or -1 and the complaint stays unseen.
    """
    try:
        return os.fstat(2).st_size
    except OSError:
        return -1
