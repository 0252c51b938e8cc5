"""What a method may change of a run: the model, what a batch means, how it is optimised. Nothing else knows its name.

A method is one file in this folder that ends with `METHOD = ItsClass`; the file's name is what a configuration writes:
`methods: {toe: {first_rate: 0.5}}`. Several may be named; each is asked in that order.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from torch import nn

from revit.common.config.options import Options
from revit.common.config.sections import OptimOptions, StartOptions
from revit.common.methods.task import Task
from revit.common.models.base import GridModel
from revit.common.models.load_report import LoadReport

if TYPE_CHECKING:
    from revit.common.methods.run_options import RecipeOptions


class MethodOptions(Options):
    """The settings of one method, under `methods.NAME`; every method has its own."""


class ModelSource(Protocol):
    """The models that a method may ask for, see `revit.common.modality.modality.Modality`."""

    def label_names(self, options: Any) -> Sequence[str]: ...

    def build_model(self, options: Any, num_classes: int) -> GridModel: ...

    def start(self, model: Any, options: Any, source: str) -> LoadReport: ...

    def teacher(self, options: Any, source: str, key: str) -> nn.Module: ...


@dataclass(frozen=True)
class Setting:
    """The run that a method works in."""

    options: RecipeOptions
    models: ModelSource


class Method:
    """Every hook does nothing here. A method is made from its options wherever it is needed, and keeps no state."""

    options_class: ClassVar[type[MethodOptions]] = MethodOptions
    published_names: ClassVar[Mapping[str, str]] = MappingProxyType({})
    """How the names of parameters begin in the authors' files -> how they begin here, for what the method adds."""

    def __init__(self, options: Any) -> None:
        self.options = options

    @classmethod
    def found_in(cls, names: Collection[str]) -> Method | None:
        """The method with which weights of these names (as they are here) were trained, as far as names tell; None: not
        with this one. For weight files that come without a configuration."""
        return None

    @property
    def wants_lengths(self) -> bool:
        """Whether a model with several grids gets token-length labels and an assigner."""
        return True

    @property
    def assumption(self) -> str:
        """What has to be taken for granted of this method where weights alone tell of it."""
        return f"{type(self).__name__} with its default settings"

    def check(self, run: RecipeOptions) -> None:
        """Raises ValueError where the method contradicts the rest of the run."""

    def model_arguments(self, run: RecipeOptions) -> Mapping[str, Any]:
        """Constructor arguments of the model in place of the configuration's."""
        return {}

    def attach(self, model: GridModel) -> None:
        """Add to the untrained model what the method needs, such as a reducer."""

    def start(self, start: StartOptions) -> StartOptions:
        """Where the weights come from before training; `start` is the run's, or what another method made of it."""
        return start

    def task(self, task: Task, model: GridModel, setting: Setting) -> Task:
        """The losses of training `model`, which has its starting weights: `task`, or something around or instead of it."""
        return task

    def optim(self, optim: OptimOptions, run: RecipeOptions) -> OptimOptions:
        """How the model is optimised, such as by groups of parameters; `optim` is the run's, or what another method made
        of it."""
        return optim

    def cost_rows(self, model: GridModel, input_shape: Sequence[int]) -> list[dict[str, Any]]:
        """More rows for `flops`, such as the cost of training: "grid" says what of, "gmacs" how much, "rule" how counted."""
        return []
