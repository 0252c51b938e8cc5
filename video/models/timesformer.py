"""TimeSformer and ReViT-TimeSformer: one class, one grid or several."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Literal, cast, get_args

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from revit.common.models.base import ModelOutput
from revit.common.models.embed.patches import resize_times
from revit.common.models.grid import TokenGrid
from revit.common.models.layers.block import Block, drop_path_rates
from revit.common.models.vit import EmbeddingArguments, ResizableTransformer
from revit.video.models.blocks import DividedBlock
from revit.video.models.cost import closed_form

AttentionKind = Literal["divided_space_time", "joint_space_time", "space_only"]


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

    def closed_form_macs(self, clips_shape: Sequence[int], grid: TokenGrid | None = None) -> dict[str, float]:
        """Count the multiply-accumulates of one clip (1, C, T, H, W) by formula, by kind of work."""
        return closed_form(self, clips_shape, grid)
