"""What pictures, or clips, bring to everything that is shared: configurations, data, models, weights, files to classify."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from typing_extensions import Self

from revit.common.config.sections import BalanceOptions
from revit.common.data.balance import class_weights, sample_shares
from revit.common.data.check.summary import newest_summary
from revit.common.data.formats.base import Split
from revit.common.data.lists import SampleList
from revit.common.data.loader import Loader
from revit.common.data.made_data import MadeData
from revit.common.data.reader import Reader
from revit.common.methods.revit.adaptive import AdaptiveClassifier
from revit.common.methods.revit.task import ResizableTask, SelfDistillation
from revit.common.methods.run_options import RecipeOptions
from revit.common.methods.task import BatchAugment, Task
from revit.common.models.base import GridModel, Normalizer
from revit.common.models.load_report import LoadReport
from revit.common.system.errors import UserError
from revit.common.weights.source import Dialect, Source

Run = TypeVar("Run", bound=RecipeOptions)

MOST_SAID = 6
"""Classes whose weights a line names: the lightest and the heaviest."""


class Modality(ABC, Generic[Run]):
    """Turn the run configurations of one modality into objects.

    Every list of samples is read once and kept. Loaders take one process's batch size, and its rank among the processes that
    read different samples.
    """

    name: ClassVar[str]
    """`kind` of its configurations, as in the header of our checkpoints and in `Source.kind`."""
    plural: ClassVar[str]
    """Noun for its files."""
    dialects: ClassVar[Sequence[Dialect]] = ()
    """Other projects' weight files that only this modality has."""
    run_options: type[Run]

    def __init__(self) -> None:
        self._lists: dict[tuple[Any, Split], SampleList] = {}

    # -- data --------------------------------------------------------------------------------------------------------

    @abstractmethod
    def make_data(self, options: Run) -> None:
        """Make the data set of `data.demo` under RUN_DIR/data."""

    @abstractmethod
    def made_names(self, options: Run) -> Sequence[str]:
        """Return the class names of the data set that `data.demo` makes."""

    @abstractmethod
    def read_split(self, data: Any, split: Split) -> SampleList:
        """Read a list of samples; `data` is a data section whose lists are filled in."""

    def data(self, options: Run) -> Any:
        """Return the data section, with the lists of the made data set if there is one. UserError if it is not made yet."""
        if not options.makes_data:
            return options.data
        made = MadeData.under(self.made_root(options))
        if not made.train.exists():
            raise UserError(f"{made.train} is not there; run the stage 'data' first")
        lists = {split: str(getattr(made, split)) for split in ("train", "val", "test")}
        lists |= {"label_names": str(made.classes), "prefix": str(made.root)}
        return options.data.model_copy(update={"source": options.data.source.model_copy(update=lists)})

    def made_root(self, options: Run) -> Path:
        """Return the folder of the made data set."""
        return Path(options.run.dir) / "data"

    def has_split(self, options: Run, split: Split) -> bool:
        """Say whether the configuration has a list for this split."""
        return options.makes_data or options.data.source.has(split)

    def split(self, options: Run, split: Split) -> SampleList:
        """Return the samples of a split. UserError if there is no list, or a label does not fit the model."""
        samples, names = self._samples(options, split), self.label_names(options)
        samples.check_classes(len(names))
        # A sample's set of labels has a place for every class of the model, also where lists have numbers alone.
        return replace(samples, names=tuple(names)) if samples.several else samples

    def at(self, options: Run, split: Split, positions: NDArray[np.int64]) -> Self:
        """Return one that knows only these samples of a split, numbered anew, and all of its classes."""
        part = copy.copy(self)
        samples = replace(self.split(options, split).at(positions), names=tuple(self.label_names(options)))
        part._lists = {**self._lists, (self.data(options), split): samples}
        return part

    def data_warnings(self, options: Run, split: Split) -> list[str]:
        """Look at some files of a list; return a line for each thing that makes training on them worth less, with what to do."""
        return []

    def paths(self, options: Run, split: Split) -> Sequence[str]:
        """Return the files of a split, position = sample id."""
        return self.split(options, split).paths

    def data_checks(self, options: Run) -> dict[str, dict[str, Any]]:
        """Return what the newest data check found of each list, by split; lists that were never checked are left out."""
        splits: tuple[Split, ...] = () if options.makes_data else ("train", "val", "test")
        found: dict[str, dict[str, Any]] = {}
        for split in splits:
            # Only what was checked is read: a stage does without the lists of others.
            where = getattr(options.data.source, split)
            if where is not None and (summary := newest_summary(where, split)) is not None:
                samples = self._samples(options, split)
                if options.data.source.parts:  # the list that others are split off is checked whole
                    source = options.data.source.model_copy(update={"split_off": None})
                    samples = self.read_split(options.data.model_copy(update={"source": source}), split)
                found[split] = summary.quoted(samples)
        return found

    def label_names(self, options: Run) -> Sequence[str]:
        """Return the class names, their numbers as text where the source has none. UserError if they contradict the model."""
        wanted = options.model.num_classes
        if options.makes_data and wanted is None:
            return self.made_names(options)
        splits: tuple[Split, ...] = ("train", "val", "test")
        samples = self._samples(options, next((one for one in splits if self.has_split(options, one)), "train"))
        names = samples.names or tuple(str(number) for number in range(samples.num_classes))
        if wanted is None or wanted == len(names):
            return names
        if samples.names is None and len(names) < wanted:
            return tuple(str(number) for number in range(wanted))
        raise UserError(
            f"model.num_classes is {wanted}, but {samples.source} has {len(names)} classes; correct it or leave it out"
        )

    def num_classes(self, options: Run) -> int:
        """Return the number of classes in the configuration, else of the data."""
        return options.model.num_classes or len(self.label_names(options))

    @abstractmethod
    def train_loader(self, options: Run, split: Split, batch_size: int, rank: int = 0, num_ranks: int = 1) -> Loader:
        """Load a split shuffled and augmented, broken samples replaced."""

    def assigner_loader(self, options: Run, split: Split, batch_size: int, rank: int = 0, num_ranks: int = 1) -> Loader:
        """Load a split shuffled, to train the assigner; augmented only so far as its labels stay true."""
        as_they_come = options.model_copy(update={"balance": BalanceOptions()})
        return self.train_loader(as_they_come, split, batch_size, rank, num_ranks)

    @abstractmethod
    def eval_loader(
        self, options: Run, split: Split, batch_size: int, one_view: bool = False, rank: int = 0, num_ranks: int = 1
    ) -> Loader:
        """Load a split in order, nothing replaced, with the configuration's views or with one."""

    # -- inputs of a model -------------------------------------------------------------------------------------------

    @abstractmethod
    def normalizer(self, options: Run) -> Normalizer:
        """Return the module that makes uint8 inputs normalised floats."""

    @abstractmethod
    def input_shape(self, options: Run) -> tuple[int, ...]:
        """Return the shape of one input, batch 1."""

    @abstractmethod
    def num_views(self, options: Run) -> int:
        """Return the number of views of a sample in the final test."""

    def batch_augment(self, options: Run, num_classes: int) -> BatchAugment | None:
        """Return what the model's training does to whole normalised batches, such as mixing; None for nothing."""
        return None

    # -- models ------------------------------------------------------------------------------------------------------

    @abstractmethod
    def plain_model(self, options: Run, num_classes: int, **arguments: Any) -> GridModel:
        """Build the untrained model of the configuration; `arguments` of its constructor replace the configuration's."""

    def build_model(self, options: Run, num_classes: int) -> GridModel:
        """Build the untrained model, with what the run's methods add."""
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

    @abstractmethod
    def start(self, model: GridModel, options: Run, source: str) -> LoadReport:
        """Load weights made elsewhere; report what became of every tensor."""

    @abstractmethod
    def teacher(self, options: Run, source: str, key: str) -> nn.Module:
        """Load a trained network that maps this run's normalised inputs to logits (B, K) of this run's classes.

        It sees them at its own resolution. UserError, naming the setting `key`, if there is none or its classes are others.
        """

    def task(self, options: Run) -> Task:
        """Return the losses of training the model, without the run's methods: the longest grid teaches the shorter ones."""
        return ResizableTask(self.distillation(options))

    def distillation(self, options: Run) -> SelfDistillation:
        """Return the losses of a grid that is taught by the longest."""
        distill, several = options.distill, options.data.source.several_labels
        how = (distill.weight, distill.temperature, distill.hard, options.label_smoothing)
        return SelfDistillation(*how, class_weights=self.class_weights(options), several=several)

    def balance_line(self, options: Run) -> str:
        """Say what `balance` does to the classes, a few of them by name; empty where it does nothing."""
        said, weights = [], self.class_weights(options)
        if weights is not None:
            order, names = weights.argsort(stable=True).tolist(), self.label_names(options)
            shown = order if len(order) <= MOST_SAID else [*order[: MOST_SAID // 2], *order[-MOST_SAID // 2 :]]
            said.append("weights " + ", ".join(f"{names[number]} {float(weights[number]):.3g}" for number in shown))
        if options.balance.sampler != "none":
            samples = self.split(options, "train")
            shares = sample_shares(options.balance, samples)
            assert shares is not None
            said.append(f"an epoch meets a sample {shares.min():.2g} to {shares.max():.2g} times")
        return "; ".join(said)

    def class_weights(self, options: Run) -> Tensor | None:
        """Return the weight (K,) of every class in the model's loss, as `balance.weights` has it; None: all alike."""
        if options.balance.weights == "none":
            return None
        weights = class_weights(options.balance, self.split(options, "train"), self.label_names(options))
        return None if weights is None else torch.from_numpy(weights)

    # -- classifying files -------------------------------------------------------------------------------------------

    @abstractmethod
    def inputs(self, options: Run) -> Inputs:
        """Return the reader of files that a model of this run classifies."""

    @abstractmethod
    def from_source(self, source: Source) -> Classifier:
        """Make a classifier of weights made elsewhere. UserError if they make none of this modality."""

    def _samples(self, options: Run, split: Split) -> SampleList:
        key = (self.data(options), split)
        if key not in self._lists:
            self._lists[key] = self.read_split(*key)
        return self._lists[key]


class Inputs(Protocol):
    """Files that a classifier answers for."""

    @property
    def noun(self) -> str:
        """Word for one of them: "clip", "picture"."""

    @property
    def extensions(self) -> Collection[str]:
        """Extensions that a folder is searched for, lower case with the dot."""

    def open(self, views: str, *, num_at_once: int = 1, salvage: bool | None = None) -> Reader:
        """Open a reader.

        views: looks at each file; "test" for those of the checkpoint's own test.  num_at_once: files that it reads side by
        side.  salvage: read the whole parts of a damaged file, where it has parts; None: as its settings say.

        Raises UserError for views that these files do not have.
        """


@dataclass(frozen=True)
class Classifier:
    """Networks in evaluation mode on the CPU, the inputs they want, and the names of their classes."""

    networks: AdaptiveClassifier
    inputs: Inputs
    normalizer: nn.Module
    """Module that makes uint8 inputs normalised floats."""
    input_shape: tuple[int, ...]
    """(1, C, ...) of one input."""
    label_names: tuple[str, ...]
    """One per class; empty where the checkpoint names none."""
    merge: str = "logits"
    """Rule by which several views become one answer, see `revit.common.models.base.merge_views`."""
    report: LoadReport | None = None
    """Fate of every tensor of weights made elsewhere."""
    assumed: tuple[str, ...] = ()
    """Settings that those weights do not hold, taken from the published recipes."""
    budget: str | None = None
    """Cost of a view that the checkpoint's own configuration allows, see `revit.common.methods.revit.budget.Budget`."""
    several_labels: bool = False
    """An input may have several labels, or none: every class is a question of its own."""
    hold_budget: bool = True
    """Keep the mean over all files at the budget."""

    @property
    def num_classes(self) -> int:
        return self.networks.model.num_classes
