"""Distillation tokens and the classifiers on them: which grids have one, and whose it is.

Tokens and heads live in the model, as `dist_token` and `head_dist`; the objects here find those of a grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from revit.common.models.grid import TokenGrid

Distillation = Literal["none", "shared", "per_grid", "every_grid"]


def make_head(embed_dim: int, num_classes: int) -> nn.Module:
    """Make a classifier (..., D) -> (..., K); without classes it gives the features, as in timm and the published code."""
    return nn.Linear(embed_dim, num_classes) if num_classes > 0 else nn.Identity()


class HasHeads(Protocol):
    """A model with the parts that `parts` of a `StudentHeads` or `SharedHead` made."""

    cls_token: nn.Parameter
    head: nn.Module
    dist_token: nn.Parameter | nn.ParameterDict
    head_dist: nn.Module


class StudentHeads:
    """ReViT: the shorter grids have a distillation token and a head, all the same ones ("shared") or each its own
    ("per_grid"), or no grid has ("none"). The longest grid, the teacher, has the class token only."""

    def __init__(self, distillation: Distillation, grids: Sequence[TokenGrid]) -> None:
        students = () if distillation == "none" else grids[1:]
        self.keys = {grid: "shared" if distillation == "shared" else grid.name for grid in students}
        """Grid -> key of its token and head in the model's dictionaries."""

    def num_prefix(self, grid: TokenGrid) -> int:
        """Return the count of prefix tokens of a grid: class, and distillation where it has one."""
        return 2 if grid in self.keys else 1

    def parts(self, width: int, num_classes: int) -> tuple[nn.ParameterDict, nn.ModuleDict]:
        """Make `dist_token`, zeros (1, 1, D), and `head_dist`."""
        keys = list(dict.fromkeys(self.keys.values()))
        tokens = nn.ParameterDict({key: torch.zeros(1, 1, width) for key in keys})
        return tokens, nn.ModuleDict({key: make_head(width, num_classes) for key in keys})

    def of(self, model: HasHeads, grid: TokenGrid) -> tuple[Tensor, nn.Module]:
        """Return distillation token (1, 1, D) and head of a grid that has them."""
        assert isinstance(model.dist_token, nn.ParameterDict)
        assert isinstance(model.head_dist, nn.ModuleDict)
        key = self.keys[grid]
        return model.dist_token[key], model.head_dist[key]

    def tokens(self, model: HasHeads) -> list[nn.Parameter]:
        """Return all distillation tokens."""
        assert isinstance(model.dist_token, nn.ParameterDict)
        return list(model.dist_token.values())

    def heads(self, model: HasHeads) -> list[nn.Module]:
        """Return all heads on them."""
        assert isinstance(model.head_dist, nn.ModuleDict)
        return list(model.head_dist.values())

    def start_short_grids(self, model: HasHeads) -> None:
        """Start the students' tokens and heads from those of the class."""
        for token in self.tokens(model):
            token.copy_(model.cls_token)
        for head in self.heads(model):
            head.load_state_dict(model.head.state_dict())


class SharedHead:
    """The distilled DeiT: all grids, also a single one, have one token and one head, under the published names."""

    def num_prefix(self, grid: TokenGrid) -> int:
        return 2

    def parts(self, width: int, num_classes: int) -> tuple[nn.Parameter, nn.Module]:
        return nn.Parameter(torch.zeros(1, 1, width)), make_head(width, num_classes)

    def of(self, model: HasHeads, grid: TokenGrid) -> tuple[Tensor, nn.Module]:
        assert isinstance(model.dist_token, nn.Parameter)
        return model.dist_token, model.head_dist

    def tokens(self, model: HasHeads) -> list[nn.Parameter]:
        assert isinstance(model.dist_token, nn.Parameter)
        return [model.dist_token]

    def heads(self, model: HasHeads) -> list[nn.Module]:
        return [model.head_dist]

    def start_short_grids(self, model: HasHeads) -> None:
        pass
