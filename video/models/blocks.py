"""Divided space-time attention (TimeSformer section 3.3; the published code where the two differ)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from revit.common.models.grid import TokenGrid
from revit.common.models.layers.attention import Attention
from revit.common.models.layers.block import Block, LengthAwareLayerNorm, key_weights
from revit.common.models.reducer import TokenLayout


class DividedBlock(Block):
    """Attention over time, then over space, then the MLP, all pre-norm with one norm set per token grid.

    As in the published code, and unlike the paper's formula, the prefix takes no part in the attention over time; in
    the attention over space every frame gets a copy of it and the copies' updates are averaged. Stochastic depth is
    drawn per position in time attention and per frame in space attention; `temporal_fc` comes after it, so its bias
    is added to dropped samples too.

    A position that `layout.keep` weighs 0 is seen by no other position of its frame. Its attention over time needs no such
    weights: a position sees none but itself there.
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
    ) -> None:
        super().__init__(width, num_heads, grids, mlp_ratio, qkv_bias, drop_path_rate, layer_norm_eps)
        self.temporal_norm1 = LengthAwareLayerNorm(width, grids, layer_norm_eps)
        self.temporal_attn = Attention(width, num_heads, qkv_bias)
        self.temporal_fc: nn.Module = nn.Linear(width, width)

    def forward(self, tokens: Tensor, layout: TokenLayout) -> Tensor:
        """(B, P + S * T, D) -> same, positions in row order with time fastest"""
        P, T, grid = layout.num_prefix, layout.num_frames, layout.grid
        prefix = tokens[:, :P]
        patches = tokens[:, P:].unflatten(1, (-1, T))  # (B, S, T, D)

        # Time: each position attends to itself in all frames.
        update = self.drop_path(self.temporal_attn(self.temporal_norm1(patches, grid)), batch_axes=2)
        patches = patches + self.temporal_fc(update)

        # Space: each frame attends to its own positions, a copy of the prefix in front.
        copies = prefix.unsqueeze(1).expand(-1, T, -1, -1)
        frames = torch.cat([copies, patches.transpose(1, 2)], dim=2)  # (B, T, P + S, D)
        keys = key_weights(layout, num_frames=1)
        if keys is not None:
            keys = keys.unsqueeze(1).expand(-1, T, -1)
        update = self.drop_path(self.attn(self.norm1(frames, grid), keys), batch_axes=2)
        prefix = prefix + update[:, :, :P].mean(dim=1)
        patches = patches + update[:, :, P:].transpose(1, 2)

        tokens = torch.cat([prefix, patches.flatten(1, 2)], dim=1)
        return tokens + self.drop_path(self.mlp(self.norm2(tokens, grid)))

    @torch.no_grad()
    def fold(self) -> None:
        """Fold the projection of the attention over time and `temporal_fc` into one linear layer: between them is only the stochastic
        depth of training. Computed in float64, so that nothing but the weights' own rounding is added."""
        first, second = self.temporal_attn.proj, self.temporal_fc
        if not isinstance(second, nn.Linear):
            return
        weight = second.weight.double() @ first.weight.double()
        bias = second.weight.double() @ first.bias.double() + second.bias.double()
        first.weight.copy_(weight)
        first.bias.copy_(bias)
        self.temporal_fc = nn.Identity()
