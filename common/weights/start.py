"""Starting a model from weights made elsewhere, with an account of every tensor: what pictures and clips share."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from revit.common.models.embed.patch_embed import ConvStem
from revit.common.models.layers.block import Block
from revit.common.models.load_report import Change, LoadReport
from revit.common.models.vit import ResizableTransformer
from revit.common.system.errors import UserError
from revit.common.weights.adapt import (
    Fitting,
    draw_heads,
    rename_grids,
    take_distillation,
    take_heads,
    take_patch_kernels,
    take_positions,
)
from revit.common.weights.source import Source

Prepare = Callable[[dict[str, Tensor], LoadReport], Collection[str]]
"""Changes the source's tensors in place before they are fitted; returns the names that the report then has."""
REDUCER = "reducer."
"""Beginning of the names of a reducer's parameters."""
# What belongs to shorter grids only and can start from the longest grid's parts.
SHORT = re.compile(
    r"(^|\.)short\.|^short_pos_embed\.|^dist_token\.|^head_dist\..+\.|^dist_pos_embed$|^patch_embed\.stems\."
)


class Pixels(Protocol):
    """How inputs are normalised, as `data.pixels` says: (pixel / 255 - mean) / std per channel."""

    @property
    def mean(self) -> Sequence[float]: ...

    @property
    def std(self) -> Sequence[float]: ...


@torch.no_grad()
def start_from_source(
    model: ResizableTransformer,
    source: Source,
    *,
    position_resize: str = "bicubic",
    label_names: Sequence[str] = (),
    pixels: Pixels | None = None,
    prepare: Prepare | None = None,
) -> LoadReport:
    """Load `source` into `model` and say what became of each tensor.

    Position tables and patch kernels of another size are resized, a head of another class count (or other classes:
    `label_names` against the source's) is made anew with all others, classes in another order are put in the model's, a
    DeiT distillation token goes to the shorter grids, and what the shorter grids still lack starts from the longest one.
    Without the source's grids, tables are taken to be square. `pixels`: how the model's inputs are normalised; a note says
    where the source's were otherwise.

    Raise UserError for weights that do not fit, with every tensor at fault; the model is then unchanged.
    """
    report = LoadReport(source.where, label_names=source.label_names, notes=list(source.notes))
    check_architecture(model, source.facts, source.where)
    report.notes += pixel_notes(source, pixels)
    own = model.state_dict()
    fitting = Fitting(dict(source.tensors), own, report)
    rename_grids(fitting.source, source.grids, model.grids, report)
    accounted = _take_reducer(fitting)
    if prepare is not None:
        accounted |= set(prepare(fitting.source, report))
    new_heads = take_heads(fitting, tuple(label_names))
    num_prefix = take_distillation(fitting)
    position_grid = source.facts.get("position_grid")
    take_positions(model, fitting, position_resize, source.grids, num_prefix, position_grid)
    take_patch_kernels(model, fitting)
    take_rest(fitting, accounted, new_heads)
    report.check()
    draw_heads(own, new_heads)
    # The longest grid's parts first, then everything that starts from them, then what the source has of that.
    for short in (False, True):
        for name, tensor in fitting.ready.items():
            if bool(SHORT.search(name)) == short:
                own[name].copy_(tensor)
        if not short and len(model.grids) > 1:
            model.start_short_grids()
    rest = [name for name in own if SHORT.search(name) and name not in fitting.ready]
    if isinstance(model.patch_embed, ConvStem):
        stems = [name for name in rest if name.startswith("patch_embed.stems.")]
        if stems:
            report.remade.append(f"the convolution stems: {len(stems)} tensors keep their random start")
        rest = [name for name in rest if name not in stems]
    report.derive(f"the shorter grids' parts from those of {model.grids[0]}", rest)
    return report


def _take_reducer(fitting: Fitting) -> set[str]:
    """Let weights without a reducer start a model with one, which keeps its own start, and the other way round."""
    own = {name: tensor for name, tensor in fitting.own.items() if name.startswith(REDUCER)}
    theirs = [name for name in fitting.source if name.startswith(REDUCER)]
    if own and not theirs:
        fitting.source.update({name: tensor.detach().clone() for name, tensor in own.items()})
        fitting.report.remade.append(f"reducer: the source has none; {len(own)} tensors keep their own random start")
        return set(own)
    if not own:
        fitting.leave_out("parts that decide about tokens, where this model keeps all of them", theirs)
    return set()


def take_rest(fitting: Fitting, accounted: Collection[str], new_heads: Collection[str]) -> None:
    """Take what fits as it is, and name what does not; `accounted`: names that the report already has."""
    own, ready, report = fitting.own, fitting.ready, fitting.report
    for name, tensor in fitting.source.items():
        if name in ready or name in new_heads:
            continue
        if name not in own:
            if SHORT.search(name):
                report.leave_out("a token grid or a head that this model does not have", [name])
            else:
                report.unexpected.append(name)
        elif tensor.shape == own[name].shape:
            ready[name] = tensor
            if name not in accounted:
                report.loaded.append(name)
        elif SHORT.search(name):
            report.leave_out("a shorter grid's part of another size", [name])
        else:
            report.misfits.append(Change(name, tuple(tensor.shape), tuple(own[name].shape), "no rule"))
    found = {*ready, *new_heads, *(change.name for change in report.misfits)}
    report.missing += [name for name in own if name not in found and not SHORT.search(name)]


def pixel_notes(source: Source, pixels: Pixels | None) -> list[str]:
    """Say how the source's inputs were normalised, where it tells and `pixels` are not known to be the same."""
    notes = []
    for key in ("mean", "std"):
        theirs, ours = (
            ", ".join(f"{value:g}" for value in values)
            for values in (source.facts.get(key, ()), getattr(pixels, key, ()))
        )
        if theirs not in ("", ours):
            here = f", here it is {ours}" if ours else ""
            notes.append(f"its pixels had {key} {theirs}{here}; set data.pixels.{key} to the same")
    return notes


def architecture_facts(model: nn.Module) -> dict[str, Any]:
    """Return what a model computes with and its tensors' shapes do not show: `num_heads`, and `skip_lam`, by which residual
    branches are divided; weights made with others would load and answer nonsense. And a FlexiViT's `position_grid`."""
    facts: dict[str, Any] = _of_blocks(model)
    if isinstance(model, ResizableTransformer) and model.is_flexible:
        facts["position_grid"] = model.position_grid.name
    return facts


def _of_blocks(model: nn.Module) -> dict[str, float]:
    first = next((layer for layer in model.modules() if isinstance(layer, Block)), None)
    return {} if first is None else {"num_heads": first.attn.num_heads, "skip_lam": first.skip_lam}


def check_architecture(model: nn.Module, written: Mapping[str, Any], where: str) -> None:
    """Raise UserError where `written`, beside the weights that `where` names, has another `num_heads` or `skip_lam` than
    the model: the tensors would fit and answer nonsense."""
    for key, ours in _of_blocks(model).items():
        theirs = written.get(key, ours)
        if theirs != ours:
            raise UserError(f"{where}: made with {key} {theirs:g}, the model has {ours:g}; set model.{key}={theirs:g}")
