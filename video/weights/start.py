"""Starting a video model from weights made elsewhere, also of another kind of attention: time from space, tables of another
length."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from revit.common.models.embed.patches import resize_times
from revit.common.models.load_report import Change, LoadReport
from revit.common.system.errors import UserError
from revit.common.weights import start
from revit.common.weights.source import Source
from revit.video.models.timesformer import TimeSformer
from revit.video.weights.source import read_source

_SPATIAL = re.compile(r"(blocks\.\d+)\.(attn|norm1)\.(.+)")


def start_from(
    model: TimeSformer,
    where: str | Source,
    *,
    position_resize: str = "bicubic",
    time_resize: str | None = None,
    label_names: Sequence[str] = (),
    pixels: start.Pixels | None = None,
) -> LoadReport:
    """Load the weights at `where` into `model`, whatever they are, and report the fate of each tensor.

    `where`: weights that were read already, our checkpoint of clips or of pictures, or the run's folder with one (a ReViT-DeiT
    brings the parts of every grid that both have), a published TimeSformer .pyth, a Hugging Face TimeSformer folder or
    `hf-hub:NAME`, image ViT or DeiT weights (.pth, .safetensors, a folder in timm's layout, `timm:NAME`).
    `position_resize` "nearest_flat" is the published rule for tables of another size; `time_resize` follows it
    ("nearest", else "linear") unless given. `label_names`: the classes to be learned; where the source names its own,
    rows of the head are brought into their order, or the head is made anew where they are other classes. `pixels`: how the
    model's frames are normalised, see `revit.common.weights.start.start_from_source`.

    Raises:
        UserError: nothing readable there, or weights that do not fit: the message lists every tensor at fault.
    """
    source = read_source(where) if isinstance(where, str) else where
    if source.is_lvvit:
        raise UserError(
            f"{source.where}: an LV-ViT has another stem and other blocks than a TimeSformer; start from a ViT, a DeiT or "
            "a ReViT-DeiT"
        )
    how = time_resize or ("nearest" if position_resize == "nearest_flat" else "linear")
    return start.start_from_source(
        model,
        source,
        position_resize=position_resize,
        label_names=label_names,
        pixels=pixels,
        prepare=lambda tensors, report: add_time(tensors, model, report, how),
    )


def add_time(
    tensors: dict[str, Tensor], model: TimeSformer, report: LoadReport, time_resize: str = "linear"
) -> set[str]:
    """Bring `tensors` (changed in place) to the model's way with time; return the names that `report` now has.

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


def _time_table(tensors: dict[str, Tensor], model: TimeSformer, report: LoadReport, time_resize: str) -> set[str]:
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
