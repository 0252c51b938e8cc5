"""Cost of DeiT and LV-ViT by formula."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from revit.common.costs.closed_form import Macs, encoder_macs, mlp_ratio_of, single_input, transformer_macs
from revit.common.models.grid import TokenGrid
from revit.common.models.layers.block import Block
from revit.common.models.vit import ResizableTransformer


def closed_form(model: ResizableTransformer, images_shape: Sequence[int], grid: TokenGrid | None = None) -> Macs:
    """Count the multiply-accumulates of one picture of shape (1, C, H, W) at `grid`, by kind of work.

    Raise ValueError for a batch other than 1.
    """
    chans, height, width = single_input(images_shape)
    grid = model.check_grid(grid)
    P, inner = model.num_prefix(grid), cast(Block, model.blocks[0]).attn.proj.in_features

    def blocks(num_positions: Sequence[int]) -> Macs:
        return encoder_macs([P + S for S in num_positions], model.embed_dim, mlp_ratio_of(model), inner)

    return transformer_macs(model, chans, (height, width), grid, blocks)
