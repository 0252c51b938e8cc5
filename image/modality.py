"""Pictures: from the configuration of a run to objects."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import timm

from revit.common.data import build
from revit.common.data.augment.batches import build_batch_augment
from revit.common.data.balance import sample_shares
from revit.common.data.formats.base import Split
from revit.common.data.lists import SampleList
from revit.common.data.loader import Loader
from revit.common.data.reader import Views
from revit.common.methods.revit.adaptive import AdaptiveClassifier
from revit.common.methods.task import BatchAugment, Task
from revit.common.modality import load
from revit.common.modality.load import Teacher, teacher_from
from revit.common.modality.modality import Classifier, Modality
from revit.common.models.base import GridModel, Normalizer
from revit.common.models.load_report import LoadReport
from revit.common.system.errors import UserError
from revit.common.weights.read import cache_if_offline
from revit.common.weights.source import Source
from revit.image.data.lists import EXTENSIONS
from revit.image.data.options import PictureOptions
from revit.image.data.pictures import EvalPictures, load_picture, read_split, train_load
from revit.image.demo import DIGITS, make_digit_pictures
from revit.image.models.variants import VARIANTS
from revit.image.options import AsViTModel, ImageModel, ImageRun
from revit.image.tasks import TeacherDistillation, TeacherTask, TokenLabelTask
from revit.image.weights import infer, start_from


def build_model(
    model: ImageModel | AsViTModel, pictures: PictureOptions, num_classes: int, **arguments: Any
) -> GridModel:
    """Build the untrained model of a configuration; the picture size is the data's. `arguments` replace its own."""
    given = {"img_size": pictures.pixels.img_size, "num_classes": num_classes, **model.arguments()}
    try:
        return VARIANTS[model.name].build(**(given | arguments))
    except ValueError as error:
        raise UserError(f"model: {error}") from error


@dataclass(frozen=True)
class Pictures:
    """Picture files as inputs of a classifier; its own reader, which holds nothing open."""

    options: PictureOptions
    noun: str = "picture"
    extensions: Collection[str] = EXTENSIONS

    def open(self, views: str, *, num_at_once: int = 1, salvage: bool | None = None) -> Pictures:
        """Return a reader of views "1" or "test", both the central crop. A damaged picture is refused in any case."""
        if views not in ("1", "test"):
            raise UserError(f"--views {views}: a picture has one view, the centre; leave --views out")
        return self

    def read(self, path: str) -> Views:
        """Read uint8 (1, C, H, W). Raises BrokenSample."""
        return Views(load_picture(path, self.options))

    def close(self) -> None:
        pass


class ImageModality(Modality[ImageRun]):
    """Pictures, from files or the demo's; see `Modality` for every method."""

    name = "image"
    plural = "pictures"
    run_options = ImageRun

    def read_split(self, data: PictureOptions, split: Split) -> SampleList:
        return read_split(data, split)

    def make_data(self, options: ImageRun) -> None:
        if options.data.demo is not None:
            make_digit_pictures(options.data.demo, self.made_root(options), show_progress=True)

    def made_names(self, options: ImageRun) -> Sequence[str]:
        return DIGITS

    def plain_model(self, options: ImageRun, num_classes: int, **arguments: Any) -> GridModel:
        return build_model(options.model, options.data, num_classes, **arguments)

    def start(self, model: GridModel, options: ImageRun, source: str) -> LoadReport:
        resize, names = options.start.position_resize, self.label_names(options)
        return start_from(model, source, position_resize=resize, label_names=names, pixels=options.data.pixels)

    def normalizer(self, options: ImageRun) -> Normalizer:
        return Normalizer(options.data.pixels.mean, options.data.pixels.std)

    def input_shape(self, options: ImageRun) -> tuple[int, ...]:
        return (1, 3, *options.data.pixels.size)

    def num_views(self, options: ImageRun) -> int:
        return 1  # the central crop

    def task(self, options: ImageRun) -> Task:
        """Return the losses of all grids, the shorter ones taught by the longest, or all by another network; for LV-ViT with
        the losses of its patches."""
        if (distill := options.distill.teacher) is not None:
            network = self.teacher(options, distill.source, "distill.teacher.source", own_size=False)
            weights = self.class_weights(options)
            loss = TeacherDistillation(distill.kind, distill.alpha, distill.tau, options.label_smoothing, weights)
            return TeacherTask(loss, network)
        if not isinstance(options.model, ImageModel) or not options.model.is_lvvit:
            return super().task(options)
        losses = TokenLabelTask(self.distillation(options), options.model.mix_token)
        labels = options.data.token_labels
        return losses if labels is None else replace(losses, labels=labels)

    def teacher(self, options: ImageRun, source: str, key: str, own_size: bool = True) -> Teacher:
        """Load any classifier of timm's, or one that `predict` opens."""
        return load_teacher(source, self.label_names(options), self.normalizer(options), key, own_size)

    def batch_augment(self, options: ImageRun, num_classes: int) -> BatchAugment | None:
        options.data.mix.check_batch(options.train.batch_size)
        return build_batch_augment(options.data.augment, options.data.mix, num_classes)

    def train_loader(
        self, options: ImageRun, split: Split, batch_size: int, rank: int = 0, num_ranks: int = 1
    ) -> Loader:
        data, pictures = self.data(options), self.split(options, split)
        load = train_load(data, pictures, len(self.label_names(options)))
        how: dict[str, Any] = {"repeats": data.augment.repeats, "rank": rank, "num_ranks": num_ranks}
        how["shares"] = sample_shares(options.balance, pictures)
        return build.train_loader(load, pictures, data.loading, batch_size, options.run.seed, **how)

    def assigner_loader(
        self, options: ImageRun, split: Split, batch_size: int, rank: int = 0, num_ranks: int = 1
    ) -> Loader:
        """Load a split shuffled, but as it is evaluated: a random crop may show a part that needs another token length."""
        data, pictures = self.data(options), self.split(options, split)
        load, seed = EvalPictures(pictures, data), options.run.seed
        return build.train_loader(load, pictures, data.loading, batch_size, seed, rank=rank, num_ranks=num_ranks)

    def eval_loader(
        self,
        options: ImageRun,
        split: Split,
        batch_size: int,
        one_view: bool = False,
        rank: int = 0,
        num_ranks: int = 1,
    ) -> Loader:
        data, pictures = self.data(options), self.split(options, split)
        load, ranks = EvalPictures(pictures, data), {"rank": rank, "num_ranks": num_ranks}
        return build.eval_loader(load, pictures, data.loading, batch_size, **ranks)

    def inputs(self, options: ImageRun) -> Pictures:
        return Pictures(options.data)

    def from_source(self, source: Source) -> Classifier:
        inferred = infer(source)
        model, pixels = inferred.model, inferred.pictures.pixels
        report = start_from(model, source, pixels=pixels)
        return Classifier(
            AdaptiveClassifier(model).eval(),
            Pictures(inferred.pictures),
            Normalizer(pixels.mean, pixels.std),
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


def load_teacher(source: str, label_names: Sequence[str], given: Normalizer, key: str, own_size: bool) -> Teacher:
    """Load the network at `source`, whatever timm has or `open_classifier` opens, for pictures that are normalised as `given`;
    resized to what it was trained at where `own_size`.

    Raises UserError if there is none, or it knows other classes than `label_names`; `key`: the setting to name.
    """
    if not source.startswith("timm:"):
        return teacher_from(open_classifier(source), source, label_names, given, own_size)
    try:
        with cache_if_offline():
            network: Any = timm.create_model(source.removeprefix("timm:"), pretrained=True)
    except Exception as error:  # an unknown name, no network, a damaged file: timm has no error of its own
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{key} {source}: timm cannot load it ({reason}); check the name and the connection, or give a checkpoint file"
        ) from error
    if network.num_classes != len(label_names):
        raise UserError(
            f"{key} {source} knows {network.num_classes} classes, the data has {len(label_names)}; a teacher must know the "
            "same classes: fine-tune it on this data first, or choose another"
        )
    facts = network.pretrained_cfg
    sides = (facts["input_size"][1], facts["input_size"][2]) if own_size else None
    return Teacher(network, Normalizer(facts["mean"], facts["std"]), given, sides)
