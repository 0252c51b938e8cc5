"""Where the tokens of a model lie on the picture that it sees."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import nn

from revit.common.models.embed.patches import PatchEmbed, Sides
from revit.common.models.grid import TokenGrid


@dataclass(frozen=True)
class TokenCells:
    """Equal cells in rows and columns, one for each position, in pixels of the picture."""

    sides: Sides
    """Of the picture."""
    map: TokenGrid
    """The cells that there really are."""
    patch: Sides
    origin: Sides = (0, 0)
    """Pixels that the first cell begins above and left of the picture."""

    @property
    def extent(self) -> tuple[int, int, int, int]:
        """top, left, bottom, right of the picture and all cells together; above and left of the picture it is negative."""
        ends = (
            max(side, count * patch - origin)
            for side, count, patch, origin in zip(self.sides, (self.map.rows, self.map.cols), self.patch, self.origin)
        )
        bottom, right = ends
        return -self.origin[0], -self.origin[1], bottom, right

    def positions(self, y: NDArray[np.floating], x: NDArray[np.floating]) -> NDArray[np.int64]:
        """The position that holds each point: y (h,) and x (w,) in pixels -> (h, w), -1 where no token looks."""
        row = np.floor((y + self.origin[0]) / self.patch[0]).astype(np.int64)
        col = np.floor((x + self.origin[1]) / self.patch[1]).astype(np.int64)
        rows, cols = self.map.rows, self.map.cols
        found = row[:, None] * cols + col[None, :]
        inside = ((row >= 0) & (row < rows))[:, None] & ((col >= 0) & (col < cols))[None, :]
        return np.where(inside, found, -1)


def cells_of(model: nn.Module, grid: TokenGrid, sides: Sides) -> TokenCells:
    """The cells of pictures of `sides` pixels at one of the model's grids.

    Its patch embedding says where they lie; the cells of one that does not are spread evenly over the picture.
    """
    embed = getattr(model, "patch_embed", None)
    if isinstance(embed, PatchEmbed):
        return TokenCells(sides, embed.map_of(sides, grid), embed.patch_at(sides, grid), embed.origin(sides, grid))
    return TokenCells(sides, grid, (math.ceil(sides[0] / grid.rows), math.ceil(sides[1] / grid.cols)))
