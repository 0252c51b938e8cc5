"""What the parts of a vision transformer cost, by formula: the third opinion of the flop counter, without any tracing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from torch import nn

from revit.common.models.embed.patch_embed import ConvStem, FlexiPatchify, LVViTStem, Patchify, SharedPatchify
from revit.common.models.embed.patches import PatchEmbed, Sides
from revit.common.models.grid import TokenGrid
from revit.common.models.vit import ResizableTransformer

Macs = dict[str, float]
"""Multiply-accumulates by kind of work: linear, attention, convolution."""


def single_input(shape: Sequence[int]) -> tuple[int, ...]:
    """Return `shape` without its batch axis. Raise ValueError for a batch other than 1."""
    batch, *rest = shape
    if batch != 1:
        raise ValueError(f"costs are given for a batch of 1, not {batch}")
    return tuple(rest)


def transformer_macs(
    model: ResizableTransformer,
    in_chans: int,
    sides: Sides,
    grid: TokenGrid,
    blocks: Callable[[Sequence[int]], Macs],
    num_frames: int = 1,
    frames_apart: bool = False,
) -> Macs:
    """Count embedding, blocks, reducer and heads for one input of pictures or frames of `sides` pixels, in evaluation.

    blocks: counts them by the positions that each sees.  frames_apart: a reducer decides about every frame by itself.
    """
    num_positions = model.patch_embed.map_of(sides, grid).num_positions
    reducer, depth, left = model.reducer, len(model.blocks), num_positions
    if reducer is None:
        macs = blocks([num_positions] * depth)
    else:
        per_block = reducer.positions_per_block(num_positions, depth)
        macs = blocks(per_block)
        times, together = (num_frames, 1) if frames_apart else (1, num_frames)
        for kind, amount in reducer.macs(num_positions, together).items():
            macs[kind] += times * amount
        if not reducer.merges:  # what was merged comes back to its place
            left = [num_positions, *per_block][-1]
    has_patch_head = getattr(model, "aux_head", None) is not None
    num_classified = model.num_prefix(grid) + (left if has_patch_head else 0)
    macs["linear"] += num_classified * model.embed_dim * model.num_classes
    macs["convolution"] = num_frames * _embedding_macs(model.patch_embed, sides, grid, in_chans)
    return macs


def encoder_macs(
    lengths: Sequence[int], width: int, mlp_ratio: float = 4.0, inner: int | None = None, num_sequences: int = 1
) -> Macs:
    """Count blocks over sequences of tokens, one length for each block; `inner` is heads times head width (default: width).

    Per token, query, key, value and output are four projections of width x inner, and the MLP 2 * mlp_ratio of width x
    width; the two products of an attention are length^2 x inner each.
    """
    inner = inner or width
    per_token = (4 * inner + 2 * mlp_ratio * width) * width
    return {
        "linear": num_sequences * sum(lengths) * per_token,
        "attention": float(num_sequences * 2 * sum(length**2 for length in lengths) * inner),
    }


def mlp_ratio_of(model: ResizableTransformer) -> float:
    """Return the hidden width of the MLPs over the model's width, as it was rounded."""
    hidden: int = model.blocks[0].mlp.fc1.out_features  # type: ignore[union-attr, assignment]
    return hidden / model.embed_dim


def _embedding_macs(embed: PatchEmbed, sides: Sides, grid: TokenGrid, in_chans: int) -> float:
    """Count the patch embedding of one picture or frame. Raise TypeError for an unknown kind."""
    num_positions = embed.map_of(sides, grid).num_positions
    # Without the resizing of a flexible kernel, see ResizedConv2d.
    if isinstance(embed, (Patchify, SharedPatchify, FlexiPatchify)):
        rows, cols = embed.patch_at(sides, grid)
        return float(num_positions * rows * cols * in_chans * embed.proj.out_channels)
    if isinstance(embed, ConvStem):
        return _convolutions(sides, embed.stems[grid.name].children())
    if isinstance(embed, LVViTStem):
        stem = embed.stem_of(grid)
        macs = _convolutions(sides, (stem.conv1, stem.conv2, stem.conv3))
        # The last one's map is padded or cut to whole patches: kernel and stride are the same.
        return macs + float(num_positions * stem.proj.weight.numel())
    raise TypeError(f"no formula for the patch embedding {type(embed).__name__}")


def _convolutions(sides: Sides, layers: Iterable[nn.Module]) -> float:
    """Count convolutions one after the other; layers of other kinds cost nothing here."""
    rows, cols = sides
    macs = 0.0
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            assert not isinstance(layer.padding, str)
            facts = zip((rows, cols), layer.padding, layer.kernel_size, layer.stride)
            rows, cols = ((side + 2 * pad - kernel) // stride + 1 for side, pad, kernel, stride in facts)
            macs += rows * cols * layer.weight.numel()
    return macs
