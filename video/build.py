"""From a video configuration to objects: what clips bring to the shared recipe."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from torch import nn

from revit.common.data.build import Split
from revit.common.data.lists import SampleList
from revit.common.data.loader import Loader
from revit.common.engine.listed import ListedPackage
from revit.common.errors import UserError
from revit.common.layers.pixels import PixelNorm
from revit.common.load_report import LoadReport
from revit.common.made_data import MadeData
from revit.common.vit import ResizableTransformer
from revit.video.data.clips import build_eval_loader, build_train_loader, read_split
from revit.video.data.options import ClipOptions, ViewOptions
from revit.video.demo import make_motion_clips
from revit.video.models.timesformer import TimeSformer
from revit.video.options import VideoModel, VideoRun
from revit.video.weights.start import start_from

ONE_VIEW = ViewOptions(num_temporal_views=1, num_crops=1)


def build_model(model: VideoModel, clips: ClipOptions, num_classes: int) -> TimeSformer:
    """The untrained model of a configuration; frame count and picture size are the data's."""
    settings = model.model_dump(exclude={"num_classes"})
    try:
        return TimeSformer(
            img_size=clips.pixels.crop_size,
            num_frames=clips.frames.num_frames,
            num_classes=num_classes,
            **settings,
        )
    except ValueError as error:
        raise UserError(f"model: {error}") from error


@lru_cache(maxsize=8)
def _clips(options: ClipOptions, split: Split) -> SampleList:
    return read_split(options, split)


class VideoPackage(ListedPackage):
    """What clips bring to the shared recipe (`revit.common.engine.package.Package`)."""

    def make_data(self, options: VideoRun) -> None:
        """Make the demo's clips under RUN_DIR/data."""
        if options.data.demo is not None:
            make_motion_clips(options.data.demo, self._demo_root(options), show_progress=True)

    def label_names(self, options: VideoRun) -> Sequence[str]:
        """Class names; class numbers as text where the source has none. UserError if they contradict the model."""
        if options.data.demo is not None and options.model.num_classes is None:
            return options.data.demo.motions  # known before the clips are made
        clips = _clips(self.clip_options(options), self._first_split(options))
        names = clips.names or tuple(str(number) for number in range(max(clips.labels) + 1))
        wanted = options.model.num_classes
        if wanted is None or wanted == len(names):
            return names
        if clips.names is None and len(names) < wanted:
            return tuple(str(number) for number in range(wanted))
        raise UserError(
            f"model.num_classes is {wanted}, but {clips.source} has {len(names)} classes; correct it or leave it out"
        )

    def _first_split(self, options: VideoRun) -> Split:
        """The list that classes are taken from: train, or what there is to evaluate on."""
        splits: tuple[Split, ...] = ("train", "val", "test")
        return next((split for split in splits if self.has_split(options, split)), "train")

    def _split(self, options: VideoRun, split: Split) -> SampleList:
        """A list whose labels all fit the model."""
        clips = _clips(self.clip_options(options), split)
        clips.check_classes(len(self.label_names(options)))
        return clips

    def paths(self, options: VideoRun, split: Split) -> Sequence[str]:
        """Files of a split, position = sample id."""
        clips = self._split(options, split)
        return [clips.path(index) for index in range(len(clips))]

    def has_split(self, options: VideoRun, split: Split) -> bool:
        """Whether there is a list for this split."""
        return getattr(self.clip_options(options).source, split) is not None

    def build_model(self, options: VideoRun, num_classes: int) -> TimeSformer:
        """The untrained model."""
        return build_model(options.model, options.data, num_classes)

    def start(self, model: ResizableTransformer, options: VideoRun, source: str) -> LoadReport:
        """Load weights made elsewhere."""
        assert isinstance(model, TimeSformer)
        return start_from(
            model,
            source,
            position_resize=options.start.position_resize,
            label_names=self.label_names(options),
        )

    def pixels(self, options: VideoRun) -> nn.Module:
        """uint8 clips -> normalised floats."""
        return PixelNorm(options.data.pixels.mean, options.data.pixels.std)

    def input_shape(self, options: VideoRun) -> tuple[int, ...]:
        """(1, C, T, H, W)"""
        size = options.data.pixels.crop_size
        return (1, 3, options.data.frames.num_frames, size, size)

    def num_views(self, options: VideoRun) -> int:
        """Stretches times crops of the final test."""
        return options.data.test_views.num_views

    def train_loader(self, options: VideoRun, split: Split, batch_size: int) -> Loader:
        """Shuffled, augmented, broken samples replaced."""
        clips = self._split(options, split)
        return build_train_loader(self.clip_options(options), batch_size, options.run.seed, clips=clips)

    def eval_loader(self, options: VideoRun, split: Split, batch_size: int, one_view: bool = False) -> Loader:
        """In list order, nothing replaced."""
        views = ONE_VIEW if one_view else None
        clips = self._split(options, split)
        return build_eval_loader(self.clip_options(options), split, batch_size, views=views, clips=clips)

    def clip_options(self, options: VideoRun) -> ClipOptions:
        """The data section with the demo's lists filled in."""
        clips = ClipOptions(**{name: getattr(options.data, name) for name in ClipOptions.model_fields})
        if options.data.demo is None:
            return clips
        made = MadeData.under(self._demo_root(options))
        if not made.train.exists():
            raise UserError(f"{made.train} is not there; run the stage 'data' first")
        source = clips.source.model_copy(
            update={
                "train": str(made.train),
                "val": str(made.val),
                "test": str(made.test),
                "label_names": str(made.classes),
                "prefix": str(made.root),
            }
        )
        return clips.model_copy(update={"source": source})

    def _demo_root(self, options: VideoRun) -> Path:
        return Path(options.run.dir) / "data"
