"""What does not fit as it is: names of grids, position tables, patch kernels.

Each function takes its tensors out of `source` (changed in place), puts what it made of them into `ready`, under the
model's names, and tells `report`. `own` is the model's state dict.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from revit.common.models.embed.patch_embed import ConvStem, SharedPatchify
from revit.common.models.embed.resize import resize_patch_kernel, resize_positions
from revit.common.models.grid import TokenGrid
from revit.common.models.load_report import Change, LoadReport
from revit.common.models.vit import ResizableTransformer
from revit.common.system.errors import UserError
from revit.common.weights.flexible import take_flexible_positions

KERNEL = "patch_embed.proj.weight"
TABLE, SHORT_TABLE = "pos_embed", "short_pos_embed."


def rename_grids(
    source: dict[str, Tensor],
    source_grids: Sequence[TokenGrid],
    grids: Sequence[TokenGrid],
    report: LoadReport,
) -> None:
    """Gives the source's parts of every grid to the model's grid of the same rank, where both have equally many.

    So a model at 288 pixels (18, 12, 9) starts from one at 224 (14, 10, 7): the patches have the same pixels. With
    another count, parts go by the grids' names.
    """
    if len(source_grids) != len(grids) or tuple(source_grids) == tuple(grids):
        return
    new = {before.name: after.name for before, after in zip(source_grids, grids)}
    renamed = {
        ".".join(new.get(part, part) for part in name.split(".")): tensor for name, tensor in source.items()
    }
    changed = renamed.keys() != source.keys()
    source.clear()
    source.update(renamed)
    if changed:
        pairs = ", ".join(f"{before} -> {after}" for before, after in new.items())
        report.notes.append(f"every grid starts from the source's grid of the same rank: {pairs}")


def take_positions(
    model: ResizableTransformer,
    source: dict[str, Tensor],
    own: Mapping[str, Tensor],
    ready: dict[str, Tensor],
    report: LoadReport,
    method: str,
    source_grids: Sequence[TokenGrid],
    num_prefix: int,
    position_grid: TokenGrid | None = None,
) -> None:
    """Takes the position tables out of `source`, with the model's prefix rows, resized to the model's grids.

    A distilled model's distillation row goes to the students' tables where the model's longest grid has none.
    `position_grid`: that of a source whose one table has no prefix rows (FlexiViT).
    """
    table = source.get(TABLE)
    if table is None or table.ndim != 3 or table.shape[-1] != own[TABLE].shape[-1]:
        return
    source.pop(TABLE)
    grids = {grid.num_positions: grid for grid in source_grids}
    if model.position_grid is not None:
        known = position_grid or _grid_of(table.shape[1] - num_prefix, grids, report)
        rows = 0 if position_grid is not None else num_prefix
        take_flexible_positions(model.position_grid, table, rows, known, source, ready, report)
        return
    if position_grid is not None:
        # As it is resized on the fly, and nothing added to the class token: at any grid the source's own answers.
        table, num_prefix, method = F.pad(table, (0, 0, 1, 0)), 1, "linear"
        grids = {position_grid.num_positions: position_grid}
        report.notes.append(
            "the source adds no position to its class token; that row of the table starts at zero"
        )

    def fitted(table: Tensor, rows: int, grid: TokenGrid) -> Tensor:
        known = _grid_of(table.shape[1] - rows, grids, report)
        wanted = model.num_prefix(grid)
        if wanted > rows:  # a distillation row that the source lacks starts as the class row
            table = torch.cat([table[:, :1], table], dim=1)
        elif wanted < rows:
            table = torch.cat([table[:, :1], table[:, 2:]], dim=1)
        return resize_positions(table, wanted, known, grid, method)

    longest = model.grids[0]
    ready[TABLE] = fitted(table, num_prefix, longest)
    _tell(report, TABLE, table, own[TABLE], method, num_prefix - model.num_prefix(longest))
    student_rows = num_prefix == 2 and model.num_prefix(longest) == 1
    for grid in model.grids[1:]:
        name = f"{SHORT_TABLE}{grid.name}"
        if name not in own:
            continue
        short = source.pop(name, None)
        if short is not None and short.ndim == 3 and short.shape[-1] == table.shape[-1]:
            rows = _prefix_rows(short, grid, grids)
            ready[name] = fitted(short, rows, grid)
            _tell(report, name, short, own[name], method, rows - model.num_prefix(grid))
        elif student_rows:
            ready[name] = fitted(table, num_prefix, grid)
            report.derive("the shorter grids' position tables from the source's", [name])
    if student_rows and "dist_pos_embed" in own:
        ready["dist_pos_embed"] = table[:, 1:2]
        report.derive("the distillation token's position from the source's", ["dist_pos_embed"])


def _prefix_rows(table: Tensor, grid: TokenGrid, grids: Mapping[int, TokenGrid]) -> int:
    """1 or 2, by which of them leaves the rows of a grid: a known one of the source, the model's, or a square."""
    count = table.shape[1]
    for known in (grids, {grid.num_positions}, {math.isqrt(count - 1) ** 2}):
        for rows in (1, 2):
            if count - rows in known:
                return rows
    return 2


def _tell(report: LoadReport, name: str, before: Tensor, own: Tensor, method: str, surplus: int) -> None:
    shapes = tuple(before.shape), tuple(own.shape)
    if shapes[0] == shapes[1]:
        report.loaded.append(name)
    elif shapes[0][1] - surplus == shapes[1][1]:
        how = "without the distillation row" if surplus > 0 else "with a distillation row like the class row"
        report.resized.append(Change(name, *shapes, how))
    else:
        report.resized.append(Change(name, *shapes, method))


def _grid_of(count: int, grids: Mapping[int, TokenGrid], report: LoadReport) -> TokenGrid:
    if count in grids:
        return grids[count]
    side = math.isqrt(count)
    if side == 0 or side * side != count:
        raise UserError(
            f"{report.source}: a position table of {count} patches is no square, so its rows and columns are not "
            "known; choose weights of a square picture size"
        )
    return TokenGrid(side, side)


def take_patch_kernels(
    model: ResizableTransformer,
    source: dict[str, Tensor],
    own: Mapping[str, Tensor],
    ready: dict[str, Tensor],
    report: LoadReport,
) -> None:
    """Takes the patch kernels of another size out of `source`, made to fit."""
    if isinstance(model.patch_embed, ConvStem):
        names = [
            name
            for name in source
            if name.startswith("patch_embed.") and not name.startswith("patch_embed.stems.")
        ]
        report.leave_out("a patch kernel, where this model has convolution stems", names)
        for name in names:
            del source[name]
        return
    for name in [name for name in source if name.startswith("patch_embed.") and name in own]:
        kernel, wanted = source[name], own[name]
        if kernel.ndim != 4 or kernel.shape[:2] != wanted.shape[:2] or kernel.shape == wanted.shape:
            continue
        source.pop(name)
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
        ready[name] = fitted
        report.resized.append(Change(name, tuple(kernel.shape), tuple(wanted.shape), how))
