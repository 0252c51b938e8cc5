"""Frames by number through decord or torchcodec, for the kinds of files in which they return exactly what PyAV returns.

decord has no build for ARM. torchcodec decodes with the FFmpeg libraries of the system (4 to 8) and imports torch, which
makes the helper process that uses it larger by some hundred megabytes and its first file later by seconds.
"""

from __future__ import annotations

import importlib.util
import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from revit.video.data.decode.index import FrameIndex
from revit.video.data.decode.opening import real_path
from revit.video.data.decode.scan.packets import Entry

LIBRARIES = ("decord", "torchcodec")
MP4, MATROSKA = ("h264", "hevc", "vp9"), ("h264", "hevc", "vp8", "vp9")
IDENTICAL: dict[str, dict[str, tuple[str, ...]]] = {
    "decord": {"mp4": MP4, "matroska": MATROSKA},
    "torchcodec": {"mp4": (*MP4, "av1"), "matroska": (*MATROSKA, "av1")},
}
"""Containers, and the codecs in them, of which `tests/video/data/test_matrix.py` shows every frame to be the same. In AVI, ASF,
FLV and transport streams decord takes frames for others, in MPEG-4 with B-frames nearly everywhere; in a transport stream
torchcodec 0.17 returned later frames than those asked for."""

IDENTICAL_PIXELS = ("yuv420p", "yuvj420p")
"""Pixel formats whose conversion to RGB is bit-identical in the FFmpeg of decord and in PyAV's, at even sizes. Of 10-bit
formats, and of half-size chroma at odd sizes, the two make different pictures."""


def installed(library: str) -> bool:
    """Tell whether a library can be used on this machine: torchcodec needs FFmpeg libraries that it was built for."""
    if library == "decord":
        return importlib.util.find_spec("decord") is not None
    # Read once, when the library is loaded: complaints are how `read` hears of damage.
    os.environ.setdefault("TORCHCODEC_FFMPEG_LOG_LEVEL", "ERROR")
    try:
        import torchcodec.decoders  # noqa: F401
    except (ImportError, RuntimeError, OSError):
        return False
    return True


def suits(library: str, index: FrameIndex) -> bool:
    """Tell whether a library returns the same frames as PyAV for this file.

    Besides container, codec and pixels: there is one video stream, every packet is one frame with its own stamp, none is
    outside an edit list, and groups are closed and flagged as what they are (decord begins at flagged packets, and in an
    open group it takes the frames that lead a key frame for those behind it).
    """
    names, identical = index.container.format.name.split(","), IDENTICAL[library]
    codecs = next((identical[name] for name in names if name in identical), ())
    packets = index.packets
    return (
        index.codec in codecs
        and index.pixel_format in IDENTICAL_PIXELS
        and index.info.width % 2 == index.info.height % 2 == 0
        and index.pts is not None
        and not any(packets.hidden)
        and len(index.container.streams.video) == 1
        and packets.flags_true
        and all(held.frames == 1 and held.entry in (Entry.NONE, Entry.CLOSED) for held in packets.held)
    )


def read(library: str, index: FrameIndex, wanted: NDArray[np.int64]) -> NDArray[np.uint8] | None:
    """Read the frames numbered `wanted` (sorted, each once): (n, H, W, 3).

    None if the library fails, complains or disagrees with PyAV.
    """
    before = noise_bytes()
    try:
        reader = _open(library, real_path(index.path))
        if len(reader) != index.info.num_frames:
            return None
        if library == "decord":
            pictures: NDArray[np.uint8] = reader.get_batch(wanted).asnumpy()
            reader.seek(0)
        else:
            pictures = reader.get_frames_at(wanted.tolist()).data.numpy()
        del reader
    except Exception:  # RuntimeError, ValueError, IndexError and DECORDError, which derives from Exception alone
        return None
    is_whole = pictures.shape[1:3] == (index.info.height, index.info.width)
    return pictures if is_whole and noise_bytes() == before else None


def _open(library: str, path: str) -> Any:
    """Make a reader for one call, with one thread.

    decord's is rewound and dropped at once: an idle one goes on decoding the whole file into memory, and one kept between
    calls grows. torchcodec's "exact" reads all packets first, so that numbers mean what they mean here.
    """
    if library == "decord":
        import decord

        decord.logging.set_level(decord.logging.ERROR)
        return decord.VideoReader(path, ctx=decord.cpu(0), num_threads=1)
    from torchcodec.decoders import VideoDecoder

    return VideoDecoder(path, dimension_order="NHWC", num_ffmpeg_threads=1, device="cpu", seek_mode="exact")


def noise_bytes() -> int:
    """Count the bytes of complaints in the file that standard error goes to.

    FFmpeg inside these libraries fills holes in damaged frames and only complains on standard error. In the helper process
    that is a file; elsewhere (a terminal, a pipe) this is constantly 0 or -1 and the complaint stays unseen.
    """
    try:
        return os.fstat(2).st_size
    except OSError:
        return -1
