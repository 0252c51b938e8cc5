"""Clips: from the configuration of a run to objects."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from revit.common.data.augment.options import AugmentOptions
from revit.common.data.balance import sample_shares
from revit.common.data.formats.base import Split
from revit.common.data.lists import SampleList
from revit.common.data.loader import Loader
from revit.common.data.reader import Views
from revit.common.methods.base import methods_found
from revit.common.methods.revit.adaptive import AdaptiveClassifier
from revit.common.methods.task import BatchAugment
from revit.common.modality import load
from revit.common.modality.load import teacher_from
from revit.common.modality.modality import Classifier, Modality
from revit.common.models.base import GridModel, Normalizer
from revit.common.models.load_report import LoadReport
from revit.common.system.errors import UserError
from revit.common.weights.source import Source
from revit.video.data.clips import build_eval_loader, build_train_loader, make_reader, read_split, read_views
from revit.video.data.decode.reader import FrameReader
from revit.video.data.lists import EXTENSIONS
from revit.video.data.options import ONE_VIEW, ClipOptions, ViewOptions
from revit.video.data.spans import span_warning
from revit.video.demo import make_motion_clips
from revit.video.models.timesformer import TimeSformer
from revit.video.options import VideoModel, VideoRun
from revit.video.weights.source import DIALECTS, infer
from revit.video.weights.start import start_from


def build_model(model: VideoModel, clips: ClipOptions, num_classes: int, **arguments: Any) -> TimeSformer:
    """Build an untrained model; frame count and picture size are the data's. `arguments` replace the configuration's."""
    settings = model.model_dump(exclude={"budget"}) | {"num_classes": num_classes}
    settings |= {"img_size": clips.pixels.crop_size, "num_frames": clips.frames.num_frames, **arguments}
    try:
        return TimeSformer(**settings)
    except ValueError as error:
        raise UserError(f"model: {error}") from error


@dataclass(frozen=True)
class ClipReader:
    """Reads views of clips, decoding in helper processes that `close` ends."""

    options: ClipOptions
    views: ViewOptions
    frames: FrameReader

    def read(self, path: str) -> Views:
        """Read uint8 (V, C, T, H, W). Raises DecodeError, a BrokenSample."""
        return read_views(path, self.options, self.views, self.frames)

    def close(self) -> None:
        """End the helper process."""
        self.frames.close()


@dataclass(frozen=True)
class Clips:
    """Clip files as inputs of a classifier."""

    options: ClipOptions
    noun: str = "clip"
    extensions: Collection[str] = EXTENSIONS

    def open(self, views: str, *, num_at_once: int = 1, salvage: bool | None = None) -> ClipReader:
        """Open a reader. views: see `parse_views`, or "test"."""
        chosen = self.options.test_views if views == "test" else parse_views(views)
        loading = self.options.loading
        if salvage is not None:
            loading = loading.model_copy(update={"damaged": "salvage" if salvage else "refuse"})
        return ClipReader(self.options, chosen, make_reader(loading, num_at_once))


def parse_views(text: str) -> ViewOptions:
    """Read "3" as three crops of the central stretch, "4x3" as four stretches of three crops each. UserError for others."""
    stretches, _, crops = text.rpartition("x")
    try:
        return ViewOptions(num_temporal_views=int(stretches or 1), num_crops=int(crops))  # type: ignore[arg-type]
    except ValueError:
        raise UserError(f"--views {text}: write CROPS or STRETCHESxCROPS with 1 or 3 crops, such as 3 or 4x3") from None


class VideoModality(Modality[VideoRun]):
    """Clips: inputs are (1, C, T, H, W)."""

    name = "video"
    plural = "clips"
    run_options = VideoRun
    dialects = DIALECTS

    def read_split(self, data: ClipOptions, split: Split) -> SampleList:
        return read_split(data, split)

    def data_warnings(self, options: VideoRun, split: Split) -> list[str]:
        line = span_warning(self.split(options, split), options.data)
        return [] if line is None else [line]

    def make_data(self, options: VideoRun) -> None:
        if options.data.demo is not None:
            make_motion_clips(options.data.demo, self.made_root(options), show_progress=True)

    def made_names(self, options: VideoRun) -> Sequence[str]:
        assert options.data.demo is not None
        return options.data.demo.motions

    def plain_model(self, options: VideoRun, num_classes: int, **arguments: Any) -> TimeSformer:
        return build_model(options.model, options.data, num_classes, **arguments)

    def start(self, model: GridModel, options: VideoRun, source: str) -> LoadReport:
        assert isinstance(model, TimeSformer)
        return start_from(
            model,
            source,
            position_resize=options.start.position_resize,
            label_names=self.label_names(options),
            pixels=options.data.pixels,
        )

    def teacher(self, options: VideoRun, source: str, key: str) -> nn.Module:
        names = self.label_names(options)
        return teacher_from(open_classifier(source), source, names, self.normalizer(options), own_size=True)

    def normalizer(self, options: VideoRun) -> Normalizer:
        return Normalizer(options.data.pixels.mean, options.data.pixels.std)

    def input_shape(self, options: VideoRun) -> tuple[int, ...]:
        size = options.data.pixels.crop_size
        return (1, 3, options.data.frames.num_frames, size, size)

    def num_views(self, options: VideoRun) -> int:
        return options.data.test_views.num_views

    def train_loader(
        self, options: VideoRun, split: Split, batch_size: int, rank: int = 0, num_ranks: int = 1
    ) -> Loader:
        data, clips, seed = self.data(options), self.split(options, split), options.run.seed
        shares = sample_shares(options.balance, clips)
        return build_train_loader(data, batch_size, seed, clips=clips, rank=rank, num_ranks=num_ranks, shares=shares)

    def assigner_loader(
        self, options: VideoRun, split: Split, batch_size: int, rank: int = 0, num_ranks: int = 1
    ) -> Loader:
        """Load a split shuffled, with the crop and the flip of `data.pixels` alone: what else is changed may need another
        token length."""
        plain = AugmentOptions(flip_probability=options.data.augment.flip_probability)
        data = options.data.model_copy(update={"augment": plain})
        return super().assigner_loader(options.model_copy(update={"data": data}), split, batch_size, rank, num_ranks)

    def batch_augment(self, options: VideoRun, num_classes: int) -> BatchAugment | None:
        # Imported here: it takes most of a second, and only trainings do it.
        from revit.common.data.augment.batches import build_batch_augment

        options.data.mix.check_batch(options.train.batch_size)
        return build_batch_augment(options.data.augment, options.data.mix, num_classes)

    def eval_loader(
        self,
        options: VideoRun,
        split: Split,
        batch_size: int,
        one_view: bool = False,
        rank: int = 0,
        num_ranks: int = 1,
    ) -> Loader:
        views = ONE_VIEW if one_view else None
        data, clips = self.data(options), self.split(options, split)
        return build_eval_loader(data, split, batch_size, views=views, clips=clips, rank=rank, num_ranks=num_ranks)

    def inputs(self, options: VideoRun) -> Clips:
        return Clips(options.data)

    def from_source(self, source: Source) -> Classifier:
        inferred = infer(source)
        model = build_model(inferred.model, inferred.clips, inferred.num_classes)
        methods = methods_found(source.tensors)
        for method in methods:
            method.attach(model)
        pixels = inferred.clips.pixels
        report = start_from(model, source, pixels=pixels)
        return Classifier(
            AdaptiveClassifier(model).eval(),
            Clips(inferred.clips),
            Normalizer(pixels.mean, pixels.std),
            (1, 3, inferred.clips.frames.num_frames, pixels.crop_size, pixels.crop_size),
            report.label_names,
            report=report,
            assumed=(*inferred.assumed, *(method.assumption for method in methods)),
        )


VIDEO = VideoModality()


def open_classifier(where: str) -> Classifier:
    """Open our checkpoint (or the run's folder with one), a published .pyth, a Hugging Face folder or `hf-hub:NAME`.

    Raises:
        UserError: nothing readable there, or no video model.
    """
    return load.open_classifier(where, (VIDEO,))
