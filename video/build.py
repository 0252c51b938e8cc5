"""From a video configuration to objects: what clips bring to the shared recipe."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from revit.common.data.build import Split
from revit.common.data.loader import Loader
from revit.common.modality.listed import ListedPackage
from revit.common.modality.teacher import teacher_from
from revit.common.models.base import GridModel
from revit.common.models.layers.normalizer import Normalizer
from revit.common.models.load_report import LoadReport
from revit.common.system.errors import UserError
from revit.video.data.clips import build_eval_loader, build_train_loader, read_split
from revit.video.data.options import ClipOptions, ViewOptions
from revit.video.demo import make_motion_clips
from revit.video.models.timesformer import TimeSformer
from revit.video.options import VideoModel, VideoRun
from revit.video.weights.start import start_from

ONE_VIEW = ViewOptions(num_temporal_views=1, num_crops=1)


def build_model(model: VideoModel, clips: ClipOptions, num_classes: int, **arguments: Any) -> TimeSformer:
    """The untrained model of a configuration; frame count and picture size are the data's. `arguments` replace its own."""
    settings = model.model_dump(exclude={"budget"}) | {"num_classes": num_classes}
    settings |= {"img_size": clips.pixels.crop_size, "num_frames": clips.frames.num_frames, **arguments}
    try:
        return TimeSformer(**settings)
    except ValueError as error:
        raise UserError(f"model: {error}") from error


class VideoPackage(ListedPackage):
    """What clips bring to the shared recipe (`revit.common.modality.package.Package`)."""

    read_split = staticmethod(read_split)

    def make_data(self, options: VideoRun) -> None:
        """Make the demo's clips under RUN_DIR/data."""
        if options.data.demo is not None:
            make_motion_clips(options.data.demo, self.made_root(options), show_progress=True)

    def made_names(self, options: VideoRun) -> Sequence[str]:
        """The motions of the demo's clips."""
        assert options.data.demo is not None
        return options.data.demo.motions

    def plain_model(self, options: VideoRun, num_classes: int, **arguments: Any) -> TimeSformer:
        """The untrained model without methods."""
        return build_model(options.model, options.data, num_classes, **arguments)

    def start(self, model: GridModel, options: VideoRun, source: str) -> LoadReport:
        """Load weights made elsewhere."""
        assert isinstance(model, TimeSformer)
        return start_from(
            model,
            source,
            position_resize=options.start.position_resize,
            label_names=self.label_names(options),
            pixels=options.data.pixels,
        )

    def teacher(self, options: VideoRun, source: str, key: str) -> nn.Module:
        """A classifier of clips that `predict` opens. `key` is for pictures, which have more to choose from."""
        # Here, as opening a classifier needs the package.
        from revit.video.classifier import open_classifier

        names = self.label_names(options)
        return teacher_from(open_classifier(source), source, names, self.pixels(options), own_size=True)

    def pixels(self, options: VideoRun) -> Normalizer:
        """uint8 clips -> normalised floats."""
        return Normalizer(options.data.pixels.mean, options.data.pixels.std)

    def input_shape(self, options: VideoRun) -> tuple[int, ...]:
        """(1, C, T, H, W)"""
        size = options.data.pixels.crop_size
        return (1, 3, options.data.frames.num_frames, size, size)

    def num_views(self, options: VideoRun) -> int:
        """Stretches times crops of the final test."""
        return options.data.test_views.num_views

    def train_loader(
        self, options: VideoRun, split: Split, batch_size: int, rank: int = 0, num_ranks: int = 1
    ) -> Loader:
        """Shuffled, augmented, broken samples replaced."""
        data, clips = self.data(options), self.split(options, split)
        return build_train_loader(
            data, batch_size, options.run.seed, clips=clips, rank=rank, num_ranks=num_ranks
        )

    def eval_loader(
        self,
        options: VideoRun,
        split: Split,
        batch_size: int,
        one_view: bool = False,
        rank: int = 0,
        num_ranks: int = 1,
    ) -> Loader:
        """In list order, nothing replaced."""
        views = ONE_VIEW if one_view else None
        data, clips = self.data(options), self.split(options, split)
        return build_eval_loader(
            data, split, batch_size, views=views, clips=clips, rank=rank, num_ranks=num_ranks
        )
