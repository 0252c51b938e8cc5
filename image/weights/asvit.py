"""Starting an As-ViT from another one of the same architecture."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from revit.common.models.embed.resize import resize_positions
from revit.common.models.grid import TokenGrid
from revit.common.models.load_report import Change, LoadReport
from revit.common.system.errors import UserError
from revit.common.weights.adapt import TABLE, Fitting
from revit.common.weights.heads import draw_heads, take_heads
from revit.common.weights.source import Source
from revit.image.models.asvit import AsViT

OUT = "head.2."
"""The classifier behind the head's hidden layer."""


@torch.no_grad()
def start_asvit(model: AsViT, source: Source, label_names: Sequence[str] = ()) -> LoadReport:
    """Loads `source` into `model` and says what became of each tensor.

    Pictures may have another size: a position table is resized bicubically. The classifier is made anew for other classes;
    the hidden layer of the head stays. Raises UserError for weights of another architecture.
    """
    report = LoadReport(source.where, label_names=source.label_names, notes=list(source.notes))
    own = model.state_dict()
    plain = {name.replace(OUT, "head."): tensor for name, tensor in source.tensors.items()}
    wanted = {name.replace(OUT, "head."): tensor for name, tensor in own.items()}
    new_heads = take_heads(Fitting(plain, wanted, report), tuple(label_names))
    table = plain.get(TABLE)
    if table is not None and TABLE in own and table.shape[1:] != own[TABLE].shape[1:]:
        plain[TABLE] = _resized(source, table, model)
        report.resized.append(Change(TABLE, tuple(table.shape), tuple(own[TABLE].shape), "bicubic"))
    for name, tensor in plain.items():
        if name not in wanted:
            report.unexpected.append(name)
        elif tensor.shape != wanted[name].shape:
            report.misfits.append(Change(name, tuple(tensor.shape), tuple(wanted[name].shape), "no rule"))
        else:
            report.loaded.append(name)
    report.missing += [name for name in wanted if name not in plain and name not in new_heads]
    report.check()
    draw_heads(wanted, new_heads)
    for name, tensor in plain.items():
        wanted[name].copy_(tensor)
    return report


def _resized(source: Source, table: torch.Tensor, model: AsViT) -> torch.Tensor:
    side = round(table.shape[1] ** 0.5)
    if table.ndim != 3 or side * side != table.shape[1] or table.shape[2] != model.genotype.width:
        raise UserError(
            f"{source.where}: a position table of shape {tuple(table.shape)} fits no square map of width "
            f"{model.genotype.width}; choose weights of the same architecture"
        )
    return resize_positions(table, 0, TokenGrid(side, side), model.full_grid, "bicubic")
