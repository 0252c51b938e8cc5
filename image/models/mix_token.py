"""MixToken: CutMix on the tokens, so that every token keeps a label of its own (LV-ViT section 3.2)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from revit.common.models.grid import TokenGrid


@dataclass(frozen=True)
class Box:
    """A box of tokens in a map; corners as in slices, the far ones left out."""

    grid: TokenGrid
    """The whole map."""
    top: int
    left: int
    bottom: int
    right: int

    @property
    def keep_share(self) -> float:
        """Share of the map outside the box, lambda': the weight of a picture's own class beside its partner's."""
        return 1 - (self.bottom - self.top) * (self.right - self.left) / self.grid.num_positions

    def mask(self, device: torch.device) -> Tensor:
        """Return (rows, cols) bool, true inside."""
        rows = torch.arange(self.grid.rows, device=device)
        cols = torch.arange(self.grid.cols, device=device)
        inside = (rows >= self.top) & (rows < self.bottom)
        return inside[:, None] & (cols >= self.left) & (cols < self.right)


@dataclass(frozen=True)
class MixDraw:
    """What is drawn once for a batch: how much of a picture is kept, and where the box lies, in shares of the picture.

    The published code draws a box of tokens for the one map there is. Reading for several grids: one draw for all, and
    every grid rounds the box to its own tokens, so that all grids' class logits see the same mixture and can teach one
    another. With one grid this is the published distribution.
    """

    lam: float
    """lambda: 1 - lambda is the area of the box, before rounding and clipping."""
    row: float
    """Centre of the box, in [0, 1) of the height."""
    col: float
    """Centre of the box, in [0, 1) of the width."""

    @classmethod
    def draw(cls, alpha: float = 1.0) -> MixDraw:
        """Draw lambda ~ Beta(alpha, alpha), 1 as published, and a uniform centre, from torch's global generator."""
        lam = torch.distributions.Beta(alpha, alpha).sample()
        row, col = torch.rand(2).tolist()
        return cls(float(lam), row, col)

    def box(self, grid: TokenGrid) -> Box:
        """Return the box in a map of `grid` (the real one, where it is not the nominal): sides int(side * sqrt(1 - lambda)),
        half of each, rounded down, on either side of the centre token; what lies outside is cut off."""

        def span(side: int, centre: float) -> tuple[int, int]:
            half = int(side * math.sqrt(1 - self.lam)) // 2
            middle = int(side * centre)
            return max(middle - half, 0), min(middle + half, side)

        (top, bottom), (left, right) = span(grid.rows, self.row), span(grid.cols, self.col)
        return Box(grid, top, left, bottom, right)


def mix_map(feature_map: Tensor, box: Box) -> Tensor:
    """Give each map of (B, D, rows, cols), inside the box, that of its partner, i with B - 1 - i."""
    return torch.where(box.mask(feature_map.device), feature_map.flip(0), feature_map)


def unmix(patch_logits: Tensor, box: Box) -> Tensor:
    """Give what `mix_map` exchanged back to the pictures it came from; (B, S, K) in row order."""
    inside = box.mask(patch_logits.device).flatten()[:, None]
    return torch.where(inside, patch_logits.flip(0), patch_logits)
