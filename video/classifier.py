"""Classifiers of clips, from our checkpoint or from weights made elsewhere."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from revit.common.data.reader import Views
from revit.common.methods.registry import methods_found
from revit.common.methods.revit.adaptive import AdaptiveClassifier
from revit.common.modality import classifier as common
from revit.common.modality.classifier import Classifier, Kind
from revit.common.models.layers.normalizer import Normalizer
from revit.common.system.errors import UserError
from revit.common.weights.source import Source
from revit.video.build import VideoPackage, build_model
from revit.video.data.clips import make_reader, read_views
from revit.video.data.decode.reader import FrameReader
from revit.video.data.lists import EXTENSIONS
from revit.video.data.options import ClipOptions, ViewOptions
from revit.video.options import VideoRun
from revit.video.weights.infer import infer
from revit.video.weights.source import DIALECTS
from revit.video.weights.start import start_from_source


@dataclass(frozen=True)
class ClipReader:
    """Reads views of clips, decoding in helper processes that `close` ends."""

    options: ClipOptions
    views: ViewOptions
    frames: FrameReader

    def read(self, path: str) -> Views:
        """uint8 (V, C, T, H, W). Raises DecodeError, a BrokenSample."""
        return Views(*read_views(path, self.options, self.views, self.frames))

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
    """ "3" is three crops of the central stretch, "4x3" four stretches of three crops each.

    Raises:
        UserError: anything else.
    """
    stretches, _, crops = text.rpartition("x")
    try:
        return ViewOptions(num_temporal_views=int(stretches or 1), num_crops=int(crops))  # type: ignore[arg-type]
    except ValueError:
        raise UserError(
            f"--views {text}: write CROPS or STRETCHESxCROPS with 1 or 3 crops, such as 3 or 4x3"
        ) from None


def open_classifier(where: str) -> Classifier:
    """Opens our checkpoint (or the run's folder with one), a published .pyth, a Hugging Face folder or `hf-hub:NAME`.

    Raises:
        UserError: nothing readable there, or no video model.
    """
    return common.open_classifier(where, (VIDEO,))


def from_source(source: Source) -> Classifier:
    """A classifier of clips from a TimeSformer made elsewhere."""
    inferred = infer(source)
    model = build_model(inferred.model, inferred.clips, inferred.num_classes)
    methods = methods_found(source.tensors)
    for method in methods:
        method.attach(model)
    pixels = inferred.clips.pixels
    report = start_from_source(model, source, pixels=pixels)
    return Classifier(
        AdaptiveClassifier(model).eval(),
        Clips(inferred.clips),
        Normalizer(pixels.mean, pixels.std),
        (1, 3, inferred.clips.frames.num_frames, pixels.crop_size, pixels.crop_size),
        report.label_names,
        report=report,
        assumed=(*inferred.assumed, *(method.assumption for method in methods)),
    )


def _inputs(run: VideoRun) -> Clips:
    return Clips(run.data)


VIDEO = Kind("video", "clips", VideoRun, VideoPackage(), _inputs, from_source, DIALECTS)
