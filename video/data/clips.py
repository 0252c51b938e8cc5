"""From options to loaders of clips: which frames of a file make its clips, and one file to its views.

Frames are chosen as the published TimeSformer code does it, with two differences: a single test view lies in the centre
unless `start` is asked for by name, and random numbers come from the generator that is passed in.

Letters: B samples, V views of one file, K of them in time, C channels, T frames, H and W height and width, N frames in a file.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from revit.common.data import build
from revit.common.data.dataset import Sample, target_of
from revit.common.data.formats.base import Split
from revit.common.data.lists import SampleList, Segment
from revit.common.data.loader import Loader
from revit.common.data.reader import Views
from revit.common.system.errors import UserError
from revit.video.data.decode.opening import DecodeError
from revit.video.data.decode.read import DecoderError, VideoInfo, Wanted
from revit.video.data.decode.reader import FrameReader
from revit.video.data.lists import read_clips
from revit.video.data.options import ClipLoadingOptions, ClipOptions, FrameOptions, ViewOptions
from revit.video.data.transforms import eval_pixels, eval_short_side, train_pixels, train_short_side

Choose = Callable[[VideoInfo], Wanted]
"""Function from facts about a file to the frames wanted of it."""


def read_split(options: ClipOptions, split: Split) -> SampleList:
    """Read the clips of one split, see `revit.common.data.build.read_split`."""
    return build.read_split(options.source, split, read_clips)


def build_train_loader(
    options: ClipOptions,
    batch_size: int,
    seed: int,
    *,
    clips: SampleList | None = None,
    rank: int = 0,
    num_ranks: int = 1,
    shares: NDArray[np.float64] | None = None,
) -> Loader:
    """Load shuffled, augmented batches of one random clip per file, uint8 (B, C, T, H, W). Broken files are replaced.

    clips: the list, if it was read already.  The rest, and errors, as `revit.common.data.build.train_loader`.
    """
    clips = clips if clips is not None else read_split(options, "train")
    load = TrainClips(clips, options, make_reader(options.loading))
    repeats = options.augment.repeats
    return build.train_loader(
        load, clips, options.loading, batch_size, seed, repeats=repeats, rank=rank, num_ranks=num_ranks, shares=shares
    )


def build_eval_loader(
    options: ClipOptions,
    split: Split,
    batch_size: int,
    *,
    views: ViewOptions | None = None,
    clips: SampleList | None = None,
    rank: int = 0,
    num_ranks: int = 1,
) -> Loader:
    """Load every file of a split once, in list order, uint8 (B*V, C, T, H, W), the V views of a file adjacent.

    views: None takes `test_views` for the test split and `val_views` for the others. The rest as
    `revit.common.data.build.eval_loader`.
    """
    clips = clips if clips is not None else read_split(options, split)
    views = views or (options.test_views if split == "test" else options.val_views)
    # Loads pytorchvideo, where these views need it, once here instead of once in every worker.
    view_starts(1, 1.0, views.num_temporal_views, options.frames.one_view)
    load = EvalClips(clips, options, views, make_reader(options.loading))
    return build.eval_loader(
        load, clips, options.loading, batch_size, num_views=views.num_views, rank=rank, num_ranks=num_ranks
    )


def make_reader(options: ClipLoadingOptions, num_helpers: int = 1) -> FrameReader:
    """Make a frame reader of `num_helpers` files at once at most. `UserError` if its decoder is not installed."""
    try:
        return FrameReader(options.decoder, options.decode_timeout_seconds, options.damaged, num_helpers)
    except DecoderError as error:
        raise UserError(f"data.loading.decoder: {error}") from None


def load_views(
    path: str, options: ClipOptions, views: ViewOptions | None = None, reader: FrameReader | None = None
) -> Tensor:
    """Read all views of one file, uint8 (V, C, T, H, W), temporal views outermost; `test_views` unless others are given.

    reader: for many files, one made by `make_reader` and closed by the caller. `DecodeError` if it cannot be read.
    """
    with closing(make_reader(options.loading)) if reader is None else nullcontext(reader) as own:
        return read_views(path, options, views or options.test_views, own).pixels


def read_views(
    path: str, options: ClipOptions, views: ViewOptions, reader: FrameReader, segment: Segment | None = None
) -> Views:
    """Read all views of a file, or of a segment of it, as `load_views` does, with a remark on a file that is not whole."""
    told: list[VideoInfo] = []

    def choose(info: VideoInfo) -> Wanted:
        told.append(info)
        return eval_wanted(info, options, views)

    frames = reader.read(path, within(segment, path, choose))
    pixels = eval_pixels(_to_clip(frames), options.pixels, views.num_crops)
    # (crops, C, K*T, H, W) -> (K, crops, C, T, H, W) -> (V, C, T, H, W)
    split = pixels.unflatten(2, (views.num_temporal_views, options.frames.num_frames))
    return Views(split.permute(2, 0, 1, 3, 4, 5).flatten(0, 1).contiguous(), told[-1].remark)


def within(segment: Segment | None, path: str, choose: Choose) -> Choose:
    """Return a chooser of frames of a file, from one that takes the segment for the whole file; the same without a segment."""
    if segment is None:
        return choose

    def choose_within(info: VideoInfo) -> Wanted:
        try:
            first, count = segment.frames(info.num_frames, info.fps)
        except ValueError as error:
            raise DecodeError(path, str(error)) from None
        wanted = choose(replace(info, num_frames=count, duration_seconds=count / info.fps))
        return replace(wanted, numbers=np.asarray(wanted.numbers) + first)

    return choose_within


Real = float | Fraction


def span_frames(num_frames: int, sampling_rate: float, fps: float, target_fps: float = 30.0) -> float:
    """Return the length of a clip in frames of the file, a real number: sampling_rate * T * fps / target_fps."""
    return sampling_rate * num_frames * fps / target_fps


def random_start(num_total: int, span: float, generator: Generator) -> float:
    """Draw a clip's first frame as a real number, uniform in [0, max(N - span, 0)]."""
    return max(num_total - span, 0.0) * float(torch.rand((), generator=generator, dtype=torch.float64))


def view_starts(
    num_total: int, span: float, num_views: int, one_view: Literal["centre", "start"] = "centre"
) -> list[Fraction]:
    """Return the first frames of the K views of a test, exact.

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
    """Return frame numbers int64 (T,) of the clip that begins at `start` (a real number).

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
    """Return frame numbers int64 (T,), one from each of T equal parts of the file (published for Something-Something).

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


def eval_indices(info: VideoInfo, frames: FrameOptions, views: ViewOptions) -> Tensor:
    """Return frame numbers int64 (K, T) of the K temporal views of a file."""
    if frames.sampling == "segments":
        return segment_indices(info.num_frames, frames.num_frames)[None]
    span = span_frames(frames.num_frames, frames.sampling_rate, info.fps, frames.target_fps)
    starts = view_starts(info.num_frames, span, views.num_temporal_views, frames.one_view)
    return torch.stack([clip_indices(info.num_frames, start, span, frames.num_frames) for start in starts])


def eval_wanted(info: VideoInfo, options: ClipOptions, views: ViewOptions) -> Wanted:
    """Return the frames of all temporal views, and to what the decoder shrinks them, if it is to."""
    short_side = eval_short_side(options.pixels, views.num_crops)
    numbers = eval_indices(info, options.frames, views)
    return Wanted(numbers, short_side if options.pixels.resize == "decoder" else None)


def train_indices(info: VideoInfo, frames: FrameOptions, generator: Generator) -> Tensor:
    """Return frame numbers int64 (T,) of one random clip of a file."""
    if frames.sampling == "segments":
        return segment_indices(info.num_frames, frames.num_frames, generator)
    span = span_frames(frames.num_frames, frames.sampling_rate, info.fps, frames.target_fps)
    start = random_start(info.num_frames, span, generator)
    return clip_indices(info.num_frames, start, span, frames.num_frames)


@dataclass
class TrainClips:
    """Reads one augmented clip: the `load` of the training data set."""

    clips: SampleList
    options: ClipOptions
    reader: FrameReader

    def __call__(self, index: int, generator: Generator) -> Sample:
        """Read uint8 (1, C, T, H, W) and its class number."""
        pixels, augment = self.options.pixels, self.options.augment
        short_side, remark = 0, None

        def choose(info: VideoInfo) -> Wanted:
            nonlocal short_side, remark
            remark = info.remark
            numbers = train_indices(info, self.options.frames, generator)
            if augment.scale is None:
                short_side = train_short_side(pixels, generator)
            return Wanted(numbers, short_side or None if pixels.resize == "decoder" else None)

        path = self.clips.file(index)
        frames = self.reader.read(path, within(self.clips.segment(index), path, choose))
        clip = train_pixels(_to_clip(frames), pixels, short_side, generator, augment)
        return Sample(clip[None], target_of(self.clips, index), remark=remark, path=path)


@dataclass
class EvalClips:
    """Reads all views of one clip: the `load` of an evaluation data set."""

    clips: SampleList
    options: ClipOptions
    views: ViewOptions
    reader: FrameReader

    def __call__(self, index: int, generator: Generator) -> Sample:
        """Read uint8 (V, C, T, H, W) and its class number. Nothing is random."""
        path = self.clips.file(index)
        views = read_views(path, self.options, self.views, self.reader, self.clips.segment(index))
        return Sample(views.pixels, target_of(self.clips, index), remark=views.remark, path=path)


def _to_clip(frames: NDArray[np.uint8]) -> Tensor:
    """Turn (T, H, W, C) to (T, C, H, W) without copying."""
    return torch.from_numpy(frames).permute(0, 3, 1, 2)
