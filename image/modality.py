"""Pictures: from the configuration of a run to objects."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from revit.common.data import build
from revit.common.data.build import Split
from revit.common.data.lists import SampleList
from revit.common.data.loader import Loader
from revit.common.data.reader import Views
from revit.common.methods.revit.adaptive import AdaptiveClassifier
from revit.common.methods.task import BatchAugment, Task
from revit.common.modality import load
from revit.common.modality.classifier import Classifier
from revit.common.modality.modality import Modality
from revit.common.models.base import GridModel
from revit.common.models.layers.normalizer import PixelNorm
from revit.common.models.load_report import LoadReport
from revit.common.system.errors import UserError
from revit.common.weights.source import Source
from revit.image.data.augment import build_batch_augment
from revit.image.data.lists import EXTENSIONS
from revit.image.data.options import PictureOptions
from revit.image.data.pictures import (
    EvalPictures,
    build_eval_loader,
    build_train_loader,
    load_picture,
    read_split,
)
from revit.image.demo import DIGITS, make_digit_pictures
from revit.image.models.variants import VARIANTS
from revit.image.options import AsViTModel, ImageModel, ImageRun
from revit.image.tasks import TokenLabelTask
from revit.image.teacher import TeacherDistillation, TeacherTask, load_teacher
from revit.image.weights.infer import infer
from revit.image.weights.start import start_from, start_from_source


def build_model(
    model: ImageModel | AsViTModel, pictures: PictureOptions, num_classes: int, **arguments: Any
) -> GridModel:
    """The untrained model of a configuration; the picture size is the data's. `arguments` replace its own."""
    given = {
        "img_size": pictures.pixels.img_size,
        "num_classes": num_classes,
        **model.arguments(),
        **arguments,
    }
    try:
        return VARIANTS[model.name].build(**given)
    except ValueError as error:
        raise UserError(f"model: {error}") from error


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


class ImageModality(Modality[ImageRun]):
    """Pictures."""

    name = "image"
    plural = "pictures"
    run_options = ImageRun

    def read_split(self, data: PictureOptions, split: Split) -> SampleList:
        """Read a list, a folder or a tar file of pictures."""
        return read_split(data, split)

    def make_data(self, options: ImageRun) -> None:
        """Make the demo's pictures under RUN_DIR/data."""
        if options.data.demo is not None:
            make_digit_pictures(options.data.demo, self.made_root(options), show_progress=True)

    def made_names(self, options: ImageRun) -> Sequence[str]:
        """The digits."""
        return DIGITS

    def plain_model(self, options: ImageRun, num_classes: int, **arguments: Any) -> GridModel:
        """The untrained model without methods."""
        return build_model(options.model, options.data, num_classes, **arguments)

    def start(self, model: GridModel, options: ImageRun, source: str) -> LoadReport:
        """Load weights made elsewhere."""
        return start_from(
            model,
            source,
            position_resize=options.start.position_resize,
            label_names=self.label_names(options),
            pixels=options.data.pixels,
        )

    def normalizer(self, options: ImageRun) -> PixelNorm:
        """uint8 pictures -> normalised floats."""
        return PixelNorm(options.data.pixels.mean, options.data.pixels.std)

    def input_shape(self, options: ImageRun) -> tuple[int, ...]:
        """(1, C, H, W)"""
        return (1, 3, *options.data.pixels.size)

    def num_views(self, options: ImageRun) -> int:
        """One: the central crop."""
        return 1

    def task(self, options: ImageRun) -> Task:
        """All grids, the shorter ones taught by the longest, or all by another network; for LV-ViT with the losses of its
        patches."""
        teacher = options.distill.teacher
        if teacher is not None:
            network = load_teacher(teacher.source, self.label_names(options), self.normalizer(options))
            loss = TeacherDistillation(teacher.kind, teacher.alpha, teacher.tau, options.label_smoothing)
            return TeacherTask(loss, network)
        if not isinstance(options.model, ImageModel) or not options.model.is_lvvit:
            return super().task(options)
        distill, labels = self.distillation(options), options.data.token_labels
        return TokenLabelTask.from_options(distill, options.model.mix_token, labels)

    def teacher(self, options: ImageRun, source: str, key: str) -> nn.Module:
        """Any classifier of timm's, or one that `predict` opens."""
        return load_teacher(
            source, self.label_names(options), self.normalizer(options), own_size=True, key=key
        )

    def batch_augment(self, options: ImageRun, num_classes: int) -> BatchAugment | None:
        """Random erasing, then mixup or cutmix."""
        return build_batch_augment(options.data.augment, options.data.mix, num_classes)

    def train_loader(
        self, options: ImageRun, split: Split, batch_size: int, rank: int = 0, num_ranks: int = 1
    ) -> Loader:
        """Shuffled, augmented, broken samples replaced."""
        return build_train_loader(
            self.data(options),
            batch_size,
            options.run.seed,
            pictures=self.split(options, split),
            num_classes=len(self.label_names(options)),
            rank=rank,
            num_ranks=num_ranks,
        )

    def assigner_loader(
        self, options: ImageRun, split: Split, batch_size: int, rank: int = 0, num_ranks: int = 1
    ) -> Loader:
        """Shuffled, but as they are evaluated: a random crop may show a part that needs another token length."""
        pictures, data = self.split(options, split), self.data(options)
        load = EvalPictures(pictures, data)
        return build.train_loader(
            load, pictures, data.loading, batch_size, options.run.seed, rank=rank, num_ranks=num_ranks
        )

    def eval_loader(
        self,
        options: ImageRun,
        split: Split,
        batch_size: int,
        one_view: bool = False,
        rank: int = 0,
        num_ranks: int = 1,
    ) -> Loader:
        """In list order, nothing replaced."""
        data, pictures = self.data(options), self.split(options, split)
        return build_eval_loader(data, split, batch_size, pictures=pictures, rank=rank, num_ranks=num_ranks)

    def inputs(self, options: ImageRun) -> Pictures:
        """Return the reader of single pictures, prepared as in the run's evaluation."""
        return Pictures(options.data)

    def from_source(self, source: Source) -> Classifier:
        """A classifier of pictures from a model made elsewhere."""
        inferred = infer(source)
        model = inferred.build()
        pixels = inferred.pictures.pixels
        report = start_from_source(model, source, pixels=pixels)
        return Classifier(
            AdaptiveClassifier(model).eval(),
            Pictures(inferred.pictures),
            PixelNorm(pixels.mean, pixels.std),
            (1, 3, *pixels.size),
            inferred.label_names,
            report=report,
            assumed=inferred.assumed,
        )


IMAGE = ImageModality()


def open_classifier(where: str) -> Classifier:
    """Open our checkpoint (or the run's folder with one), or weights of a ViT, DeiT or LV-ViT (see `infer`).

    Raises:
        UserError: nothing readable there, or no image model.
    """
    return load.open_classifier(where, (IMAGE,))
