"""Weights that have no position row for the class token, or shall have none: FlexiViT's, and DeiT III's."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

from revit.common.models.embed.resize import resize_positions, undo_position_resize
from revit.common.models.grid import TokenGrid
from revit.common.models.load_report import Change, LoadReport

CLASS, TABLE, KERNEL = "cls_token", "pos_embed", "patch_embed.proj.weight"


def take_flexible_positions(
    wanted: TokenGrid,
    table: Tensor,
    rows: int,
    known: TokenGrid,
    source: dict[str, Tensor],
    ready: dict[str, Tensor],
    report: LoadReport,
) -> None:
    """The table (1, rows + known, D) of a source for a model with one table of the grid `wanted`, as `take_positions` does.

    The class token takes its row up, which changes nothing; that of a distillation token goes. A fixed model's positions
    are zoomed between aligned corners, as the published code starts from a teacher; the table of another FlexiViT is
    brought back to the one whose resize it is, as near as there is one.
    """
    if rows > 0 and CLASS in source:
        ready[CLASS] = source.pop(CLASS) + table[:, :1]
        report.derive("the class token and its row of the position table, added up", [CLASS])
    patches = table[:, rows:]
    if known == wanted:
        how = "without the rows of the prefix"
    elif rows == 0 and known.rows >= wanted.rows and known.cols >= wanted.cols:
        patches, how = undo_position_resize(patches, known, wanted), "linear, undone"
    elif rows == 0:
        patches, how = resize_positions(patches, 0, known, wanted, "linear"), "linear"
    else:
        patches, how = resize_positions(patches, 0, known, wanted, "corners"), "linear, corners aligned"
    ready[TABLE] = patches
    if rows == 0 and known == wanted:
        report.loaded.append(TABLE)
    else:
        report.resized.append(Change(TABLE, tuple(table.shape), tuple(patches.shape), how))


def read_without_class_row(
    tensors: dict[str, Tensor],
) -> tuple[dict[str, Tensor], TokenGrid | None, list[str]]:
    """timm's tensors of an image transformer, in the form that is known here: the tensors, the position grid of a
    FlexiViT, and notes.

    - DeiT III scales its residual branches by learned vectors, which are multiplied into the layers before them.
    - A table of a square number of rows has none for the class token (n x n patches and a class token never are a
      square). Beside such vectors it is DeiT III's and gets a row of zeros, which changes nothing; without them it is that of a
      FlexiViT.
    """
    notes: list[str] = []
    scaled = any(name.endswith(".ls1.gamma") for name in tensors)
    if scaled:
        tensors = _without_layer_scale(tensors)
        notes.append("the scales of its residual branches were multiplied into the layers before them")
    table, kernel = tensors[TABLE], tensors[KERNEL]
    side = math.isqrt(table.shape[1]) if table.ndim == 3 else 0
    if side == 0 or side * side != table.shape[1]:
        return tensors, None, notes
    if scaled:
        notes.append("its class token has no position; that row of the table is zero")
        return {**tensors, TABLE: F.pad(table, (0, 0, 1, 0))}, None, notes
    size = "x".join(map(str, kernel.shape[2:]))
    notes.append(
        f"a FlexiViT in timm's form: its kernel was already resized to {size} pixels when it was converted, the one it was "
        "trained with is not in the file; all other sizes are made from this one, larger ones exactly, smaller ones nearly"
    )
    return tensors, TokenGrid(side, side), notes


def _without_layer_scale(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """x + gamma * (W y + b) is x + (gamma W) y + gamma b."""
    folded = {
        name: tensor for name, tensor in tensors.items() if not name.endswith((".ls1.gamma", ".ls2.gamma"))
    }
    for branch, layer in (("ls1", "attn.proj"), ("ls2", "mlp.fc2")):
        for name, gamma in tensors.items():
            block, found, _ = name.rpartition(f".{branch}.gamma")
            if found:
                for part, scale in (("weight", gamma[:, None]), ("bias", gamma)):
                    folded[f"{block}.{layer}.{part}"] = tensors[f"{block}.{layer}.{part}"] * scale
    return folded
