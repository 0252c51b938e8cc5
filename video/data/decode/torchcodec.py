"""Frames by number through torchcodec, for the formats in which it returns exactly what PyAV returns.

It decodes with the FFmpeg libraries of the system (4 to 8) and imports torch, which makes the helper process that uses it
larger by some hundred megabytes and its first file later by seconds.
"""

from __future__ import annotations

import os

import numpy as np
from numpy.typing import NDArray

from revit.video.data.decode import decord
from revit.video.data.decode.index import FrameIndex
from revit.video.data.decode.opening import real_path

IDENTICAL = {name: (*codecs, "av1") for name, codecs in decord.IDENTICAL.items()}
"""Containers, and the codecs in them, that were compared. In a transport stream torchcodec 0.17 returned later frames than
those asked for."""


def installed() -> bool:
    """Tell whether torchcodec can be used here: installed, and it finds FFmpeg libraries that it was built for."""
    # Read once, when the library is loaded: complaints are how `read` hears of damage.
    os.environ.setdefault("TORCHCODEC_FFMPEG_LOG_LEVEL", "ERROR")
    try:
        import torchcodec.decoders  # noqa: F401
    except (ImportError, RuntimeError, OSError):
        return False
    return True


def suits(index: FrameIndex) -> bool:
    """Tell whether torchcodec returns the same frames as PyAV for this file; see `decord.suits`."""
    return decord.suits(index, IDENTICAL)


def read(index: FrameIndex, wanted: NDArray[np.int64]) -> NDArray[np.uint8] | None:
    """Read the frames numbered `wanted` as `decord.read` does, or None if torchcodec fails, complains or disagrees."""
    from torchcodec.decoders import VideoDecoder

    before = decord.noise_bytes()
    try:
        # "exact" reads all packets first, so that numbers mean what they mean here.
        decoder = VideoDecoder(
            real_path(index.path), dimension_order="NHWC", num_ffmpeg_threads=1, device="cpu", seek_mode="exact"
        )
        if len(decoder) != index.info.num_frames:
            return None
        pictures: NDArray[np.uint8] = decoder.get_frames_at(wanted.tolist()).data.numpy()
    except (RuntimeError, ValueError, IndexError):
        return None
    whole = pictures.shape[1:3] == (index.info.height, index.info.width)
    return pictures if whole and decord.noise_bytes() == before else None
