"""Cost of DeiT and LV-ViT by formula."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from revit.common.costs.closed_form import (
    Macs,
    add_reducer,
    embedding_macs,
    encoder_macs,
    heads_macs,
    mlp_ratio_of,
    positions_at_end,
    positions_of,
    positions_per_block,
    single_input,
)
from revit.common.models.grid import TokenGrid
from revit.common.models.layers.block import Block
from revit.common.models.vit import ResizableTransformer


def closed_form(
    model: ResizableTransformer, images_shape: Sequence[int], grid: TokenGrid | None = None
) -> Macs:
    """Count multiply-accumulates of one picture of shape (1, C, H, W) at `grid`, by kind: linear, attention, convolution.

    Raises ValueError for a batch other than 1.
    """
    chans, height, width = single_input(images_shape)
    grid = model.check_grid(grid)
    num_positions = positions_of(model.patch_embed, (height, width), grid)
    lengths = [model.num_prefix(grid) + count for count in positions_per_block(model, num_positions)]
    inner = cast(Block, model.blocks[0]).attn.proj.in_features
    macs = encoder_macs(lengths, model.embed_dim, mlp_ratio_of(model), inner)
    macs["linear"] += heads_macs(model, grid)
    add_reducer(macs, model, num_positions)
    if getattr(model, "aux_head", None) is not None:
        macs["linear"] += positions_at_end(model, num_positions) * model.embed_dim * model.num_classes
    macs["convolution"] = embedding_macs(model.patch_embed, (height, width), grid, chans)
    return macs
