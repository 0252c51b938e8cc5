"""Classifiers of pictures, from our checkpoint or from weights made elsewhere."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from revit.common.data.reader import Views
from revit.common.methods.revit.adaptive import AdaptiveClassifier
from revit.common.modality import classifier as common
from revit.common.modality.classifier import Classifier, Kind
from revit.common.models.layers.normalizer import Normalizer
from revit.common.system.errors import UserError
from revit.common.weights.source import Source
from revit.image.build import ImagePackage
from revit.image.data.lists import EXTENSIONS
from revit.image.data.options import PictureOptions
from revit.image.data.pictures import load_picture
from revit.image.options import ImageRun
from revit.image.weights.infer import infer
from revit.image.weights.start import start_from_source


@dataclass(frozen=True)
class PictureReader:
    """Reads one picture after the other; holds nothing open."""

    options: PictureOptions

    def read(self, path: str) -> Views:
        """uint8 (1, C, H, W). Raises BrokenSample."""
        return Views(load_picture(path, self.options))

    def close(self) -> None:
        """Nothing to do."""


@dataclass(frozen=True)
class Pictures:
    """Picture files as inputs of a classifier."""

    options: PictureOptions
    noun: str = "picture"
    extensions: Collection[str] = EXTENSIONS

    def open(self, views: str, *, num_at_once: int = 1, salvage: bool | None = None) -> PictureReader:
        """views: "1" or "test", both the central crop. A damaged picture is refused in any case."""
        if views not in ("1", "test"):
            raise UserError(f"--views {views}: a picture has one view, the centre; leave --views out")
        return PictureReader(self.options)


def open_classifier(where: str) -> Classifier:
    """Opens our checkpoint (or the run's folder with one), or weights of a ViT, DeiT or LV-ViT (see `infer`).

    Raises:
        UserError: nothing readable there, or no image model.
    """
    return common.open_classifier(where, (IMAGE,))


def from_source(source: Source) -> Classifier:
    """A classifier of pictures from a model made elsewhere."""
    inferred = infer(source)
    model = inferred.build()
    pixels = inferred.pictures.pixels
    report = start_from_source(model, source, pixels=pixels)
    return Classifier(
        AdaptiveClassifier(model).eval(),
        Pictures(inferred.pictures),
        Normalizer(pixels.mean, pixels.std),
        (1, 3, *pixels.size),
        inferred.label_names,
        report=report,
        assumed=inferred.assumed,
    )


def _inputs(run: ImageRun) -> Pictures:
    return Pictures(run.data)


IMAGE = Kind("image", "pictures", ImageRun, ImagePackage(), _inputs, from_source)
