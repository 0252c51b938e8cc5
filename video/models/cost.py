"""What a TimeSformer costs, by formula: the third opinion of the flop counter, independent of any tracing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import nn

from revit.common.embed.patch_embed import ConvStem, Patchify, SharedPatchify
from revit.common.tokens.grid import TokenGrid

if TYPE_CHECKING:
    from revit.video.models.timesformer import AttentionKind, TimeSformer

Macs = dict[str, float]


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

    In units of tokens times width squared an attention has four projections (query, key, value, output) and the MLP
    2 * mlp_ratio; the products of an attention over sequences of n tokens are 2 * n^2 * width for each sequence.

    - divided: time attention over T tokens at each of S positions, patches only, with `temporal_fc` as a fifth
      projection; space attention over S + P tokens in each frame; the MLP over the T * S + P tokens of the clip.
    - joint: one sequence of T * S + P tokens. space_only: T sequences of S + P tokens.
    """
    T, S, P, D = num_frames, num_positions, num_prefix, width
    mlp = 2 * mlp_ratio
    if attention == "divided_space_time":
        projections = 5 * T * S + 4 * T * (S + P) + mlp * (T * S + P)
        products = 2 * S * T**2 + 2 * T * (S + P) ** 2
    else:
        num_sequences, length = (1, T * S + P) if attention == "joint_space_time" else (T, S + P)
        projections = (4 + mlp) * num_sequences * length
        products = 2 * num_sequences * length**2
    return {"linear": float(depth * projections * D**2), "attention": float(depth * products * D)}


def stem_macs(
    sides: tuple[int, int],
    strides: Sequence[tuple[int, int]],
    widths: Sequence[int],
    width: int,
    in_chans: int = 3,
) -> float:
    """One frame of `sides` pixels through 3x3 convolutions padded by 1, then 1x1 to `width`."""
    rows, cols = sides
    total = 0
    for before, after, (down, across) in zip([in_chans, *widths], widths, strides):
        rows, cols = (rows - 1) // down + 1, (cols - 1) // across + 1
        total += rows * cols * before * after * 9
    return float(total + rows * cols * widths[-1] * width)


def closed_form(model: TimeSformer, clips_shape: Sequence[int], grid: TokenGrid | None = None) -> Macs:
    """Multiply-accumulates of one clip of shape (1, C, T, H, W) at `grid`, by kind: linear, attention, convolution.

    Raises ValueError for a batch other than 1.
    """
    batch, chans, num_frames, height, width = clips_shape
    if batch != 1:
        raise ValueError(f"costs are given for a batch of 1, not {batch}")
    grid = model.check_grid(grid)
    embed = model.patch_embed
    patch = embed.patches[grid.name]
    fit = math.floor if getattr(embed, "remainder", "pad") == "cut" else math.ceil
    num_positions = fit(height / patch[0]) * fit(width / patch[1])
    num_prefix = model.num_prefix(grid)
    block: Any = model.blocks[0]
    mlp_ratio = block.mlp.fc1.out_features / model.embed_dim
    macs = blocks_macs(
        model.attention, model.embed_dim, len(model.blocks), num_frames, num_positions, num_prefix, mlp_ratio
    )
    macs["linear"] += num_prefix * model.embed_dim * model.num_classes
    if isinstance(embed, ConvStem):
        convolutions = [layer for layer in embed.stems[grid.name].children() if isinstance(layer, nn.Conv2d)]
        strides = [(layer.stride[0], layer.stride[1]) for layer in convolutions[:-1]]
        widths = [layer.out_channels for layer in convolutions[:-1]]
        frame = stem_macs((height, width), strides, widths, model.embed_dim, chans)
    elif isinstance(embed, (Patchify, SharedPatchify)):
        frame = float(num_positions * patch[0] * patch[1] * chans * model.embed_dim)
    else:
        raise TypeError(f"no formula for the patch embedding {type(embed).__name__}")
    macs["convolution"] = num_frames * frame
    return macs
