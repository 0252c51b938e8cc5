"""Weights of one kind of attention in a model of another: time from space, tables of another length."""

from __future__ import annotations

import re
from collections.abc import Collection

import torch
from torch import Tensor

from revit.common.models.embed.resize import resize_times
from revit.common.models.load_report import Change, LoadReport
from revit.video.models.timesformer import TimeSformer

_SPATIAL = re.compile(r"(blocks\.\d+)\.(attn|norm1)\.(.+)")


def add_time(
    tensors: dict[str, Tensor], model: TimeSformer, report: LoadReport, time_resize: str = "linear"
) -> set[str]:
    """Brings `tensors` (changed in place) to the model's way with time; returns the names that `report` now has.

    Image weights in a divided model (the published recipe): attention and norms over time, of every grid that both have,
    start as copies of those over space, `temporal_fc` at zero, so that the first forward pass is the image model's on every frame; the time
    table keeps the model's own start, zero by default. Where the source has time and the model has not (joint or
    space-only), its parts are left out. A time table of another length is resized.
    """
    accounted: set[str] = set()
    if model.attention == "divided_space_time":
        accounted |= _time_from_space(tensors, model.state_dict().keys(), report)
    else:
        temporal = [name for name in tensors if ".temporal_" in name]
        report.leave_out(f"attention over time, which a {model.attention} model does not have", temporal)
        for name in temporal:
            del tensors[name]
    return accounted | _time_table(tensors, model, report, time_resize)


def _time_from_space(tensors: dict[str, Tensor], own: Collection[str], report: LoadReport) -> set[str]:
    with_time = {name.split(".temporal_")[0] for name in tensors if ".temporal_" in name}
    copies: dict[str, Tensor] = {}
    zeros: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        match = _SPATIAL.fullmatch(name)
        if match is None or match[1] in with_time:
            continue
        block, part, rest = match.groups()
        if f"{block}.temporal_{part}.{rest}" not in own:
            continue  # a block or a grid that the model does not have, which `fit` speaks of
        copies[f"{block}.temporal_{part}.{rest}"] = tensor
        if name.endswith("attn.proj.weight"):
            width = tensor.shape[0]
            zeros[f"{block}.temporal_fc.weight"] = torch.zeros(width, width)
            zeros[f"{block}.temporal_fc.bias"] = torch.zeros(width)
    report.derive("attention and norm over time from those over space", copies)
    report.derive("temporal_fc at zero", zeros)
    tensors.update(copies)
    tensors.update(zeros)
    return {*copies, *zeros}


def _time_table(
    tensors: dict[str, Tensor], model: TimeSformer, report: LoadReport, time_resize: str
) -> set[str]:
    table, own = tensors.get("time_embed"), model.time_embed
    if own is None:
        if table is not None:
            report.leave_out("a time table, which a space-only model does not have", ["time_embed"])
            del tensors["time_embed"]
        return set()
    if table is None:
        tensors["time_embed"] = own.detach().clone()
        zero = "zero" if not bool(own.any()) else "random"
        report.remade.append(f"time_embed: the source has none; the model's own start ({zero}) is kept")
        return {"time_embed"}
    if table.ndim != 3 or table.shape[1] == own.shape[1] or table.shape[2] != own.shape[2]:
        return set()
    tensors["time_embed"] = resize_times(table, own.shape[1], time_resize)
    report.resized.append(Change("time_embed", tuple(table.shape), tuple(own.shape), time_resize))
    return {"time_embed"}
