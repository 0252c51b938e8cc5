"""Token-length-aware LayerNorm."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from revit.common.models.grid import TokenGrid


class LengthAwareLayerNorm(nn.LayerNorm):
    """One LayerNorm per token grid (ReViT section 3.2, "TAL-LN").

    The module itself is the norm of the longest grid and keeps its parameter names, so a plain model's checkpoint
    loads into it unchanged; the other grids' norms hang below it as `short.ROWSxCOLS`. With one grid it is a
    LayerNorm, and with none it is one that all grids share. The paper puts the norm after the addition in its figure; the base
    models are pre-norm and stay so.
    """

    def __init__(self, width: int, grids: Sequence[TokenGrid], eps: float = 1e-6) -> None:
        super().__init__(width, eps=eps)
        self.longest = grids[0] if grids else None
        self.short = nn.ModuleDict({grid.name: nn.LayerNorm(width, eps=eps) for grid in grids[1:]})

    def forward(self, x: Tensor, grid: TokenGrid) -> Tensor:  # type: ignore[override]
        """Normalise (..., D). Raise KeyError for a grid this norm was not made for."""
        if self.longest is None or grid == self.longest:
            return super().forward(x)
        if grid.name not in self.short:
            raise KeyError(f"no LayerNorm for grid {grid}; this model has {self.longest}, {', '.join(self.short)}")
        return self.short[grid.name](x)

    @torch.no_grad()
    def start_short_grids(self) -> None:
        """Copy the longest grid's scale and shift to the others: their start from a pretrained model."""
        for norm in self.short.values():
            norm.load_state_dict({"weight": self.weight, "bias": self.bias})
