"""Position tables of a model with several token grids, one class for each way to have them.

The tables live in the model, as parameters under the published names: `pos_embed`, `short_pos_embed.ROWSxCOLS` and
`dist_pos_embed`. The objects here say which there are and what a grid makes of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from revit.common.models.embed.resize import resize_positions
from revit.common.models.grid import TokenGrid

Positions = Literal["separate", "shared_zero_pad", "shared_interpolate"]


class HasTables(Protocol):
    """A model with the parameters that `PositionTables.parameters` made."""

    pos_embed: nn.Parameter
    short_pos_embed: nn.ParameterDict
    dist_pos_embed: nn.Parameter | None


class PositionTables:
    """A table for each grid (the method): `pos_embed` of the longest, `short_pos_embed` of the others."""

    def __init__(self, grids: Sequence[TokenGrid], num_prefix: Mapping[TokenGrid, int], resize: str) -> None:
        self.grids = grids
        self.grid = grids[0]
        """Rows and columns of `pos_embed`."""
        self.num_prefix = num_prefix
        self.resize = resize

    def parameters(self, width: int) -> tuple[nn.Parameter, nn.ParameterDict, nn.Parameter | None]:
        """Return `pos_embed`, `short_pos_embed` and `dist_pos_embed`, all zeros (1, P + S, D)."""
        longest, *short = (
            torch.zeros(1, self.num_prefix[grid] + grid.num_positions, width) for grid in self.grids
        )
        names = (grid.name for grid in self.grids[1:])
        return nn.Parameter(longest), nn.ParameterDict(dict(zip(names, short))), None

    def nominal(self, model: HasTables, grid: TokenGrid) -> Tensor:
        """Return the table (1, P + S, D) of a grid at the model's own input size."""
        return model.pos_embed if grid == self.grid else model.short_pos_embed[grid.name]

    def table(self, model: HasTables, grid: TokenGrid, actual: TokenGrid) -> Tensor:
        """Return the rows (1, P + S, D) of `grid`, resized where the map that came out is `actual`."""
        return resize_positions(self.nominal(model, grid), self.num_prefix[grid], grid, actual, self.resize)

    def add(
        self, model: HasTables, grid: TokenGrid, actual: TokenGrid, prefix: Tensor, patches: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Add their positions to prefix tokens (1, P, D) and patch tokens (B, S, D)."""
        table, P = self.table(model, grid, actual), self.num_prefix[grid]
        return prefix + table[:, :P], patches + table[:, P:]

    def start_short_grids(self, model: HasTables) -> None:
        """Start the other tables from the longest grid's; a distillation row from its class row."""
        P = self.num_prefix[self.grid]
        for name, table in model.short_pos_embed.items():
            grid = TokenGrid.parse(name)
            start = resize_positions(model.pos_embed, P, self.grid, grid, self.resize)
            table.copy_(torch.cat([start[:, :1]] * (self.num_prefix[grid] - P) + [start], dim=1))
        if model.dist_pos_embed is not None:
            model.dist_pos_embed.copy_(model.pos_embed[:, :1])


class ZeroPaddedTable(PositionTables):
    """The longest grid's table for all, cropped or padded with zeros from the top left corner (ablation of Table 3).

    Where only the shorter grids have a distillation token, it keeps a row of its own, `dist_pos_embed`.
    """

    def parameters(self, width: int) -> tuple[nn.Parameter, nn.ParameterDict, nn.Parameter | None]:
        longest, _, _ = super().parameters(width)
        has_row = len(set(self.num_prefix.values())) > 1
        return longest, nn.ParameterDict(), nn.Parameter(torch.zeros(1, 1, width)) if has_row else None

    def nominal(self, model: HasTables, grid: TokenGrid) -> Tensor:
        if grid == self.grid:
            return model.pos_embed
        P = self.num_prefix[self.grid]
        row = [] if model.dist_pos_embed is None else [model.dist_pos_embed]
        return torch.cat([model.pos_embed[:, :P], *row, self.patch_rows(model.pos_embed, P, grid)], dim=1)

    def patch_rows(self, table: Tensor, P: int, grid: TokenGrid) -> Tensor:
        """Make the rows (1, S, D) of a shorter grid's patches of the longest grid's table."""
        as_map = table[:, P:].unflatten(1, (self.grid.rows, self.grid.cols))[:, : grid.rows, : grid.cols]
        missing = (0, 0, 0, grid.cols - as_map.shape[2], 0, grid.rows - as_map.shape[1])
        return F.pad(as_map, missing).flatten(1, 2)


class InterpolatedTable(ZeroPaddedTable):
    """The same, resized to the grid instead."""

    def patch_rows(self, table: Tensor, P: int, grid: TokenGrid) -> Tensor:
        return resize_positions(table, P, self.grid, grid, self.resize)[:, P:]


class FlexibleTable(PositionTables):
    """FlexiViT: one table of a grid of its own, resized to any other, with no row for the class token."""

    def __init__(self, grid: TokenGrid) -> None:
        super().__init__([grid], {grid: 0}, "linear")

    def table(self, model: HasTables, grid: TokenGrid, actual: TokenGrid) -> Tensor:
        return resize_positions(model.pos_embed, 0, self.grid, actual, self.resize)

    def add(
        self, model: HasTables, grid: TokenGrid, actual: TokenGrid, prefix: Tensor, patches: Tensor
    ) -> tuple[Tensor, Tensor]:
        return prefix, patches + self.table(model, grid, actual)


POSITION_TABLES: Mapping[Positions, type[PositionTables]] = {
    "separate": PositionTables,
    "shared_zero_pad": ZeroPaddedTable,
    "shared_interpolate": InterpolatedTable,
}
