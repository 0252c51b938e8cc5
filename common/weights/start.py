"""Starting a model from weights made elsewhere: the part that pictures and clips share."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor, nn

from revit.common.models.layers.block import Block
from revit.common.models.load_report import LoadReport
from revit.common.models.vit import ResizableTransformer
from revit.common.system.errors import UserError
from revit.common.weights.adapt import rename_grids
from revit.common.weights.fit import fit
from revit.common.weights.reducers import take_reducer
from revit.common.weights.source import Source

Prepare = Callable[[dict[str, Tensor], LoadReport], Collection[str]]
"""Changes the source's tensors in place before they are fitted; returns the names that the report then has."""


class Pixels(Protocol):
    """How inputs are normalised, as `data.pixels` says: (pixel / 255 - mean) / std per channel."""

    @property
    def mean(self) -> Sequence[float]:
        """Per channel."""

    @property
    def std(self) -> Sequence[float]:
        """Per channel."""


def start_from_source(
    model: ResizableTransformer,
    source: Source,
    *,
    position_resize: str = "bicubic",
    label_names: Sequence[str] = (),
    pixels: Pixels | None = None,
    prepare: Prepare | None = None,
) -> LoadReport:
    """Loads `source` into `model` and says what became of each tensor; see `revit.common.weights.fit.fit`.

    `pixels`: how the model's inputs are normalised; a note says where the source's were otherwise.

    Raises:
        UserError: weights that do not fit: the message lists every tensor at fault.
    """
    report = LoadReport(source.where, label_names=source.label_names, notes=list(source.notes))
    check_without_trace(model, source.facts, source.where)
    report.notes += pixel_notes(source, pixels)
    tensors = dict(source.tensors)
    rename_grids(tensors, source.grids, model.grids, report)
    accounted = take_reducer(tensors, model, report)
    if prepare is not None:
        accounted |= set(prepare(tensors, report))
    return fit(
        model,
        tensors,
        report,
        position_resize=position_resize,
        source_grids=source.grids,
        label_names=label_names,
        accounted=accounted,
        position_grid=source.facts.get("position_grid"),
    )


def pixel_notes(source: Source, pixels: Pixels | None) -> list[str]:
    """How the source's inputs were normalised, where it says so and `pixels` are not known to be the same."""
    notes = []
    for key in ("mean", "std"):
        theirs = _values(source.facts.get(key, ()))
        ours = _values(getattr(pixels, key, ()))
        if theirs not in ("", ours):
            here = f", here it is {ours}" if ours else ""
            notes.append(f"its pixels had {key} {theirs}{here}; set data.pixels.{key} to the same")
    return notes


def _values(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def without_trace(model: nn.Module) -> dict[str, Any]:
    """What a model computes with and its tensors' shapes do not show: `num_heads`, and `skip_lam`, by which residual
    branches are divided; weights made with others would load and answer nonsense. And a FlexiViT's `position_grid`."""
    facts: dict[str, Any] = _of_blocks(model)
    if isinstance(model, ResizableTransformer) and model.position_grid is not None:
        facts["position_grid"] = model.position_grid.name
    return facts


def _of_blocks(model: nn.Module) -> dict[str, float]:
    first = next((layer for layer in model.modules() if isinstance(layer, Block)), None)
    return {} if first is None else {"num_heads": first.attn.num_heads, "skip_lam": first.skip_lam}


def check_without_trace(model: nn.Module, written: Mapping[str, Any], where: str) -> None:
    """UserError where `written` beside weights, which `where` names, says another `num_heads` or `skip_lam` than the model
    has: the tensors would fit and answer nonsense."""
    for key, ours in _of_blocks(model).items():
        theirs = written.get(key, ours)
        if theirs != ours:
            raise UserError(
                f"{where}: made with {key} {theirs:g}, the model has {ours:g}; set model.{key}={theirs:g}"
            )
