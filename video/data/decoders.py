"""The decoders of clips, to be compared and timed on a user's files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import av
import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from revit.common.speed.loading_rates import Decoders
from revit.video.data.clips import eval_indices, eval_wanted, make_reader
from revit.video.data.decode import libraries
from revit.video.data.decode.opening import error_text, opened_stream, real_path
from revit.video.data.decode.pyav import Converter
from revit.video.data.decode.read import DecodeError, VideoInfo, probe
from revit.video.data.decode.reader import FrameReader
from revit.video.data.options import ONE_VIEW, ClipOptions
from revit.video.options import VideoRun

MOST_COMPARED = 20_000
"""Frames of the longest file that is decoded for a comparison: eleven minutes."""


@dataclass(frozen=True)
class ClipFrames:
    """Frames of clips, by one decoder."""

    options: ClipOptions
    reader: FrameReader

    def sample(self, path: str) -> NDArray[np.uint8]:
        """Read uint8 (n, H, W, 3), see `sampled_numbers`. `DecodeError` if it cannot be read."""
        return self.reader.read(path, lambda info: sampled_numbers(info, self.options))

    def read(self, path: str) -> NDArray[np.uint8]:
        """Read a test's central clip: uint8 (T, H, W, 3). `DecodeError` if it cannot be read."""
        return self.reader.read(path, lambda info: eval_wanted(info, self.options, ONE_VIEW))

    def close(self) -> None:
        """End the helper process."""
        self.reader.close()


def sampled_numbers(info: VideoInfo, options: ClipOptions) -> NDArray[np.int64]:
    """Number the frames of a test's central clip, the first and the last one, and neighbours all over the file."""
    clip = eval_indices(info, options.frames, ONE_VIEW).numpy().reshape(-1)
    spread = np.linspace(0, info.num_frames - 1, 8).astype(np.int64)
    beside = np.minimum(spread + 1, info.num_frames - 1)
    return np.concatenate([clip, spread, beside])


def _plain_decode(path: str) -> Iterator[VideoFrame]:
    """Yield what PyAV hands out of a file, incomplete frames before the first whole one left out."""
    with av.open(real_path(path), metadata_errors="ignore") as file:
        stream, begun = opened_stream(file), False
        stream.codec_context.thread_count = 1
        for frame in file.decode(stream):
            begun = begun or not frame.is_corrupt
            if begun:
                yield frame


def sample_plainly(options: VideoRun, path: str) -> NDArray[np.uint8]:
    """Return what `ClipFrames.sample` is to return, by PyAV alone, which hands out all frames of the file.

    `DecodeError` if PyAV does not decode the file to its end.
    """
    info = probe(path)
    if info.num_frames > MOST_COMPARED:
        raise DecodeError(path, f"{info.num_frames} frames are too many to be decoded for a comparison")
    try:
        count = sum(1 for _ in _plain_decode(path))
        numbers = sampled_numbers(replace(info, num_frames=count), options.data)
        to_rgb, found = Converter(), {}
        for number, frame in enumerate(_plain_decode(path)):
            if number in numbers:
                found[number] = to_rgb(frame, info.rotation)
    except (av.FFmpegError, OSError) as error:
        raise DecodeError(path, f"a plain decode of it fails: {error_text(error)}") from None
    return np.stack([found[number] for number in numbers.tolist()])


def installed_decoders() -> tuple[str, ...]:
    """List the decoders, PyAV, which is always there, first."""
    return ("pyav", *filter(libraries.installed, libraries.LIBRARIES))


def open_frames(options: VideoRun, name: str) -> ClipFrames:
    loading = options.data.loading.model_copy(update={"decoder": name})
    return ClipFrames(options.data, make_reader(loading))


CLIP_DECODERS = Decoders(
    "data.loading.decoder",
    installed_decoders,
    open_frames,
    sample_plainly,
    "files of tools/convert_clips.py are read several times as fast",
)
