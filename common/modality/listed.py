"""What a package of pictures and one of clips do alike."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from revit.common.data.build import Split
from revit.common.data.lists import SampleList
from revit.common.data.loader import Loader
from revit.common.data.made_data import MadeData
from revit.common.methods.revit.task import ResizableTask, SelfDistillation
from revit.common.methods.run_options import RecipeOptions
from revit.common.methods.task import BatchAugment, Task
from revit.common.models.base import GridModel
from revit.common.system.errors import UserError


class ListedPackage(ABC):
    """The shared half of a `revit.common.modality.package.Package` whose samples are files in lists.

    A list is read once and kept; `data` is the data section of a configuration with its lists filled in.
    """

    read_split: Callable[[Any, Split], SampleList]
    """(data, split) -> the samples of a split."""

    def __init__(self) -> None:
        self._lists: dict[tuple[Any, Split], SampleList] = {}

    @abstractmethod
    def made_names(self, options: Any) -> Sequence[str]:
        """Class names of the data set that `data.demo` makes, known before it is made."""

    @abstractmethod
    def train_loader(
        self, options: Any, split: Split, batch_size: int, rank: int = 0, num_ranks: int = 1
    ) -> Loader:
        """Shuffled, augmented, broken samples replaced."""

    def assigner_loader(
        self, options: Any, split: Split, batch_size: int, rank: int = 0, num_ranks: int = 1
    ) -> Loader:
        """As for the model."""
        return self.train_loader(options, split, batch_size, rank, num_ranks)

    @abstractmethod
    def plain_model(self, options: Any, num_classes: int, **arguments: Any) -> GridModel:
        """The untrained model as `model` describes it, with these constructor arguments instead of its own."""

    def build_model(self, options: Any, num_classes: int) -> GridModel:
        """The untrained model, and what the run's methods make of it."""
        methods = options.active_methods
        arguments: dict[str, Any] = {}
        for method in methods:
            arguments |= method.model_arguments(options)
        model = self.plain_model(options, num_classes, **arguments)
        for method in methods:
            method.attach(model)
        if model.reducer is not None and not model.asks_reducer:
            raise UserError(
                f"methods: {', '.join(options.methods)} shortens the token sequence between blocks, which {type(model).__name__} "
                "has not: its stages work on maps; leave it out or choose a DeiT, an LV-ViT or a TimeSformer"
            )
        return model

    def label_names(self, options: Any) -> Sequence[str]:
        """Class names; class numbers as text where the source has none. UserError if they contradict the model."""
        wanted = options.model.num_classes
        if options.makes_data and wanted is None:
            return self.made_names(options)
        samples = self._samples(options, self._first_split(options))
        names = samples.names or tuple(str(number) for number in range(samples.num_classes))
        if wanted is None or wanted == len(names):
            return names
        if samples.names is None and len(names) < wanted:
            return tuple(str(number) for number in range(wanted))
        raise UserError(
            f"model.num_classes is {wanted}, but {samples.source} has {len(names)} classes; correct it or leave it out"
        )

    def split(self, options: Any, split: Split) -> SampleList:
        """The samples of a split, whose labels all fit the model. UserError where they do not, or there is no list."""
        samples = self._samples(options, split)
        samples.check_classes(len(self.label_names(options)))
        return samples

    def paths(self, options: Any, split: Split) -> Sequence[str]:
        """Files of a split, position = sample id."""
        return self.split(options, split).paths

    def has_split(self, options: Any, split: Split) -> bool:
        """Whether there is a list for this split."""
        return options.makes_data or getattr(options.data.source, split) is not None

    def data(self, options: Any) -> Any:
        """The data section, with the lists of the made data set where there is one. UserError if it is not made yet."""
        if not options.makes_data:
            return options.data
        made = MadeData.under(self.made_root(options))
        if not made.train.exists():
            raise UserError(f"{made.train} is not there; run the stage 'data' first")
        lists = {split: str(getattr(made, split)) for split in ("train", "val", "test")}
        lists |= {"label_names": str(made.classes), "prefix": str(made.root)}
        return options.data.model_copy(update={"source": options.data.source.model_copy(update=lists)})

    def made_root(self, options: Any) -> Path:
        """Where the made data set lies."""
        return Path(options.run.dir) / "data"

    def task(self, options: Any) -> Task:
        """All grids, the shorter ones taught by the longest."""
        return ResizableTask(self.distillation(options))

    def distillation(self, options: RecipeOptions) -> SelfDistillation:
        """The losses of a grid that is taught by the longest."""
        distill = options.distill
        return SelfDistillation(distill.weight, distill.temperature, distill.hard, options.label_smoothing)

    def batch_augment(self, options: Any, num_classes: int) -> BatchAugment | None:
        """Nothing."""
        return None

    def _samples(self, options: Any, split: Split) -> SampleList:
        key = (self.data(options), split)
        if key not in self._lists:
            self._lists[key] = self.read_split(*key)
        return self._lists[key]

    def _first_split(self, options: Any) -> Split:
        """The list that classes are taken from: train, or what there is to evaluate on."""
        splits: tuple[Split, ...] = ("train", "val", "test")
        return next((split for split in splits if self.has_split(options, split)), "train")
