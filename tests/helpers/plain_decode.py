"""A plain decode of a whole file, and what a reader gives instead of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from revit.video import probe, read_frames
from revit.video.data.decode import pyav
from revit.video.data.decode.opening import DecodeError
from revit.video.data.decoders import installed_decoders

DECODERS = installed_decoders()


def plain_decode(path: Path, short_side: int | None = None) -> list[NDArray[np.uint8]]:
    """Decode the whole file by PyAV alone, one frame after the other."""
    to_rgb = pyav.Converter(short_side)
    with av.open(str(path)) as file:
        file.streams.video[0].codec_context.thread_count = 1
        return [to_rgb(frame, 0) for frame in file.decode(video=0)]


def questions(num_frames: int, seed: int) -> Iterator[list[int]]:
    """Whole, sparse, backwards, repeated, single, at random."""
    random = np.random.default_rng(seed)
    yield list(range(num_frames))
    yield list(range(num_frames))[:: -num_frames // 13]
    yield [min(one, num_frames - 1) for one in (3, 17, 18, 40)]
    yield [min(one, num_frames - 1) for one in (46, 5, 5)]
    for count in (1, 1, 1, 1, 2, 3, 9):
        yield random.integers(0, num_frames, count).tolist()


def check(path: Path, seed: int = 0, decoders: tuple[str, ...] = DECODERS, may_refuse: bool = False) -> list[str]:
    """List what is wrong with a file's frames. may_refuse: whether the file is damaged, so that a reason is as good as its frames."""
    try:
        expected = plain_decode(path)
    except av.FFmpegError:
        if not may_refuse:
            raise
        expected = []
    wrong = []
    try:
        counted = probe(path).num_frames
    except DecodeError:
        return [] if may_refuse else ["refused"]
    if not expected:
        return []  # what is wrong is where nothing was read
    if counted != len(expected):
        wrong.append(f"{counted} frames of {len(expected)}")
    for numbers in questions(len(expected), seed):
        for decoder in decoders:
            try:
                frames = read_frames(path, numbers, decoder)
            except DecodeError as error:
                if not may_refuse:
                    wrong.append(f"{decoder}: {error.reason}")
                continue
            bad = [one for one, frame in zip(numbers, frames) if not np.array_equal(frame, expected[one])]
            if bad:
                wrong.append(f"{decoder}: of {numbers[:9]} the frames {bad[:9]}")
    return wrong
