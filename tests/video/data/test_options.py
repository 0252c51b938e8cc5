"""Settings of clips: what no file could be spanned with is refused before one is read."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from revit.video.data.clips import clip_indices, span_frames
from revit.video.data.options import FrameOptions


@pytest.mark.parametrize(("name", "value"), [("target_fps", 1e-300), ("sampling_rate", 1e308)])
def test_rates_beyond_any_video_are_refused(name, value):
    with pytest.raises(ValidationError, match=name):
        FrameOptions(**{name: value})


def test_the_most_extreme_rates_still_choose_frames():
    longest = FrameOptions(sampling_rate=1e5, target_fps=0.01)
    span = span_frames(longest.num_frames, longest.sampling_rate, 30.0, longest.target_fps)
    assert clip_indices(10, 0.0, span, longest.num_frames).tolist() == [0, *[9] * 7]
    shortest = FrameOptions(sampling_rate=1e-300, target_fps=1e4)
    span = span_frames(shortest.num_frames, shortest.sampling_rate, 30.0, shortest.target_fps)
    assert clip_indices(10, 3.0, span, shortest.num_frames).tolist() == [3] * 8
