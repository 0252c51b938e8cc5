"""Frame numbers of clips: the lists measured on the published code, and properties over random files."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch

from revit.video.data.clips import clip_indices, random_start, segment_indices, span_frames, view_starts
from revit.video.data.decode.index import VideoInfo


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# frames in the file, frames per second, T, sampling rate, measured numbers of one published test view
MEASURED = [
    (300, 30, 8, 32, [0, 36, 72, 109, 145, 182, 218, 255]),
    (300, 30, 16, 16, [0, 17, 34, 51, 68, 85, 102, 119, 136, 153, 170, 187, 204, 221, 238, 255]),
    (250, 25, 8, 32, [0, 30, 60, 91, 121, 151, 182, 212]),
    (600, 60, 8, 32, [0, 73, 146, 219, 292, 365, 438, 511]),
    (100, 30, 8, 32, [0, 36, 72, 99, 99, 99, 99, 99]),
]


@pytest.mark.parametrize(("total", "fps", "num_frames", "rate", "expected"), MEASURED)
def test_published_single_view(total, fps, num_frames, rate, expected):
    span = span_frames(num_frames, rate, fps)
    (start,) = view_starts(total, span, 1, "start")
    assert clip_indices(total, start, span, num_frames).tolist() == expected


def test_three_published_views_begin_where_measured():
    span = span_frames(8, 8, 30)
    starts = view_starts(300, span, 3)
    assert starts == [0, Fraction(236, 3), Fraction(472, 3)]
    clips = [clip_indices(300, start, span, 8).tolist() for start in starts]
    assert [clip[0] for clip in clips] == [0, 79, 158]
    assert clips[2][-1] == 221  # the published views never reach the end


def test_a_single_view_lies_in_the_centre_by_default():
    span = span_frames(8, 8, 30)
    (start,) = view_starts(300, span, 1)
    clip = clip_indices(300, start, span, 8)
    assert start == 118
    assert int(clip[0]) + int(clip[-1]) == 299


@pytest.mark.parametrize("total", [1, 2, 7, 64, 65, 1000])
@pytest.mark.parametrize("fps", [5.0, 24.0, 29.97, 60.0])
@pytest.mark.parametrize("num_frames", [1, 8, 96])
def test_numbers_are_ordered_and_inside_the_file(total, fps, num_frames):
    span = span_frames(num_frames, 4, fps)
    starts = [*view_starts(total, span, 5), *view_starts(total, span, 1)]
    starts += [random_start(total, span, generator(seed)) for seed in range(5)]
    for start in starts:
        numbers = clip_indices(total, start, span, num_frames)
        assert numbers.shape == (num_frames,)
        assert int(numbers.min()) >= 0
        assert int(numbers.max()) < total
        assert (numbers.diff() >= 0).all()
    assert len(starts) == 11


def test_a_start_between_two_frames_rounds_up():
    assert clip_indices(300, 10.001, 64.0, 8)[0] == 11
    assert clip_indices(300, 10.0, 64.0, 8)[0] == 10


def test_random_starts_cover_the_whole_range():
    starts = [random_start(300, 64.0, generator(seed)) for seed in range(400)]
    assert 0 <= min(starts) < 6
    assert 230 < max(starts) <= 236
    assert random_start(10, 64.0, generator()) == 0


def test_segments_take_the_middle_or_a_random_frame_of_each_part():
    # 41 frames in 8 parts of 5: bounds 0, 5, 10, ...
    assert segment_indices(41, 8).tolist() == [2, 7, 12, 17, 22, 27, 32, 37]
    draws = torch.stack([segment_indices(41, 8, generator(seed)) for seed in range(300)])
    for part in range(8):
        assert set(draws[:, part].tolist()) == set(range(5 * part, 5 * part + 6))
    assert segment_indices(1, 8).tolist() == [0] * 8


def test_views_of_a_file_shorter_than_the_clip_are_all_made():
    from revit.video.data.clips import eval_indices
    from revit.video.data.options import FrameOptions, ViewOptions

    info = VideoInfo(num_frames=20, fps=30.0, width=8, height=8, rotation=0, duration_seconds=0.7)
    numbers = eval_indices(info, FrameOptions(), ViewOptions(num_temporal_views=4))
    assert numbers.shape == (4, 8)
    assert (numbers == numbers[0]).all()
    assert numbers[0].tolist() == [0] + [19] * 7
