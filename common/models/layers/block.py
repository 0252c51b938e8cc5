"""The transformer block that pictures and clips share, and its parts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from revit.common.models.grid import TokenGrid
from revit.common.models.layers.attention import Attention
from revit.common.models.reducer import TokenLayout


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


def key_weights(layout: TokenLayout, num_frames: int) -> Tensor | None:
    """Return (B, P + S * num_frames) by which tokens are seen as keys, as `layout.keep` weighs their positions: the same in
    all frames, and 1 for the prefix. None: all alike."""
    if layout.keep is None:
        return None
    prefix = layout.keep.new_ones(len(layout.keep), layout.num_prefix)
    return torch.cat([prefix, layout.keep.repeat_interleave(num_frames, dim=1)], dim=1)


class Mlp(nn.Module):
    """Two linear layers with an exact GELU between them."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., D) -> (..., D)."""
        return self.fc2(self.act(self.fc1(x)))


class DropPath(nn.Module):
    """Stochastic depth: in training a residual branch is dropped with probability `rate`, the rest scaled up.

    One draw for each element of the leading `batch_axes` axes, so that a video block can draw per frame or per
    position as the published TimeSformer does.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor, batch_axes: int = 1) -> Tensor:
        """Drop whole elements of the batch axes of (batch axes..., ...)."""
        if self.rate == 0.0 or not self.training:
            return x
        kept = 1.0 - self.rate
        shape = (*x.shape[:batch_axes], *[1] * (x.ndim - batch_axes))
        return x * torch.bernoulli(torch.full(shape, kept, dtype=x.dtype, device=x.device)) / kept


def drop_path_rates(last: float, depth: int) -> list[float]:
    """Return the stochastic depth of every block: from 0 in equal steps to `last`."""
    return torch.linspace(0, last, depth, device="cpu").tolist()  # also while models are made on meta tensors


class Block(nn.Module):
    """Pre-norm attention and MLP over all tokens, norms per token grid. Positions that `layout.keep` weighs 0 are there, but
    no other token sees them.

    Both residual branches are divided by `skip_lam` after stochastic depth (LV-ViT; 1 in ViT and DeiT).
    """

    def __init__(
        self,
        width: int,
        num_heads: int,
        grids: Sequence[TokenGrid],
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        drop_path_rate: float = 0.0,
        layer_norm_eps: float = 1e-6,
        skip_lam: float = 1.0,
        head_dim: int | None = None,
    ) -> None:
        super().__init__()
        self.skip_lam = skip_lam
        self.norm1 = LengthAwareLayerNorm(width, grids, layer_norm_eps)
        self.attn = Attention(width, num_heads, qkv_bias, head_dim)
        self.drop_path = DropPath(drop_path_rate)
        self.norm2 = LengthAwareLayerNorm(width, grids, layer_norm_eps)
        self.mlp = Mlp(width, int(width * mlp_ratio))

    def forward(self, tokens: Tensor, layout: TokenLayout) -> Tensor:
        """Transform (B, N, D) -> (B, N, D)."""
        keys = key_weights(layout, layout.num_frames)
        tokens = self.add(tokens, self.drop_path(self.attn(self.norm1(tokens, layout.grid), keys)))
        return self.add(tokens, self.drop_path(self.mlp(self.norm2(tokens, layout.grid))))

    def fold(self) -> None:
        """Join, for inference only, what just training needs apart. There is nothing in this block."""

    def add(self, tokens: Tensor, branch: Tensor) -> Tensor:
        """Compute tokens + branch / skip_lam, in one pass over memory."""
        return torch.add(tokens, branch, alpha=1 / self.skip_lam)
