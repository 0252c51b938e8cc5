"""What does not fit as it is: distillation parts, position tables, patch kernels, heads.

Each function takes its tensors out of `source` (changed in place), puts what it made of them into `ready`, under the
model's names, and tells `report`. `own` is the model's state dict.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from revit.common.embed.patch_embed import ConvStem, SharedPatchify
from revit.common.embed.resize import resize_patch_kernel, resize_positions
from revit.common.errors import UserError
from revit.common.load_report import Change, LoadReport
from revit.common.tokens.grid import TokenGrid
from revit.common.vit import ResizableTransformer

KERNEL = "patch_embed.proj.weight"
HEADS = ("head.weight", "head.bias")


def take_distillation(
    model: ResizableTransformer,
    source: dict[str, Tensor],
    own: Mapping[str, Tensor],
    ready: dict[str, Tensor],
    report: LoadReport,
) -> bool:
    """Takes a distilled DeiT's token and head out of `source`; true where it has them."""
    token = source.pop("dist_token", None)
    heads: dict[str, Tensor] = {
        name: source.pop(name) for name in ("head_dist.weight", "head_dist.bias") if name in source
    }
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


def take_positions(
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


def take_patch_kernel(
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


def take_heads(
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
