"""What does not fit as it is: names of grids, position tables, patch kernels, heads, distillation tokens."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from revit.common.data.label_names import are_numbers
from revit.common.models.embed.patch_embed import ConvStem, SharedPatchify
from revit.common.models.embed.patches import resize_patch_kernel, resize_positions, undo_position_resize
from revit.common.models.grid import TokenGrid
from revit.common.models.load_report import Change, LoadReport
from revit.common.models.vit import ResizableTransformer
from revit.common.system.errors import UserError

KERNEL = "patch_embed.proj.weight"
TABLE, SHORT_TABLE, DISTILLATION_ROW = "pos_embed", "short_pos_embed.", "dist_pos_embed"
HEAD = re.compile(r"(head|aux_head|head_dist|head_dist\..+)\.(weight|bias)")
"""Class head, LV-ViT's head for patches, heads of distillation tokens."""
MAIN = "head.weight"


@dataclass
class Fitting:
    """Tensors on their way into a model: taken out of `source`, made to fit and put into `ready`."""

    source: dict[str, Tensor]
    own: Mapping[str, Tensor]
    """The model's state dict."""
    report: LoadReport
    ready: dict[str, Tensor] = field(default_factory=dict)
    """Tensors under the model's names."""

    def leave_out(self, why: str, names: Iterable[str]) -> None:
        """Take these tensors of the source out for good."""
        names = list(names)
        self.report.leave_out(why, names)
        for name in names:
            del self.source[name]

    def put(self, name: str, tensor: Tensor, before: Tensor, how: str) -> None:
        """Note a tensor as ready, and as resized by the rule `how` where its shape changed."""
        self.ready[name] = tensor
        if before.shape == self.own[name].shape:
            self.report.loaded.append(name)
        else:
            shapes = tuple(before.shape), tuple(self.own[name].shape)
            self.report.resized.append(Change(name, *shapes, how))


def rename_grids(
    source: dict[str, Tensor], source_grids: Sequence[TokenGrid], grids: Sequence[TokenGrid], report: LoadReport
) -> None:
    """Give the source's parts of every grid to the model's grid of the same rank, where both have equally many.

    So a model at 288 pixels (18, 12, 9) starts from one at 224 (14, 10, 7): the patches have the same pixels. With
    another count, parts go by the grids' names.
    """
    if len(source_grids) != len(grids) or tuple(source_grids) == tuple(grids):
        return
    new = {before.name: after.name for before, after in zip(source_grids, grids)}
    renamed = {".".join(new.get(part, part) for part in name.split(".")): source[name] for name in source}
    if renamed.keys() != source.keys():
        pairs = ", ".join(f"{before} -> {after}" for before, after in new.items())
        report.notes.append(f"every grid starts from the source's grid of the same rank: {pairs}")
    source.clear()
    source.update(renamed)


def take_positions(
    model: ResizableTransformer,
    fitting: Fitting,
    method: str,
    source_grids: Sequence[TokenGrid],
    num_prefix: int,
    position_grid: TokenGrid | None = None,
) -> None:
    """Fit the position tables, with the model's prefix rows, to the model's grids.

    A distilled model's distillation row goes to the students' tables where the model's longest grid has none.
    `position_grid`: that of a source whose one table has no prefix rows (FlexiViT).
    """
    source, own, ready, report = fitting.source, fitting.own, fitting.ready, fitting.report
    table = source.get(TABLE)
    if table is None or table.ndim != 3 or table.shape[-1] != own[TABLE].shape[-1]:
        return
    source.pop(TABLE)
    grids = {grid.num_positions: grid for grid in source_grids}
    if model.is_flexible:
        known = position_grid or _grid_of(table.shape[1] - num_prefix, grids, report)
        _take_flexible(model.position_grid, table, 0 if position_grid else num_prefix, known, fitting)
        return
    if position_grid is not None:
        # As it is resized on the fly, and nothing added to the class token: at any grid the source's own answers.
        table, num_prefix, method = F.pad(table, (0, 0, 1, 0)), 1, "linear"
        grids = {position_grid.num_positions: position_grid}
        report.notes.append("the source adds no position to its class token; that row of the table starts at zero")

    def fit(name: str, table: Tensor, rows: int, grid: TokenGrid, told: bool = True) -> None:
        known, wanted, fitted = _grid_of(table.shape[1] - rows, grids, report), model.num_prefix(grid), table
        if wanted > rows:  # a distillation row that the source lacks starts as the class row
            fitted = torch.cat([table[:, :1], table], dim=1)
        elif wanted < rows:
            fitted = torch.cat([table[:, :1], table[:, 2:]], dim=1)
        fitted = resize_positions(fitted, wanted, known, grid, method)
        row = "without the distillation row" if rows > wanted else "with a distillation row like the class row"
        if told:
            fitting.put(name, fitted, table, row if known.num_positions == grid.num_positions else method)
        else:
            ready[name] = fitted

    longest = model.grids[0]
    fit(TABLE, table, num_prefix, longest)
    student_rows = num_prefix == 2 and model.num_prefix(longest) == 1
    for grid in model.grids[1:]:
        name = f"{SHORT_TABLE}{grid.name}"
        if name not in own:
            continue
        short = source.pop(name, None)
        if short is not None and short.ndim == 3 and short.shape[-1] == table.shape[-1]:
            fit(name, short, _prefix_rows(short, grid, grids), grid)
        elif student_rows:
            fit(name, table, num_prefix, grid, told=False)
            report.derive("the shorter grids' position tables from the source's", [name])
    if student_rows and DISTILLATION_ROW in own:
        ready[DISTILLATION_ROW] = table[:, 1:2]
        report.derive("the distillation token's position from the source's", [DISTILLATION_ROW])


def _prefix_rows(table: Tensor, grid: TokenGrid, grids: Mapping[int, TokenGrid]) -> int:
    """Return 1 or 2, by which of them leaves the rows of a grid: a known one of the source, the model's, or a square."""
    count = table.shape[1]
    for known in (grids, {grid.num_positions}, {math.isqrt(count - 1) ** 2}):
        for rows in (1, 2):
            if count - rows in known:
                return rows
    return 2


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


def _take_flexible(wanted: TokenGrid, table: Tensor, rows: int, known: TokenGrid, fitting: Fitting) -> None:
    """Fit the table (1, rows + known, D) of a source to a model with one table of the grid `wanted`.

    The class token takes its row up, which changes nothing; that of a distillation token goes. A fixed model's positions
    are zoomed between aligned corners, as the published code starts from a teacher; the table of another FlexiViT is
    brought back to the one whose resize it is, as near as there is one.
    """
    if rows > 0 and "cls_token" in fitting.source:
        fitting.ready["cls_token"] = fitting.source.pop("cls_token") + table[:, :1]
        fitting.report.derive("the class token and its row of the position table, added up", ["cls_token"])
    patches = table[:, rows:]
    if known == wanted:
        how = "without the rows of the prefix"
    elif rows == 0 and known.rows >= wanted.rows and known.cols >= wanted.cols:
        patches, how = undo_position_resize(patches, known, wanted), "linear, undone"
    elif rows == 0:
        patches, how = resize_positions(patches, 0, known, wanted, "linear"), "linear"
    else:
        patches, how = resize_positions(patches, 0, known, wanted, "corners"), "linear, corners aligned"
    fitting.ready[TABLE] = patches
    if rows == 0 and known == wanted:
        fitting.report.loaded.append(TABLE)
    else:
        fitting.report.resized.append(Change(TABLE, tuple(table.shape), tuple(patches.shape), how))


def take_patch_kernels(model: ResizableTransformer, fitting: Fitting) -> None:
    """Fit the patch kernels of another size."""
    embed, source, own = model.patch_embed, fitting.source, fitting.own
    kernels = [name for name in source if name.startswith("patch_embed.")]
    if isinstance(embed, ConvStem):
        left = (name for name in kernels if not name.startswith("patch_embed.stems."))
        fitting.leave_out("a patch kernel, where this model has convolution stems", left)
        return
    for name in kernels:
        kernel, wanted = source[name], own.get(name)
        if wanted is None or kernel.ndim != 4 or kernel.shape[:2] != wanted.shape[:2]:
            continue
        size = (wanted.shape[2], wanted.shape[3])
        if kernel.shape[2:] == size:
            continue
        source.pop(name)
        fitted, how = resize_patch_kernel(kernel, size), "pseudo-inverse"
        if isinstance(embed, SharedPatchify):
            # The kernel of the longest grid is the centre of the stored one.
            core = embed.patches[model.grids[0].name]
            top, left_ = ((full - side) // 2 for full, side in zip(size, core))
            missing = (left_, size[1] - core[1] - left_, top, size[0] - core[0] - top)
            fitted, how = F.pad(resize_patch_kernel(kernel, core), missing), "in the centre, zeros around"
        fitting.put(name, fitted, kernel, how)


def take_heads(fitting: Fitting, label_names: tuple[str, ...]) -> set[str]:
    """Take heads that do not fit out of the source, all together; return their names in the model, to be made anew.

    Where both sides name their classes and the names are the same in another order, rows are put in the model's order.
    """
    source, own, report = fitting.source, fitting.own, fitting.report
    ours = {name for name in own if re.fullmatch(r"(head|aux_head|head_dist)\.(weight|bias)", name)}
    # Names that are numbers say nothing about the classes.
    names, wanted = (() if are_numbers(one) else one for one in (report.label_names, label_names))
    theirs, sought = [_plain(name) for name in names], [_plain(name) for name in wanted]
    after = own[MAIN].shape[0] if MAIN in own else 0
    report.label_names = ()
    if MAIN not in source:
        if ours:
            report.remade.append(f"head: the source has none -> {after} classes")
        return ours
    before = source[MAIN].shape[0]
    heads = [name for name in source if HEAD.fullmatch(name)]
    if before == after and (not wanted or not names or theirs == sought):
        report.label_names = wanted or names
        if wanted and not names:
            report.notes.append(f"the source names no classes; its head was kept because the count, {after}, agrees")
        return set()
    if before == after and sorted(theirs) == sorted(sought) and len(set(theirs)) == before:
        order = torch.tensor([theirs.index(name) for name in sought])
        source.update({name: source[name][order] for name in heads})
        report.notes.append("the source's classes come in another order; the head's rows were put in the model's")
        report.label_names = wanted
        return set()
    why = "other class names" if before == after else f"{before} -> {after} classes"
    fitting.leave_out(f"a head for other classes ({why})", heads)
    if ours:
        report.remade.append(f"head: {why}, starts at random")
    return ours


def draw_heads(own: Mapping[str, Tensor], names: Iterable[str]) -> None:
    """Draw the weights of new heads, in a fixed order for the random numbers."""
    for name in sorted(names):
        if name.endswith("weight"):
            nn.init.trunc_normal_(own[name], std=0.02)
        else:
            nn.init.zeros_(own[name])


def _plain(name: str) -> str:
    """Reduce a class name to what spellings share: "Playing_Guitar" and "playing guitar" are one class."""
    return " ".join(name.casefold().replace("_", " ").split())


def take_distillation(fitting: Fitting) -> int:
    """Bring distillation tokens and heads to where the model has them; return the source's count of prefix rows.

    A distilled DeiT has one for all grids, a ReViT for its students, under one key or one each; what the model lacks
    in the source's place comes from there, and for a distilled model without any from the class token and head.
    """
    source, own = fitting.source, fitting.own
    num_prefix = 2 if "dist_token" in source else 1
    theirs = [name for name in source if name.startswith(("dist_token", "head_dist"))]
    keys = [name.partition(".")[2] for name in source if name.split(".")[0] == "dist_token"]
    places = [name for name in own if name.split(".")[0] == "dist_token"]
    if not places:
        fitting.leave_out("a distillation token and head, which belong to shorter grids", theirs)
        return num_prefix
    taken: set[str] = set()
    for name in places:
        if name in source:
            continue
        key = name.partition(".")[2]
        if keys:  # of a distilled model, of all students, or of the longest of them
            shared = [known for known in ("", "shared") if known in keys]
            chosen = shared[0] if shared else max(keys, key=lambda one: TokenGrid.parse(one).num_positions)
            token, head, what = f"dist_token{_dot(chosen)}", f"head_dist{_dot(chosen)}", "the source's"
        elif not key:
            token, head, what = "cls_token", "head", "those of the class"
        else:
            continue  # students' own start, from the longest grid
        made = {name: token}
        for kind in ("weight", "bias"):
            ours, origin = f"head_dist{_dot(key)}.{kind}", f"{head}.{kind}"
            if origin in source and ours in own and source[origin].shape == own[ours].shape:
                made[ours] = origin
        fitting.ready.update({ours: source[origin] for ours, origin in made.items()})
        taken.update(made.values())
        fitting.report.derive(f"distillation token and head from {what}", made)
    spare = [name for name in theirs if name not in own] if keys else []
    fitting.leave_out(
        "a token grid or a head that this model does not have", (name for name in spare if name not in taken)
    )
    for name in taken.intersection(spare):
        del source[name]
    return num_prefix


def _dot(key: str) -> str:
    """Return the key of a dictionary's entry as part of a name."""
    return f".{key}" if key else ""
