"""What a method may change of a run: the model, what a batch means, how it is optimised. Nothing else knows its name.

A method is a file or folder here that ends with `METHOD = ItsClass`; its name is what a configuration writes:
`methods: {toe: {first_rate: 0.5}}`. Several may be named; each is asked in that order.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib.metadata import entry_points
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar

from torch import nn

from revit.common import methods
from revit.common.config.options import Options
from revit.common.config.sections import OptimOptions, StartOptions
from revit.common.methods.task import Task
from revit.common.models.base import GridModel
from revit.common.models.load_report import LoadReport
from revit.common.models.vit import ResizableTransformer
from revit.common.system.errors import UserError

if TYPE_CHECKING:
    from revit.common.methods.revit.task import SelfDistillation
    from revit.common.methods.run_options import RecipeOptions


class MethodOptions(Options):
    """The settings of one method, under `methods.NAME`; every method has its own."""


Own = TypeVar("Own", bound=MethodOptions)
Run = TypeVar("Run", bound="RecipeOptions")
RunIn = TypeVar("RunIn", bound="RecipeOptions", contravariant=True)


class ModelSource(Protocol[RunIn]):
    """The models that a method may ask for, see `revit.common.modality.modality.Modality`."""

    def label_names(self, options: RunIn) -> Sequence[str]: ...

    def build_model(self, options: RunIn, num_classes: int) -> GridModel: ...

    def start(self, model: Any, options: RunIn, source: str) -> LoadReport: ...

    def teacher(self, options: RunIn, source: str, key: str) -> nn.Module: ...

    def distillation(self, options: RunIn) -> SelfDistillation: ...


@dataclass(frozen=True)
class Setting(Generic[Run]):
    """The run that a method works in."""

    options: Run
    models: ModelSource[Run]


class Method(Generic[Own]):
    """Every hook does nothing here. A method is made from its options wherever it is needed, and keeps no state."""

    options_class: ClassVar[type[MethodOptions]] = MethodOptions
    published_names: ClassVar[Mapping[str, str]] = MappingProxyType({})
    """Beginnings of the names of parameters in the authors' files -> here, for what the method adds."""

    def __init__(self, options: Own) -> None:
        self.options = options

    @classmethod
    def found_in(cls, names: Collection[str]) -> Method[Own] | None:
        """Return the method with which weights of these names were trained, as far as names tell; None: not with this one."""
        return None

    @property
    def wants_lengths(self) -> bool:
        """A model with several grids gets token-length labels and an assigner."""
        return True

    @property
    def assumption(self) -> str:
        """Settings that have to be taken for granted where weights alone tell of the method."""
        return f"{type(self).__name__} with its default settings"

    def check(self, run: RecipeOptions) -> None:
        """Raise ValueError where the method contradicts the rest of the run."""

    def model_arguments(self, run: RecipeOptions) -> Mapping[str, Any]:
        """Return constructor arguments of the model in place of the configuration's."""
        return {}

    def attach(self, model: GridModel) -> None:
        """Add to the untrained model what the method needs, such as a reducer."""

    def start(self, start: StartOptions) -> StartOptions:
        """Return where the weights come from before training; `start` is the run's, or another method's."""
        return start

    def task(self, task: Task, model: GridModel, setting: Setting[Any]) -> Task:
        """Return the losses of training `model`, which has its starting weights: `task`, or something around or instead."""
        return task

    def optim(self, optim: OptimOptions, run: RecipeOptions) -> OptimOptions:
        """Return how the model is optimised, such as by groups of parameters; `optim` is the run's, or another method's."""
        return optim

    def cost_rows(self, model: GridModel, input_shape: Sequence[int]) -> list[dict[str, Any]]:
        """Count more rows for `flops`, such as the cost of training: "grid" says what of, "gmacs" how much, "rule" how."""
        return []


def refuse(faults: Mapping[str, bool], error: type[Exception] = ValueError) -> None:
    """Raise `error` with the first message whose condition holds."""
    for message, found in faults.items():
        if found:
            raise error(message)


def transformer_without_reducer(model: GridModel, name: str, does: str) -> ResizableTransformer:
    """Return the model if the method `name`, which `does` something to tokens, can reduce them. Raise UserError if not."""
    if not isinstance(model, ResizableTransformer):
        raise UserError(f"methods.{name} {does} tokens of a DeiT, an LV-ViT or a TimeSformer; choose one of them")
    if model.reducer is not None:
        raise UserError(f"methods.{name}: another method reduces the tokens already; name one of the two")
    return model


def start_of(options: RecipeOptions) -> StartOptions:
    """Return where the model's weights come from, as the run's methods have it."""
    start = options.start
    for method in options.active_methods:
        start = method.start(start)
    return start


def task_of(options: Run, task: Task, models: ModelSource[Run], model: GridModel) -> Task:
    """Return the losses of training `model`, which has its starting weights; `task` is what they are without methods."""
    for method in options.active_methods:
        task = method.task(task, model, Setting(options, models))
    return task


def optim_of(options: RecipeOptions) -> OptimOptions:
    """Return how the model is optimised, as the run's methods have it."""
    optim = options.train.optim
    for method in options.active_methods:
        optim = method.optim(optim, options)
    return optim


ENTRY_POINTS = "revit.methods"
"""The group under which an installed package names methods of its own."""
_ADDED: dict[str, type[Method[Any]]] = {}


def known_methods() -> Mapping[str, type[Method[Any]]]:
    """Name -> class."""
    return {**_installed(), **_ADDED}


def unknown_method(name: str) -> str:
    """Say what is wrong with a name that is not known."""
    known = known_methods()
    near = get_close_matches(name, known, n=1, cutoff=0.6)
    meant = f"; did you mean {near[0]}?" if near else ""
    return f"no such method{meant or ';'} choose from {', '.join(sorted(known)) or 'none'}"


def check_installed(where: str, config: Mapping[str, Any]) -> None:
    """Raise UserError if the configuration in the checkpoint `where` has methods that are not installed."""
    named = config.get("methods") or {}
    if not isinstance(named, Mapping):
        raise UserError(f"{where}: the methods in its header are {named!r}, no mapping; copy it again")
    missing = [name for name in named if name not in known_methods()]
    if missing:
        raise UserError(
            f"{where}: trained with {', '.join(missing)}, which is not installed here ({unknown_method(missing[0])}); "
            "install the package that brings it, see CONTRIBUTING.md"
        )


def methods_found(names: Collection[str]) -> tuple[Method[Any], ...]:
    """Return the methods with which weights of these names were trained, as far as names tell."""
    found = (method.found_in(names) for method in known_methods().values())
    return tuple(method for method in found if method is not None)


@contextmanager
def added(name: str, method: type[Method[Any]]) -> Iterator[None]:
    """Add a method inside: for tests, and for trying one out."""
    _ADDED[name] = method
    try:
        yield
    finally:
        del _ADDED[name]


@cache
def _installed() -> Mapping[str, type[Method[Any]]]:
    found: dict[str, type[Method[Any]]] = {}
    for module in pkgutil.iter_modules(methods.__path__):
        method = getattr(importlib.import_module(f"{methods.__name__}.{module.name}"), "METHOD", None)
        if method is not None:
            found[module.name] = method
    return found | {point.name: point.load() for point in entry_points(group=ENTRY_POINTS)}
