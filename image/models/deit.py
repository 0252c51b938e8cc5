"""DeiT and ReViT-DeiT: one class, one grid or several."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast

import torch
from torch import Tensor
from typing_extensions import Unpack

from revit.common.costs.closed_form import Macs, encoder_macs, mlp_ratio_of, single_input, transformer_macs
from revit.common.models.base import ModelOutput
from revit.common.models.grid import TokenGrid
from revit.common.models.layers.block import Block, drop_path_rates
from revit.common.models.vit import EmbeddingArguments, ResizableTransformer


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


class DeiT(ResizableTransformer):
    """ "Training data-efficient image transformers & distillation through attention", with the token grids of ReViT on
    top. A plain ViT has the same layers and names.

    Any input size at run time, square or not: the position table is resized bicubically. `distillation` "every_grid"
    is the published distilled variant; the others are ReViT's (see `ResizableTransformer`). Both heads answer in
    training and in evaluation, where the published model and timm's return one mean in evaluation. `num_classes` 0
    gives features.
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        grids: Iterable[TokenGrid | int | str] = (14,),
        num_classes: int = 1000,
        embed_dim: int = 384,
        depth: int = 12,
        num_heads: int = 6,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        drop_path_rate: float = 0.1,
        layer_norm_eps: float = 1e-6,
        head_dim: int | None = None,
        **embedding: Unpack[EmbeddingArguments],
    ) -> None:
        super().__init__(img_size, grids, num_classes, embed_dim, layer_norm_eps=layer_norm_eps, **embedding)
        self.blocks.extend(
            Block(embed_dim, num_heads, self.norm_grids, mlp_ratio, qkv_bias, rate, layer_norm_eps, head_dim=head_dim)
            for rate in drop_path_rates(drop_path_rate, depth)
        )
        self.init_weights()
        self.start_short_grids()

    def forward(self, images: Tensor, grid: TokenGrid | None = None) -> ModelOutput:
        """Classify normalised pictures (B, C, H, W) -> logits (B, K), at `grid` (default: the longest).

        Raise KeyError for a grid the model was not made for.
        """
        grid = self.check_grid(grid)
        prefix, patches, layout = self.embed(images, grid)
        tokens = torch.cat([prefix.expand(len(patches), -1, -1), patches], dim=1)  # (B, P + S, D)
        tokens, layout = self.run_blocks(tokens, layout)
        return self.classify(tokens, layout)

    def closed_form_macs(self, images_shape: Sequence[int], grid: TokenGrid | None = None) -> dict[str, float]:
        """Count the multiply-accumulates of one picture (1, C, H, W) by formula, by kind of work."""
        return closed_form(self, images_shape, grid)
