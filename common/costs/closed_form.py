"""What the parts of a vision transformer cost, by formula: the third opinion of the flop counter, without any tracing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import nn

from revit.common.models.embed.lvvit_stem import LVViTStem
from revit.common.models.embed.patch_embed import ConvStem, FlexiPatchify, Patchify, SharedPatchify
from revit.common.models.embed.patches import PatchEmbed, Sides
from revit.common.models.grid import TokenGrid
from revit.common.models.vit import ResizableTransformer

Macs = dict[str, float]
"""Multiply-accumulates by kind of work: linear, attention, convolution."""


def single_input(shape: Sequence[int]) -> tuple[int, ...]:
    """`shape` without its batch axis. Raises ValueError for a batch other than 1."""
    batch, *rest = shape
    if batch != 1:
        raise ValueError(f"costs are given for a batch of 1, not {batch}")
    return tuple(rest)


def encoder_macs(
    lengths: Sequence[int],
    width: int,
    mlp_ratio: float = 4.0,
    inner: int | None = None,
    num_sequences: int = 1,
) -> Macs:
    """Blocks over sequences of so many tokens, one length for each block; `inner` is heads times head width (default: the
    width).

    Per token, query, key, value and output are four projections of width x inner, and the MLP 2 * mlp_ratio of width x
    width; the two products of an attention are length^2 x inner each.
    """
    inner = inner or width
    per_token = (4 * inner + 2 * mlp_ratio * width) * width
    return {
        "linear": num_sequences * sum(lengths) * per_token,
        "attention": float(num_sequences * 2 * sum(length**2 for length in lengths) * inner),
    }


def positions_per_block(model: ResizableTransformer, num_positions: int) -> Sequence[int]:
    """How many of `num_positions` positions each block sees in evaluation: fewer where a reducer drops some."""
    depth = len(model.blocks)
    reducer = model.reducer
    return [num_positions] * depth if reducer is None else reducer.positions_per_block(num_positions, depth)


def positions_at_end(model: ResizableTransformer, num_positions: int) -> int:
    """How many are left after the blocks, those counted that were merged and come back to their places."""
    if model.reducer is not None and model.reducer.merges:
        return num_positions
    return [num_positions, *positions_per_block(model, num_positions)][-1]


def add_reducer(
    macs: Macs, model: ResizableTransformer, num_positions: int, num_frames: int = 1, times: int = 1
) -> None:
    """Adds to `macs` what deciding about the positions costs in evaluation, if it is done so many times."""
    if model.reducer is not None:
        for kind, amount in model.reducer.macs(num_positions, num_frames).items():
            macs[kind] += times * amount


def heads_macs(model: ResizableTransformer, grid: TokenGrid) -> float:
    """The classifiers on the prefix tokens of a grid."""
    return float(model.num_prefix(grid) * model.embed_dim * model.num_classes)


def mlp_ratio_of(model: ResizableTransformer) -> float:
    """Hidden width of the MLPs over the model's width, as it was rounded."""
    hidden: int = model.blocks[0].mlp.fc1.out_features  # type: ignore[union-attr, assignment]
    return hidden / model.embed_dim


def embedding_macs(embed: nn.Module, sides: Sides, grid: TokenGrid, in_chans: int) -> float:
    """The patch embedding of one picture or frame of `sides` pixels.

    Raises TypeError for a kind it does not know.
    """
    if isinstance(embed, (Patchify, SharedPatchify)):
        rows, cols = embed.patches[grid.name]
        return float(positions_of(embed, sides, grid) * rows * cols * in_chans * embed.proj.out_channels)
    if isinstance(embed, FlexiPatchify):
        # Without the resizing of its kernel, see ResizedConv2d.
        rows, cols = embed.patch_at(sides, grid)
        return float(grid.num_positions * rows * cols * in_chans * embed.proj.out_channels)
    if isinstance(embed, ConvStem):
        return _convolutions(sides, embed.stems[grid.name].children())
    if isinstance(embed, LVViTStem):
        stem = embed.stem_of(grid)
        macs = _convolutions(sides, (stem.conv1, stem.conv2, stem.conv3))
        # The last one's map is padded or cut to whole patches: kernel and stride are the same.
        return macs + float(positions_of(embed, sides, grid) * stem.proj.weight.numel())
    raise TypeError(f"no formula for the patch embedding {type(embed).__name__}")


def positions_of(embed: nn.Module, sides: Sides, grid: TokenGrid) -> int:
    """Patch tokens of a picture or frame of `sides` pixels."""
    assert isinstance(embed, PatchEmbed)
    return embed.map_of(sides, grid).num_positions


def _convolutions(sides: Sides, layers: Iterable[nn.Module]) -> float:
    """Convolutions one after the other; layers of other kinds cost nothing here."""
    rows, cols = sides
    macs = 0.0
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            assert not isinstance(layer.padding, str)
            facts = zip((rows, cols), layer.padding, layer.kernel_size, layer.stride)
            rows, cols = ((side + 2 * pad - kernel) // stride + 1 for side, pad, kernel, stride in facts)
            macs += rows * cols * layer.weight.numel()
    return macs
