"""What a TimeSformer costs, by formula."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from revit.common.report.closed_form import (
    Macs,
    embedding_macs,
    encoder_macs,
    heads_macs,
    mlp_ratio_of,
    positions_of,
    single_input,
)
from revit.common.tokens.grid import TokenGrid

if TYPE_CHECKING:
    from revit.video.models.timesformer import AttentionKind, TimeSformer


def blocks_macs(
    attention: AttentionKind,
    width: int,
    depth: int,
    num_frames: int,
    num_positions: int,
    num_prefix: int = 1,
    mlp_ratio: float = 4.0,
) -> Macs:
    """Multiply-accumulates of all blocks for one clip, by kind of work.

    joint: one sequence of T * S + P tokens. space_only: T sequences of S + P tokens. divided, in units of tokens times
    width squared: time attention over T tokens at each of S positions, patches only, with `temporal_fc` as a fifth
    projection; space attention over S + P tokens in each frame; the MLP over the T * S + P tokens of the clip.
    """
    T, S, P, D = num_frames, num_positions, num_prefix, width
    if attention == "joint_space_time":
        return encoder_macs(depth, width, T * S + P, mlp_ratio)
    if attention == "space_only":
        return encoder_macs(depth, width, S + P, mlp_ratio, num_sequences=T)
    projections = 5 * T * S + 4 * T * (S + P) + 2 * mlp_ratio * (T * S + P)
    products = 2 * S * T**2 + 2 * T * (S + P) ** 2
    return {"linear": float(depth * projections * D**2), "attention": float(depth * products * D)}


def closed_form(model: TimeSformer, clips_shape: Sequence[int], grid: TokenGrid | None = None) -> Macs:
    """Multiply-accumulates of one clip of shape (1, C, T, H, W) at `grid`, by kind: linear, attention, convolution.

    Raises ValueError for a batch other than 1.
    """
    chans, num_frames, height, width = single_input(clips_shape)
    grid = model.check_grid(grid)
    macs = blocks_macs(
        model.attention,
        model.embed_dim,
        len(model.blocks),
        num_frames,
        positions_of(model.patch_embed, (height, width), grid),
        model.num_prefix(grid),
        mlp_ratio_of(model),
    )
    macs["linear"] += heads_macs(model, grid)
    macs["convolution"] = num_frames * embedding_macs(model.patch_embed, (height, width), grid, chans)
    return macs
