"""Putting weights of one size into a model of another, with an account of every tensor."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from revit.common.embed.patch_embed import ConvStem, SharedPatchify
from revit.common.embed.resize import resize_patch_kernel, resize_positions
from revit.common.errors import UserError
from revit.common.load_report import Change, LoadReport
from revit.common.tokens.grid import TokenGrid
from revit.common.vit import ResizableTransformer

KERNEL = "patch_embed.proj.weight"
HEADS = ("head.weight", "head.bias")
# What belongs to shorter grids only and can start from the longest grid's parts.
SHORT = re.compile(
    r"(^|\.)short\.|^short_pos_embed\.|^dist_token\.|^head_dist\.|^dist_pos_embed$|^patch_embed\.stems\."
)


@torch.no_grad()
def fit(
    model: ResizableTransformer,
    source: Mapping[str, Tensor],
    report: LoadReport,
    position_resize: str = "bicubic",
    source_grid: TokenGrid | None = None,
    label_names: Sequence[str] = (),
    accounted: Collection[str] = (),
) -> LoadReport:
    """Loads `source`, under the published names of this project's models, into `model` and fills `report`.

    Position tables and patch kernels of another size are resized, a head of another class count (or other classes:
    `label_names` against `report.label_names`) is made anew, classes in another order are put in the model's, a
    DeiT distillation token goes to the shorter grids, and what the shorter grids still lack starts from the longest
    one. `source_grid` is the source's longest grid where it is known; otherwise its table is taken to be square.
    `accounted` names tensors of `source` that `report` already speaks of.

    Raises:
        UserError: anything missing, unexpected or of a wrong shape; the model is then unchanged.
    """
    own = model.state_dict()
    source = dict(source)
    ready: dict[str, Tensor] = {}

    has_distillation_row = _deit_distillation(model, source, own, ready, report)
    _positions(model, source, own, ready, report, position_resize, source_grid, has_distillation_row)
    _patch_embedding(model, source, own, ready, report)
    new_heads = _heads(source, own, report, tuple(label_names))

    for name, tensor in source.items():
        if name in ready:
            continue
        if name not in own:
            if SHORT.search(name):
                report.leave_out("a token grid or a head that this model does not have", [name])
            else:
                report.unexpected.append(name)
        elif name in new_heads:
            continue
        elif tensor.shape == own[name].shape:
            ready[name] = tensor
            if name not in accounted:
                report.loaded.append(name)
        elif SHORT.search(name):
            report.leave_out("a shorter grid's part of another size", [name])
        else:
            report.misfits.append(Change(name, tuple(tensor.shape), tuple(own[name].shape), "no rule"))
    tried = {change.name for change in report.misfits}
    report.missing += [
        name
        for name in own
        if name not in ready and name not in new_heads and name not in tried and not SHORT.search(name)
    ]
    report.check()
    _put(model, own, ready, new_heads, report)
    return report


def _put(
    model: ResizableTransformer,
    own: Mapping[str, Tensor],
    ready: Mapping[str, Tensor],
    new_heads: set[str],
    report: LoadReport,
) -> None:
    if "head.weight" in new_heads and isinstance(model.head, nn.Linear):
        nn.init.trunc_normal_(model.head.weight, std=0.02)
        nn.init.zeros_(model.head.bias)
    # The longest grid's parts first, then everything that starts from them, then what the source has of that.
    for short in (False, True):
        for name, tensor in ready.items():
            if bool(SHORT.search(name)) == short:
                own[name].copy_(tensor)
        if not short and len(model.grids) > 1:
            model.start_short_grids()
    rest = [name for name in own if SHORT.search(name) and name not in ready]
    if isinstance(model.patch_embed, ConvStem):
        stems = [name for name in rest if name.startswith("patch_embed.stems.")]
        if stems:
            report.remade.append(f"the convolution stems: {len(stems)} tensors keep their random start")
        rest = [name for name in rest if name not in stems]
    report.derive(f"the shorter grids' parts from those of {model.grids[0]}", rest)


def _deit_distillation(
    model: ResizableTransformer,
    source: dict[str, Tensor],
    own: Mapping[str, Tensor],
    ready: dict[str, Tensor],
    report: LoadReport,
) -> bool:
    """Takes a distilled DeiT's token and head out of `source`; true where it has them."""
    token = source.pop("dist_token", None)
    heads = {name: source.pop(name) for name in ("head_dist.weight", "head_dist.bias") if name in source}
    if token is None:
        report.unexpected += heads
        return False
    targets = [name for name in own if name.startswith("dist_token.")]
    if not targets:
        report.leave_out(
            "a distillation token and head, which belong to shorter grids", ["dist_token", *heads]
        )
        return True
    for name in targets:
        ready[name] = token
    report.derive("the shorter grids' distillation token from the source's", targets)
    for name in (name for name in own if name.startswith("head_dist.")):
        tensor = heads.get(f"head_dist.{name.rsplit('.', 1)[1]}")
        if tensor is not None and tensor.shape == own[name].shape:
            ready[name] = tensor
            report.derive("the shorter grids' distillation head from the source's", [name])
    if heads and not any(name.startswith("head_dist.") for name in ready):
        report.leave_out("a distillation head with another class count", heads)
    return True


def _positions(
    model: ResizableTransformer,
    source: dict[str, Tensor],
    own: Mapping[str, Tensor],
    ready: dict[str, Tensor],
    report: LoadReport,
    method: str,
    source_grid: TokenGrid | None,
    has_distillation_row: bool,
) -> None:
    """Takes the longest grid's table out of `source`, without a distillation row, resized to the model's grid."""
    name = "pos_embed"
    table = source.get(name)
    if table is None or table.ndim != 3 or table.shape[-1] != own[name].shape[-1]:
        return
    source.pop(name)
    before = tuple(table.shape)
    if has_distillation_row:
        distillation_row = table[:, 1:2]
        table = torch.cat([table[:, :1], table[:, 2:]], dim=1)
        for short in (key for key in own if key.startswith("short_pos_embed.")):
            grid = TokenGrid.parse(short.removeprefix("short_pos_embed."))
            if model.num_prefix(grid) == 2:
                resized = resize_positions(table, 1, _square(table, source_grid, report), grid, method)
                ready[short] = torch.cat([resized[:, :1], distillation_row, resized[:, 1:]], dim=1)
                report.derive("the shorter grids' position tables from the source's", [short])
        if "dist_pos_embed" in own:
            ready["dist_pos_embed"] = distillation_row
            report.derive("the distillation token's position from the source's", ["dist_pos_embed"])
    if table.shape == own[name].shape:
        ready[name] = table
    else:
        ready[name] = resize_positions(table, 1, _square(table, source_grid, report), model.grids[0], method)
    if before == tuple(own[name].shape):
        report.loaded.append(name)
    elif has_distillation_row and before[1] == own[name].shape[1] + 1:
        report.resized.append(Change(name, before, tuple(own[name].shape), "without the distillation row"))
    else:
        report.resized.append(Change(name, before, tuple(own[name].shape), method))


def _square(table: Tensor, source_grid: TokenGrid | None, report: LoadReport) -> TokenGrid:
    count = table.shape[1] - 1
    if source_grid is not None and source_grid.num_positions == count:
        return source_grid
    side = math.isqrt(count)
    if side == 0 or side * side != count:
        raise UserError(
            f"{report.source}: a position table of {count} patches is no square, so its rows and columns are not "
            "known; choose weights of a square picture size"
        )
    return TokenGrid(side, side)


def _patch_embedding(
    model: ResizableTransformer,
    source: dict[str, Tensor],
    own: Mapping[str, Tensor],
    ready: dict[str, Tensor],
    report: LoadReport,
) -> None:
    """Takes the longest grid's patch kernel out of `source`, made to fit."""
    if isinstance(model.patch_embed, ConvStem):
        names = [name for name in source if name.startswith("patch_embed.") and name not in own]
        report.leave_out("a patch kernel, where this model has convolution stems", names)
        for name in names:
            del source[name]
        return
    kernel, wanted = source.get(KERNEL), own[KERNEL]
    if (
        kernel is None
        or kernel.ndim != 4
        or kernel.shape[:2] != wanted.shape[:2]
        or kernel.shape == wanted.shape
    ):
        return
    source.pop(KERNEL)
    size = (wanted.shape[2], wanted.shape[3])
    if isinstance(model.patch_embed, SharedPatchify):
        # The kernel of the longest grid is the centre of the stored one.
        core = model.patch_embed.patches[model.grids[0].name]
        small = resize_patch_kernel(kernel, core)
        top, left = ((full - side) // 2 for full, side in zip(size, core))
        fitted = F.pad(small, (left, size[1] - core[1] - left, top, size[0] - core[0] - top))
        how = "in the centre, zeros around"
    else:
        fitted, how = resize_patch_kernel(kernel, size), "pseudo-inverse"
    ready[KERNEL] = fitted
    report.resized.append(Change(KERNEL, tuple(kernel.shape), tuple(wanted.shape), how))


def _heads(
    source: dict[str, Tensor], own: Mapping[str, Tensor], report: LoadReport, wanted: tuple[str, ...]
) -> set[str]:
    """Takes heads that do not fit out of `source` and returns their names in the model, to be made anew.

    Where both sides name their classes and the names are the same in another order, rows are put in the model's order.
    """
    ours = "head.weight" in own
    names, wanted = _real(report.label_names), _real(wanted)
    theirs, sought = [_plain(name) for name in names], [_plain(name) for name in wanted]
    if "head.weight" not in source:
        report.label_names = ()
        if ours:
            report.remade.append(f"head: the source has none -> {own['head.weight'].shape[0]} classes")
        return set(HEADS) if ours else set()
    before = source["head.weight"].shape[0]
    after = own["head.weight"].shape[0] if ours else 0
    all_heads = [name for name in source if name in HEADS or re.match(r"head_dist\.", name)]
    if before == after and (not wanted or not names or theirs == sought):
        report.label_names = wanted or names
        if wanted and not names:
            report.notes.append(
                f"the source names no classes; its head was kept because the count, {after}, agrees"
            )
        return set()
    if before == after and sorted(theirs) == sorted(sought) and len(set(theirs)) == before:
        order = torch.tensor([theirs.index(name) for name in sought])
        for name in all_heads:
            source[name] = source[name][order]
        report.notes.append(
            "the source's classes come in another order; the head's rows were put in the model's"
        )
        report.label_names = wanted
        return set()
    why = "other class names" if before == after else f"{before} -> {after} classes"
    report.label_names = ()
    for name in all_heads:
        del source[name]
    report.leave_out(f"a head for other classes ({why})", all_heads)
    if ours:
        report.remade.append(f"head: {why}, starts at random")
    return set(HEADS) if ours else set()


def _real(names: tuple[str, ...]) -> tuple[str, ...]:
    """Class names, or none where they are just the numbers: those say nothing about the classes."""
    return () if all(name == str(number) for number, name in enumerate(names)) else names


def _plain(name: str) -> str:
    """A class name as far as spellings agree: "Playing_Guitar" and "playing guitar" are one class."""
    return " ".join(name.casefold().replace("_", " ").split())
