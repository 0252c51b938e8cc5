"""A trained model ready to answer for files, from our checkpoint or from weights made elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pydantic import ValidationError
from torch import nn

from revit.common.data.reader import Reader
from revit.common.methods.registry import check_installed
from revit.common.methods.revit.adaptive import AdaptiveClassifier
from revit.common.methods.revit.budget import KEY
from revit.common.methods.run_options import RecipeOptions
from revit.common.modality.package import Package
from revit.common.modality.trained import are_numbers, fill_classifier
from revit.common.models.load_report import LoadReport
from revit.common.system.errors import UserError
from revit.common.weights.adapt import TABLE
from revit.common.weights.checkpoint import Checkpoint, checkpoint_file, is_checkpoint, load_checkpoint
from revit.common.weights.source import Dialect, Source, read_source


class Inputs(Protocol):
    """The files that a classifier answers for."""

    @property
    def noun(self) -> str:
        """What one of them is called: "clip", "picture"."""

    @property
    def extensions(self) -> Collection[str]:
        """What a folder is searched for, lower case with the dot."""

    def open(self, views: str, *, num_at_once: int = 1, salvage: bool | None = None) -> Reader:
        """A reader that takes this many looks at each file; "test" for those of the checkpoint's own test.

        num_at_once: files that it reads side by side.  salvage: whether to read what is whole of a damaged file, where it
            has parts; None: as its settings say.

        Raises UserError for views that these files do not have.
        """


@dataclass(frozen=True)
class Classifier:
    """Networks in evaluation mode on the CPU, the inputs they want, and what their classes are called."""

    networks: AdaptiveClassifier
    inputs: Inputs
    pixels: nn.Module
    """uint8 inputs -> normalised floats."""
    input_shape: tuple[int, ...]
    """(1, C, ...) of one input."""
    label_names: tuple[str, ...]
    """One per class; empty where the checkpoint names none."""
    merge: str = "logits"
    """How several views are put together, see `revit.common.models.outputs.merge_views`."""
    report: LoadReport | None = None
    """What became of the tensors of weights made elsewhere."""
    assumed: tuple[str, ...] = ()
    """What those weights do not say and was taken from the published recipes."""
    budget: str | None = None
    """What the checkpoint's own configuration allows a view to cost, see `revit.common.methods.revit.budget.Budget`."""
    hold_budget: bool = True
    """Whether the mean over all files is held to it."""

    @property
    def num_classes(self) -> int:
        return self.networks.model.num_classes


@dataclass(frozen=True)
class Kind:
    """One kind of classifier: what a package brings to `open_classifier`."""

    name: str
    """As in the header of our checkpoints and in `Source.kind`."""
    noun: str
    """What its files are called, in the plural."""
    run_options: type[RecipeOptions]
    package: Package
    inputs: Callable[[Any], Inputs]
    """From the run's options."""
    from_source: Callable[[Source], Classifier]
    """From weights made elsewhere. UserError if they make no such classifier."""
    dialects: tuple[Dialect, ...] = ()
    """Other projects' weights that only this package knows."""


def open_classifier(where: str, kinds: Sequence[Kind]) -> Classifier:
    """Opens our checkpoint (or the run's folder with one), or weights made elsewhere (see `read_source`).

    Which of `kinds` it is, the checkpoint's header says, or the weights' names.

    Raises:
        UserError: nothing readable there, or none of these kinds.
    """
    if not str(where).strip():
        raise UserError("no checkpoint was named; give a file, a run's folder or weights made elsewhere")
    path = Path(checkpoint_file(where)).expanduser()
    if path.is_file() and is_checkpoint(path):
        checkpoint = load_checkpoint(path)
        return _from_checkpoint(path, checkpoint, _choose(str(path), checkpoint.kind, kinds))
    source = read_source(where, [dialect for kind in kinds for dialect in kind.dialects])
    return _choose(source.where, source.kind, kinds).from_source(source)


def _choose(where: str, name: str, kinds: Sequence[Kind]) -> Kind:
    for kind in kinds:
        if kind.name == name:
            return kind
    nouns = " or ".join(kind.noun for kind in kinds)
    raise UserError(f"{where}: a model of kind {name}, which cannot classify {nouns}")


def _from_checkpoint(path: Path, checkpoint: Checkpoint, kind: Kind) -> Classifier:
    check_installed(str(path), checkpoint.config)
    try:
        run = kind.run_options.model_validate(checkpoint.config)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise UserError(
            f"{path}: the configuration in it does not suit this version of the program ({key}: {first['msg']}); use "
            "the version that trained it, or train again"
        ) from error
    _check_width(path, checkpoint, run)
    try:
        model = kind.package.build_model(run, len(checkpoint.label_names))
    except UserError as error:
        raise UserError(f"{path}: the configuration in it makes no model: {error}") from error
    except (
        RuntimeError,
        MemoryError,
        OverflowError,
    ) as error:  # torch has no error of its own for too large tensors
        reason = str(error).splitlines()[0] if str(error) else "out of memory"
        raise UserError(
            f"{path}: the model of its header cannot be built ({reason}); copy it again"
        ) from error
    networks = fill_classifier(checkpoint, str(path), model, run)
    names = () if are_numbers(checkpoint.label_names) else tuple(checkpoint.label_names)
    return Classifier(
        networks,
        kind.inputs(run),
        kind.package.pixels(run),
        tuple(kind.package.input_shape(run)),
        names,
        run.test.merge,
        # What is saved before the calibration cannot keep it.
        budget=run.model.budget if KEY in checkpoint.extra else None,
        hold_budget=run.test.hold_budget,
    )


def _check_width(path: Path, checkpoint: Checkpoint, run: RecipeOptions) -> None:
    """UserError if the header's width is not that of the weights: building it first could fill the memory."""
    wanted, table = getattr(run.model, "embed_dim", None), checkpoint.parts.get("model", {}).get(TABLE)
    if wanted is not None and table is not None and table.ndim and table.shape[-1] != wanted:
        raise UserError(
            f"{path}: its header says embed_dim {wanted}, its weights are {table.shape[-1]} wide; copy it again"
        )
