"""Starting an image model from weights made elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from revit.common.models.base import GridModel
from revit.common.models.embed.resize import resize_positions
from revit.common.models.grid import TokenGrid
from revit.common.models.load_report import Change, LoadReport
from revit.common.models.vit import ResizableTransformer
from revit.common.system.errors import UserError
from revit.common.weights import start
from revit.common.weights.adapt import TABLE, Fitting
from revit.common.weights.heads import draw_heads, take_heads
from revit.common.weights.source import Source, read_source
from revit.image.models.asvit import AsViT
from revit.image.models.lvvit import LVViT

OUT = "head.2."
"""Prefix of As-ViT's classifier, behind the head's hidden layer."""


def start_from(
    model: GridModel,
    source: Source | str,
    *,
    position_resize: str = "bicubic",
    label_names: Sequence[str] = (),
    pixels: start.Pixels | None = None,
) -> LoadReport:
    """Load weights into a DeiT, LV-ViT or As-ViT and report what became of each tensor.

    `source`: our checkpoint or the run's folder with one, ViT or DeiT weights with timm's names (.pth, .safetensors, a folder
    in timm's layout, `timm:NAME`), for an LV-ViT the files of its authors; or weights that were read already. `label_names`:
    the classes to be learned, and `pixels`, how the model's pictures are normalised: see `start.start_from_source`.

    Raises:
        UserError: nothing readable there, or weights that do not fit: the message lists every tensor at fault.
    """
    source = source if isinstance(source, Source) else read_source(source)
    if source.kind == "video" or any(".temporal_" in name or name == "time_embed" for name in source.tensors):
        raise UserError(
            f"{source.where}: weights of a video model, which pictures do not start from; give a ViT, a DeiT or an LV-ViT"
        )
    if isinstance(model, AsViT):
        return _start_asvit(model, source, label_names)
    assert isinstance(model, ResizableTransformer)
    if isinstance(model, LVViT) != source.is_lvvit:
        wanted, found = "an LV-ViT", "a ViT or DeiT"
        if source.is_lvvit:
            wanted, found = found, wanted
        raise UserError(
            f"{source.where}: weights of {found}, the model is {wanted}; give weights of its own kind or choose another "
            "model.name"
        )
    return start.start_from_source(
        model, source, position_resize=position_resize, label_names=label_names, pixels=pixels
    )


@torch.no_grad()
def _start_asvit(model: AsViT, source: Source, label_names: Sequence[str]) -> LoadReport:
    """Load another As-ViT of the same architecture.

    Pictures may have another size: a position table is resized bicubically. The classifier is made anew for other classes;
    the hidden layer of the head stays.
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


def _resized(source: Source, table: Tensor, model: AsViT) -> Tensor:
    side = round(table.shape[1] ** 0.5)
    if table.ndim != 3 or side * side != table.shape[1] or table.shape[2] != model.genotype.width:
        raise UserError(
            f"{source.where}: a position table of shape {tuple(table.shape)} fits no square map of width "
            f"{model.genotype.width}; choose weights of the same architecture"
        )
    return resize_positions(table, 0, TokenGrid(side, side), model.full_grid, "bicubic")
