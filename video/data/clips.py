"""From options to loaders of clips, and one file to its views.

Letters: B samples, V views of one file, C channels, T frames, H and W height and width, N frames in a file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from revit.common.data import build
from revit.common.data.build import Split
from revit.common.data.dataset import Sample
from revit.common.data.lists import SampleList
from revit.common.data.loader import Loader
from revit.common.system.errors import UserError
from revit.video.data.decode import DecoderError, VideoInfo, Wanted
from revit.video.data.decode.reader import FrameReader
from revit.video.data.lists import read_clips
from revit.video.data.options import ClipLoadingOptions, ClipOptions, FrameOptions, ViewOptions
from revit.video.data.sampling import clip_indices, random_start, segment_indices, span_frames, view_starts
from revit.video.data.transforms import eval_pixels, eval_short_side, train_pixels, train_short_side


def read_split(options: ClipOptions, split: Split) -> SampleList:
    """The clips of one split, see `revit.common.data.build.read_split`."""
    source = options.source

    def read(where: str, names: Sequence[str] | None) -> SampleList:
        return read_clips(where, separator=source.separator, prefix=source.prefix, names=names)

    return build.read_split(source, split, read)


def build_train_loader(
    options: ClipOptions,
    batch_size: int,
    seed: int,
    *,
    clips: SampleList | None = None,
    rank: int = 0,
    num_ranks: int = 1,
) -> Loader:
    """Shuffled, augmented batches of one random clip per file, uint8 (B, C, T, H, W). Broken files are replaced.

    clips: the list, if it was read already.  The rest, and errors, as `revit.common.data.build.train_loader`.
    """
    clips = clips if clips is not None else read_split(options, "train")
    load = TrainClips(clips, options, make_reader(options.loading))
    return build.train_loader(load, clips, options.loading, batch_size, seed, rank=rank, num_ranks=num_ranks)


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
    """Every file of a split once, in list order, uint8 (B*V, C, T, H, W), the V views of a file adjacent.

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
    """The frame reader that the loading options describe, which reads `num_helpers` files at once at most.

    `UserError` if their decoder is not installed.
    """
    try:
        return FrameReader(options.decoder, options.decode_timeout_seconds, options.damaged, num_helpers)
    except DecoderError as error:
        raise UserError(f"data.loading.decoder: {error}") from None


def load_views(
    path: str, options: ClipOptions, views: ViewOptions | None = None, reader: FrameReader | None = None
) -> Tensor:
    """All views of one file, uint8 (V, C, T, H, W), temporal views outermost; `test_views` unless others are given.

    reader: for many files, one made by `make_reader` and closed by the caller. `DecodeError` if it cannot be read.
    """
    views = views or options.test_views
    if reader is not None:
        return read_views(path, options, views, reader)[0]
    own = make_reader(options.loading)
    try:
        return read_views(path, options, views, own)[0]
    finally:
        own.close()


def read_views(
    path: str, options: ClipOptions, views: ViewOptions, reader: FrameReader
) -> tuple[Tensor, str | None]:
    """Read all views of a file as `load_views` does, with a remark on one that is not whole."""
    told: list[VideoInfo] = []

    def choose(info: VideoInfo) -> Wanted:
        told.append(info)
        return eval_wanted(info, options, views)

    frames = reader.read(path, choose)
    pixels = eval_pixels(_to_clip(frames), options.pixels, views.num_crops)
    # (crops, C, K*T, H, W) -> (K, crops, C, T, H, W) -> (V, C, T, H, W)
    split = pixels.unflatten(2, (views.num_temporal_views, options.frames.num_frames))
    return split.permute(2, 0, 1, 3, 4, 5).flatten(0, 1).contiguous(), told[-1].remark


def eval_indices(info: VideoInfo, frames: FrameOptions, views: ViewOptions) -> Tensor:
    """Frame numbers int64 (K, T) of the K temporal views of a file."""
    if frames.sampling == "segments":
        return segment_indices(info.num_frames, frames.num_frames)[None]
    span = span_frames(frames.num_frames, frames.sampling_rate, info.fps, frames.target_fps)
    starts = view_starts(info.num_frames, span, views.num_temporal_views, frames.one_view)
    return torch.stack([clip_indices(info.num_frames, start, span, frames.num_frames) for start in starts])


def eval_wanted(info: VideoInfo, options: ClipOptions, views: ViewOptions) -> Wanted:
    """The frames of all temporal views, and to what the decoder shrinks them, if it is to."""
    short_side = eval_short_side(options.pixels, views.num_crops)
    numbers = eval_indices(info, options.frames, views)
    return Wanted(numbers, short_side if options.pixels.resize == "decoder" else None)


def train_indices(info: VideoInfo, frames: FrameOptions, generator: Generator) -> Tensor:
    """Frame numbers int64 (T,) of one random clip of a file."""
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
        """uint8 (1, C, T, H, W) and its class number."""
        pixels, short_side, remark = self.options.pixels, 0, None

        def choose(info: VideoInfo) -> Wanted:
            nonlocal short_side, remark
            remark = info.remark
            numbers = train_indices(info, self.options.frames, generator)
            short_side = train_short_side(pixels, generator)
            return Wanted(numbers, short_side if pixels.resize == "decoder" else None)

        path = self.clips.path(index)
        frames = self.reader.read(path, choose)
        clip = train_pixels(_to_clip(frames), pixels, short_side, generator)
        return Sample(clip[None], self.clips.label(index), remark=remark, path=path)


@dataclass
class EvalClips:
    """Reads all views of one clip: the `load` of an evaluation data set."""

    clips: SampleList
    options: ClipOptions
    views: ViewOptions
    reader: FrameReader

    def __call__(self, index: int, generator: Generator) -> Sample:
        """uint8 (V, C, T, H, W) and its class number. Nothing is random."""
        path = self.clips.path(index)
        views, remark = read_views(path, self.options, self.views, self.reader)
        return Sample(views, self.clips.label(index), remark=remark, path=path)


def _to_clip(frames: NDArray[np.uint8]) -> Tensor:
    """(T, H, W, C) to (T, C, H, W) without copying."""
    return torch.from_numpy(frames).permute(0, 3, 1, 2)
