"""Position tables of a model with several token grids, one class for each way to have them.

The tables live in the model, under the published names: `pos_embed`, `short_pos_embed.ROWSxCOLS`, `dist_pos_embed`.
The objects here say which there are and what a grid makes of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from revit.common.models.embed.resize import resize_positions
from revit.common.models.grid import TokenGrid

Positions = Literal["separate", "shared_zero_pad", "shared_interpolate"]


class Tables(NamedTuple):
    """The position parameters of a model."""

    longest: nn.Parameter
    """`pos_embed`, (1, P + S, D) of the longest grid, or what all grids share."""
    short: nn.ParameterDict
    """`short_pos_embed`, by the grid's name."""
    distillation: nn.Parameter | None = None
    """`dist_pos_embed`, (1, 1, D)."""


class PositionTables:
    """A table for each grid (the method)."""

    def __init__(self, grids: Sequence[TokenGrid], num_prefix: Mapping[TokenGrid, int], resize: str) -> None:
        self.grids = grids
        self.grid = grids[0]
        """Rows and columns of `pos_embed`."""
        self.num_prefix = num_prefix
        self.resize = resize

    def make(self, width: int) -> Tables:
        """Make the parameters, all zeros."""
        rows = {grid.name: self.num_prefix[grid] + grid.num_positions for grid in self.grids}
        longest, *short = (torch.zeros(1, count, width) for count in rows.values())
        return Tables(nn.Parameter(longest), nn.ParameterDict(dict(zip(list(rows)[1:], short))))

    def nominal(self, tables: Tables, grid: TokenGrid) -> Tensor:
        """Return the table (1, P + S, D) of a grid at the model's own input size."""
        return tables.longest if grid == self.grid else tables.short[grid.name]

    def table(self, tables: Tables, grid: TokenGrid, actual: TokenGrid) -> Tensor:
        """Return the rows (1, P + S, D) of `grid`, resized where the map that came out is `actual`."""
        return resize_positions(self.nominal(tables, grid), self.num_prefix[grid], grid, actual, self.resize)

    def add(self, table: Tensor, prefix: Tensor, patches: Tensor) -> tuple[Tensor, Tensor]:
        """Add a table to prefix tokens (1, P, D) and patch tokens (B, S, D)."""
        P = prefix.shape[1]
        return prefix + table[:, :P], patches + table[:, P:]

    def start_short_grids(self, tables: Tables) -> None:
        """Start the other tables from the longest grid's; a distillation row from its class row."""
        P = self.num_prefix[self.grid]
        for grid in self.grids[1:]:
            if grid.name in tables.short:
                start = resize_positions(tables.longest, P, self.grid, grid, self.resize)
                rows = [start[:, :1]] * (self.num_prefix[grid] - P) + [start]
                tables.short[grid.name].copy_(torch.cat(rows, dim=1))
        if tables.distillation is not None:
            tables.distillation.copy_(tables.longest[:, :1])


class ZeroPaddedTable(PositionTables):
    """The longest grid's table for all, cropped or padded with zeros from the top left corner (ablation of Table 3).

    Where only the shorter grids have a distillation token, it keeps a row of its own, `dist_pos_embed`.
    """

    def make(self, width: int) -> Tables:
        row = nn.Parameter(torch.zeros(1, 1, width)) if len(set(self.num_prefix.values())) > 1 else None
        return Tables(super().make(width).longest, nn.ParameterDict(), row)

    def nominal(self, tables: Tables, grid: TokenGrid) -> Tensor:
        if grid == self.grid:
            return tables.longest
        P = self.num_prefix[self.grid]
        row = [] if tables.distillation is None else [tables.distillation]
        return torch.cat([tables.longest[:, :P], *row, self.fit(tables.longest, P, grid)], dim=1)

    def fit(self, table: Tensor, P: int, grid: TokenGrid) -> Tensor:
        """Make the patch rows (1, S, D) of a shorter grid from the longest grid's table."""
        as_map = table[:, P:].unflatten(1, (self.grid.rows, self.grid.cols))[:, : grid.rows, : grid.cols]
        missing = (0, 0, 0, grid.cols - as_map.shape[2], 0, grid.rows - as_map.shape[1])
        return F.pad(as_map, missing).flatten(1, 2)


class InterpolatedTable(ZeroPaddedTable):
    """The same, resized to the grid instead."""

    def fit(self, table: Tensor, P: int, grid: TokenGrid) -> Tensor:
        return resize_positions(table, P, self.grid, grid, self.resize)[:, P:]


class FlexibleTable(PositionTables):
    """FlexiViT: one table of a grid of its own, resized to any other, with no row for the class token."""

    def __init__(self, grid: TokenGrid) -> None:
        super().__init__([grid], {grid: 0}, "linear")

    def table(self, tables: Tables, grid: TokenGrid, actual: TokenGrid) -> Tensor:
        return resize_positions(tables.longest, 0, self.grid, actual, self.resize)

    def add(self, table: Tensor, prefix: Tensor, patches: Tensor) -> tuple[Tensor, Tensor]:
        return prefix, patches + table


POSITION_TABLES: Mapping[Positions, type[PositionTables]] = {
    "separate": PositionTables,
    "shared_zero_pad": ZeroPaddedTable,
    "shared_interpolate": InterpolatedTable,
}
