"""Do the clips of a list last as long as a model looks at them?"""

from __future__ import annotations

import math
from contextlib import closing, suppress

import numpy as np

from revit.common.data.lists import SampleList
from revit.video.data.clips import make_reader, span_frames, within
from revit.video.data.decode.read import DecodeError, VideoInfo, Wanted
from revit.video.data.options import ClipOptions

LOOKED_AT = 24
"""Clips of a list, evenly spread, that are opened."""


def span_warning(clips: SampleList, options: ClipOptions) -> str | None:
    """Return a line if many clips are shorter than the span of the frames that the model sees; None if not.

    Some are opened; those that cannot be are left out. Segments sample the whole clip, and have no span.
    """
    frames = options.frames
    if frames.sampling == "segments":
        return None
    told: list[VideoInfo] = []

    def choose(info: VideoInfo) -> Wanted:
        told.append(info)
        return Wanted([0])

    positions = np.unique(np.linspace(0, len(clips) - 1, LOOKED_AT).round().astype(int))
    seconds: list[float] = []
    with closing(make_reader(options.loading)) as reader:
        for position in positions.tolist():
            path = clips.file(position)
            with suppress(DecodeError):
                reader.read(path, within(clips.segment(position), path, choose))
                seconds.append(told[-1].num_frames / told[-1].fps)
    span = span_frames(frames.num_frames, frames.sampling_rate, frames.target_fps) / frames.target_fps
    short = [length for length in seconds if length < span * 0.99]
    let_pass = len(seconds) // 10
    if len(short) <= let_pass:
        return None
    rate = sorted(seconds)[let_pass] * frames.target_fps / frames.num_frames
    other = f", or data.frames.sampling_rate={math.floor(10 * rate) / 10:g} or less" if rate >= 1 else ""
    return (
        f"data.frames: {len(short)} of {len(seconds)} clips looked at are shorter than the {span:.1f} s that a model's "
        f"{frames.num_frames} frames span, so that frames repeat; set data.frames.sampling=segments (spread over the clip){other}"
    )
