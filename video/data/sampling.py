"""Which frames make a clip: pure functions from the length of a file to frame numbers.

Letters: N frames in the file, T frames in the clip, K views. As the published TimeSformer code does it, with two
differences: a single test view lies in the centre unless `start` is asked for by name, and random numbers come from the
generator that is passed in.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Literal

import torch
from torch import Generator, Tensor

Real = float | Fraction


def span_frames(num_frames: int, sampling_rate: float, fps: float, target_fps: float = 30.0) -> float:
    """Length of a clip in frames of the file, a real number: sampling_rate * T * fps / target_fps."""
    return sampling_rate * num_frames * fps / target_fps


def random_start(num_total: int, span: float, generator: Generator) -> float:
    """Training: the clip's first frame as a real number, uniform in [0, max(N - span, 0)]."""
    return max(num_total - span, 0.0) * float(torch.rand((), generator=generator, dtype=torch.float64))


def view_starts(
    num_total: int, span: float, num_views: int, one_view: Literal["centre", "start"] = "centre"
) -> list[Fraction]:
    """Testing: first frames of the K views, exact.

    View k of K begins at delta * k / K with delta = max(N - span, 0): pytorchvideo's constant clips per video, as
    published, so that the last of several views never reaches the end of the file. A single view lies in the centre
    (delta / 2); the published formula puts it at the start (`one_view="start"`), although its author describes the
    centre.
    """
    if num_views == 1 and one_view == "centre":
        return [max(Fraction(num_total) - Fraction(span), Fraction(0)) / 2]
    # Imported here: it takes a second, and a single centre view does without.
    from pytorchvideo.data.clip_sampling import ConstantClipsPerVideoSampler

    # The sampler only subtracts and divides: fed with frames instead of seconds it answers in frames. It is called K
    # times whatever it says about the end, because a file no longer than the clip has K equal views here.
    sampler = ConstantClipsPerVideoSampler(Fraction(span), num_views)
    return [sampler(0, Fraction(num_total), {}).clip_start_sec for _ in range(num_views)]


def clip_indices(num_total: int, start: Real, span: float, num_frames: int) -> Tensor:
    """Frame numbers int64 (T,) of the clip that begins at `start` (a real number).

    The frames from `start` to start + span - 1, always with one frame beyond, are listed; T positions evenly spaced over
    [0, span - 1] are cut to whole numbers and looked up in the list, the last frame standing in for what is missing. So
    the stride is (span - 1) / (T - 1), not the sampling rate, a start between two frames rounds up, and files shorter
    than the span end in repeats of their last frame.
    """
    first = min(math.ceil(start), num_total - 1)
    last = min(math.floor(start + Fraction(span) - 1) + 1, num_total - 1)
    # float32, as published: the rounding of evenly spaced positions decides some frames.
    positions = torch.linspace(0, max(span - 1, 0), num_frames)
    return first + positions.clamp(0, max(last - first, 0)).long()


def segment_indices(num_total: int, num_frames: int, generator: Generator | None = None) -> Tensor:
    """Frame numbers int64 (T,), one from each of T equal parts of the file (published for Something-Something).

    With a generator (training) uniform in [round(s*i), round(s*(i+1))], s = (N - 1) / T, both ends included;
    without one, the whole-number middle.
    """
    segment = (num_total - 1) / num_frames
    indices = []
    for part in range(num_frames):
        low, high = round(segment * part), round(segment * (part + 1))
        if generator is None:
            indices.append((low + high) // 2)
        else:
            indices.append(int(torch.randint(low, high + 1, (), generator=generator)))
    return torch.tensor(indices)
