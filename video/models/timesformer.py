"""TimeSformer and ReViT-TimeSformer: one class, one grid or several; its divided blocks, and its cost by formula."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Literal, cast, get_args

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from revit.common.costs.closed_form import Macs, encoder_macs, mlp_ratio_of, single_input, transformer_macs
from revit.common.models.base import ModelOutput
from revit.common.models.embed.patches import resize_times
from revit.common.models.grid import TokenGrid
from revit.common.models.layers.attention import Attention
from revit.common.models.layers.block import Block, LengthAwareLayerNorm, drop_path_rates, key_weights
from revit.common.models.reducer import TokenLayout
from revit.common.models.vit import EmbeddingArguments, ResizableTransformer

AttentionKind = Literal["divided_space_time", "joint_space_time", "space_only"]


class DividedBlock(Block):
    """Attention over time, then over space, then the MLP, all pre-norm with one norm set per token grid (section 3.3).

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


class TimeSformer(ResizableTransformer):
    """ "Is Space-Time Attention All You Need for Video Understanding?", with the token grids of ReViT on top.

    Any frame count and any input size at run time: the time table is interpolated linearly and the position table
    bicubically. The published rules are available by name for parity: `position_resize` "nearest" (its run time) and
    "nearest_flat" (its load time), `time_resize` "nearest". A remainder at the border is padded where the published
    code cuts it off (`remainder` "cut"). `num_classes` 0 gives features.

    `temporal_fc` and, by default, the time table start at zero, so that at step 0 the model is the image model it
    was started from, on every frame. A narrow model trained from scratch on little data learns motion much sooner with
    `pos_std` and `time_std` near 0.5 and `linear_std` and `temporal_fc_std` near 0.1.

    The time table is shared by all grids: it does not depend on how a frame is cut. space_only has none.
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        grids: Iterable[TokenGrid | int | str] = (14,),
        num_frames: int = 8,
        num_classes: int = 400,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        attention: AttentionKind = "divided_space_time",
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        drop_path_rate: float = 0.1,
        time_std: float = 0.0,
        temporal_fc_std: float = 0.0,
        time_resize: str = "linear",
        layer_norm_eps: float = 1e-6,
        **embedding: Unpack[EmbeddingArguments],
    ) -> None:
        if attention not in get_args(AttentionKind):
            raise ValueError(f"attention {attention!r} is unknown; choose from {', '.join(get_args(AttentionKind))}")
        super().__init__(img_size, grids, num_classes, embed_dim, layer_norm_eps=layer_norm_eps, **embedding)
        self.attention = attention
        self.num_frames = num_frames
        self.time_resize = time_resize
        self.time_embed = nn.Parameter(torch.zeros(1, num_frames, embed_dim)) if attention != "space_only" else None
        block = DividedBlock if attention == "divided_space_time" else Block
        rates = drop_path_rates(drop_path_rate, depth)
        self.blocks.extend(
            block(embed_dim, num_heads, self.norm_grids, mlp_ratio, qkv_bias, rate, layer_norm_eps) for rate in rates
        )
        self.init_weights()
        if self.time_embed is not None and time_std > 0:
            nn.init.trunc_normal_(self.time_embed, std=time_std)
        for layer in self.blocks:
            if isinstance(layer, DividedBlock):
                weight = cast(Tensor, layer.temporal_fc.weight)
                nn.init.zeros_(weight)
                if temporal_fc_std > 0:
                    nn.init.trunc_normal_(weight, std=temporal_fc_std)
        self.start_short_grids()

    def forward(self, clips: Tensor, grid: TokenGrid | None = None) -> ModelOutput:
        """Classify normalised clips (B, C, T, H, W) -> logits (B, K), at `grid` (default: the longest).

        Raise KeyError for a grid the model was not made for.
        """
        grid = self.check_grid(grid)
        B, _, T = clips.shape[:3]
        frames = clips.transpose(1, 2).flatten(0, 1)  # (B * T, C, H, W)
        prefix, patches, layout = self.embed(frames, grid)

        if self.time_embed is None:
            tokens = torch.cat([prefix.expand(B * T, -1, -1), patches], dim=1)
        else:
            patches = patches.unflatten(0, (B, T)).transpose(1, 2)  # (B, S, T, D)
            patches = patches + resize_times(self.time_embed, T, self.time_resize).unsqueeze(1)
            tokens = torch.cat([prefix.expand(B, -1, -1), patches.flatten(1, 2)], dim=1)
            layout = replace(layout, num_frames=T)

        tokens, layout = self.run_blocks(tokens, layout)

        if self.time_embed is None:
            # The published model averages all tokens over frames, before the final norm.
            tokens = tokens.unflatten(0, (B, T)).mean(dim=1)
        return self.classify(tokens, layout)

    def closed_form_macs(self, clips_shape: Sequence[int], grid: TokenGrid | None = None) -> Macs:
        """Count the multiply-accumulates of one clip (1, C, T, H, W) by formula, by kind of work.

        joint: one sequence of T * S + P tokens. space_only: T sequences of S + P tokens. divided, in units of tokens times
        width squared: time attention over T tokens at each of S positions, patches only, with `temporal_fc` as a fifth
        projection; space attention over S + P tokens in each frame; the MLP over the T * S + P tokens of the clip.

        Raise ValueError for a batch other than 1.
        """
        chans, T, height, width = single_input(clips_shape)
        grid = self.check_grid(grid)
        P, D, ratio = self.num_prefix(grid), self.embed_dim, mlp_ratio_of(self)

        def blocks(num_positions: Sequence[int]) -> Macs:
            if self.attention == "joint_space_time":
                return encoder_macs([T * S + P for S in num_positions], D, ratio)
            if self.attention == "space_only":
                return encoder_macs([S + P for S in num_positions], D, ratio, num_sequences=T)
            projections = sum(5 * T * S + 4 * T * (S + P) + 2 * ratio * (T * S + P) for S in num_positions)
            products = sum(2 * S * T**2 + 2 * T * (S + P) ** 2 for S in num_positions)
            return {"linear": float(projections * D**2), "attention": float(products * D)}

        apart = self.attention == "space_only"
        return transformer_macs(self, chans, (height, width), grid, blocks, T, apart)
