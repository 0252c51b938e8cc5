"""What clips and pictures bring to the shared recipe."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from torch import nn

from revit.common.data.build import Split
from revit.common.data.lists import SampleList
from revit.common.data.loader import Loader
from revit.common.methods.task import BatchAugment, Task
from revit.common.models.base import GridModel
from revit.common.models.load_report import LoadReport


class Package(Protocol):
    """What pictures and clips bring to the recipe. `options` is the package's own run configuration."""

    def make_data(self, options: Any) -> None:
        """Make a data set that the project makes itself, if the configuration asks for one."""

    def label_names(self, options: Any) -> Sequence[str]:
        """Class names, position = class number."""

    def split(self, options: Any, split: Split) -> SampleList:
        """The samples of a split, whose labels all fit the model. UserError where they do not, or there is no list."""

    def paths(self, options: Any, split: Split) -> Sequence[str]:
        """Files of a split, position = sample id."""

    def has_split(self, options: Any, split: Split) -> bool:
        """Whether the configuration names a list for this split."""

    def build_model(self, options: Any, num_classes: int) -> GridModel:
        """The untrained model."""

    def start(self, model: GridModel, options: Any, source: str) -> LoadReport:
        """Load weights made elsewhere and say what became of every tensor."""

    def pixels(self, options: Any) -> nn.Module:
        """uint8 inputs -> normalised floats."""

    def input_shape(self, options: Any) -> tuple[int, ...]:
        """Shape of one input, batch 1."""

    def num_views(self, options: Any) -> int:
        """Inputs that the final test looks at for one sample."""

    def task(self, options: Any) -> Task:
        """The losses of training the model, as they are without the run's methods."""

    def teacher(self, options: Any, source: str, key: str) -> nn.Module:
        """A trained network that answers inputs of this run, normalised, with logits (B, K) for the run's classes; it sees
        them at its own resolution. UserError, which names the setting `key`, if there is none or its classes are others."""

    def batch_augment(self, options: Any, num_classes: int) -> BatchAugment | None:
        """What training does to whole batches after `pixels`, such as mixing; None for nothing. The model's training
        only: the assigner sees every sample as it is."""

    # Loaders: batch_size is one process's; rank of num_ranks processes that read different samples.

    def train_loader(
        self, options: Any, split: Split, batch_size: int, rank: int = 0, num_ranks: int = 1
    ) -> Loader:
        """Shuffled, augmented, broken samples replaced."""

    def assigner_loader(
        self, options: Any, split: Split, batch_size: int, rank: int = 0, num_ranks: int = 1
    ) -> Loader:
        """Shuffled, to train the assigner: no stronger augmentation than leaves its labels true, as they were found on
        samples as they are evaluated."""

    def eval_loader(
        self,
        options: Any,
        split: Split,
        batch_size: int,
        one_view: bool = False,
        rank: int = 0,
        num_ranks: int = 1,
    ) -> Loader:
        """In order, nothing replaced; with the configuration's views or with one."""
