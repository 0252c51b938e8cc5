"""Cost of a TimeSformer by formula."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from revit.common.costs.closed_form import Macs, encoder_macs, mlp_ratio_of, single_input, transformer_macs
from revit.common.models.grid import TokenGrid

if TYPE_CHECKING:
    from revit.video.models.timesformer import AttentionKind, TimeSformer


def blocks_macs(
    attention: AttentionKind,
    width: int,
    num_frames: int,
    num_positions: Sequence[int],
    num_prefix: int = 1,
    mlp_ratio: float = 4.0,
) -> Macs:
    """Count all blocks for one clip, by kind of work; `num_positions` that each block sees, S.

    joint: one sequence of T * S + P tokens. space_only: T sequences of S + P tokens. divided, in units of tokens times
    width squared: time attention over T tokens at each of S positions, patches only, with `temporal_fc` as a fifth
    projection; space attention over S + P tokens in each frame; the MLP over the T * S + P tokens of the clip.
    """
    T, P, D = num_frames, num_prefix, width
    if attention == "joint_space_time":
        return encoder_macs([T * S + P for S in num_positions], width, mlp_ratio)
    if attention == "space_only":
        return encoder_macs([S + P for S in num_positions], width, mlp_ratio, num_sequences=T)
    projections = sum(5 * T * S + 4 * T * (S + P) + 2 * mlp_ratio * (T * S + P) for S in num_positions)
    products = sum(2 * S * T**2 + 2 * T * (S + P) ** 2 for S in num_positions)
    return {"linear": float(projections * D**2), "attention": float(products * D)}


def closed_form(model: TimeSformer, clips_shape: Sequence[int], grid: TokenGrid | None = None) -> Macs:
    """Count the multiply-accumulates of one clip of shape (1, C, T, H, W) at `grid`, by kind of work.

    Raise ValueError for a batch other than 1.
    """
    chans, num_frames, height, width = single_input(clips_shape)
    grid = model.check_grid(grid)

    def blocks(num_positions: Sequence[int]) -> Macs:
        sizes = model.embed_dim, num_frames, num_positions, model.num_prefix(grid), mlp_ratio_of(model)
        return blocks_macs(model.attention, *sizes)

    apart = model.attention == "space_only"
    return transformer_macs(model, chans, (height, width), grid, blocks, num_frames, apart)
