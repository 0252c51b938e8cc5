"""Distillation tokens and the classifiers on them: which grids have one, and whose it is.

Tokens and heads live in the model, as `dist_token` and `head_dist`; the objects here make them and find a grid's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import nn

from revit.common.models.grid import TokenGrid

Distillation = Literal["none", "shared", "per_grid", "every_grid"]


def make_head(embed_dim: int, num_classes: int) -> nn.Module:
    """Make a classifier (..., D) -> (..., K); without classes it gives the features, as in timm and the published code."""
    return nn.Linear(embed_dim, num_classes) if num_classes > 0 else nn.Identity()


def parts_of(part: Any) -> list[Any]:
    """List one part, or all those of a dictionary."""
    return list(part.values()) if isinstance(part, (nn.ParameterDict, nn.ModuleDict)) else [part]


class StudentHeads:
    """ReViT: the shorter grids have a distillation token and a head, all the same ones ("shared") or each its own
    ("per_grid"), or no grid has ("none"). The longest grid, the teacher, has the class token only."""

    def __init__(self, distillation: Distillation, grids: Sequence[TokenGrid]) -> None:
        students = () if distillation == "none" else grids[1:]
        self.keys = {grid: "shared" if distillation == "shared" else grid.name for grid in students}
        """Grid -> key of its token and head in the model's dictionaries."""

    def num_prefix(self, grid: TokenGrid) -> int:
        """Count the prefix tokens of a grid: class, and distillation where it has one."""
        return 2 if grid in self.keys else 1

    def make(self, width: int, num_classes: int) -> tuple[Any, nn.Module]:
        """Make `dist_token`, zeros (1, 1, D), and `head_dist`."""
        keys = list(dict.fromkeys(self.keys.values()))
        tokens = nn.ParameterDict({key: torch.zeros(1, 1, width) for key in keys})
        return tokens, nn.ModuleDict({key: make_head(width, num_classes) for key in keys})

    def own(self, part: Any, grid: TokenGrid) -> Any:
        """Return the entry of a grid in `dist_token` or `head_dist`."""
        return part[self.keys[grid]]


class SharedHead(StudentHeads):
    """The distilled DeiT: all grids, also a single one, have one token and one head, under the published names."""

    def num_prefix(self, grid: TokenGrid) -> int:
        return 2

    def make(self, width: int, num_classes: int) -> tuple[Any, nn.Module]:
        return nn.Parameter(torch.zeros(1, 1, width)), make_head(width, num_classes)

    def own(self, part: Any, grid: TokenGrid) -> Any:
        return part
