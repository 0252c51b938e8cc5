"""LV-ViT and ReViT-LV-ViT: one class, one grid or several."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from revit.common.models.decision import restore_merged
from revit.common.models.grid import TokenGrid
from revit.common.models.heads import make_head
from revit.common.models.layers.block import Block, drop_path_rates
from revit.common.models.outputs import ModelOutput
from revit.common.models.vit import EmbeddingArguments, ResizableTransformer
from revit.image.models.cost import closed_form
from revit.image.models.mix_token import MixDraw, mix_map, unmix


class LVViT(ResizableTransformer):
    """ "All Tokens Matter: Token Labeling for Training Better Vision Transformers", with the token grids of ReViT on top.

    Unlike DeiT: a convolution stem, residual branches divided by `skip_lam`, no bias on query, key and value, an MLP of
    ratio 3, LayerNorm eps 1e-5, and a second head that classifies every patch. The prediction is the class token's
    logits and half of the largest logits over the patches (`ModelOutput.prediction`), in training and in evaluation
    alike. Readings for several grids: each has a whole stem of its own, and all share `aux_head`, as they share `head`.

    Any input size at run time, square or not. `num_classes` 0 gives features and no patch logits.
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        grids: Iterable[TokenGrid | int | str] = (14,),
        num_classes: int = 1000,
        embed_dim: int = 384,
        depth: int = 16,
        num_heads: int = 6,
        mlp_ratio: float = 3.0,
        qkv_bias: bool = False,
        skip_lam: float = 2.0,
        drop_path_rate: float = 0.1,
        layer_norm_eps: float = 1e-5,
        head_dim: int | None = None,
        **embedding: Unpack[EmbeddingArguments],
    ) -> None:
        embedding = EmbeddingArguments(patch_embed="lvvit") | embedding
        super().__init__(img_size, grids, num_classes, embed_dim, layer_norm_eps=layer_norm_eps, **embedding)
        self.aux_head = make_head(embed_dim, num_classes) if num_classes > 0 else None
        self.blocks.extend(
            Block(
                *(embed_dim, num_heads, self.norm_grids, mlp_ratio, qkv_bias, rate, layer_norm_eps),
                skip_lam=skip_lam,
                head_dim=head_dim,
            )
            for rate in drop_path_rates(drop_path_rate, depth)
        )
        self.init_weights()
        self.start_short_grids()

    def heads(self) -> list[nn.Module]:
        return [*super().heads(), *([] if self.aux_head is None else [self.aux_head])]

    def forward(self, images: Tensor, grid: TokenGrid | None = None, mix: MixDraw | None = None) -> ModelOutput:
        """Classify normalised pictures (B, C, H, W) -> logits (B, K) and patch logits (B, S, K), at `grid` (default: the
        longest).

        With a `mix` each picture's map gets a box of its partner's, i of B - 1 - i; the class logits are those of the
        mixture, the patch logits are put back where they came from.
        Raise KeyError for a grid the model was not made for.
        """
        grid = self.check_grid(grid)
        feature_map = self.patch_embed(images, grid)  # (B, D, rows, cols)
        box = None
        if mix is not None:
            box = mix.box(TokenGrid(feature_map.shape[-2], feature_map.shape[-1]))
            feature_map = mix_map(feature_map, box)

        prefix, patches, layout = self.embed_map(feature_map, grid)
        tokens = torch.cat([prefix.expand(len(patches), -1, -1), patches], dim=1)  # (B, P + S, D)
        tokens, layout = self.run_blocks(tokens, layout)

        normed = self.norm(tokens, grid)
        output = self.read_prefix(normed, layout)
        if self.aux_head is None:
            return output
        # Where tokens were merged the head sees zeros at the places of those that are gone (published).
        patches = restore_merged(normed[:, layout.num_prefix :], layout.decisions)
        patch_logits = self.aux_head(patches)
        return output._replace(patch_logits=patch_logits if box is None else unmix(patch_logits, box))

    def closed_form_macs(self, images_shape: Sequence[int], grid: TokenGrid | None = None) -> dict[str, float]:
        """Count the multiply-accumulates of one picture (1, C, H, W) by formula, by kind of work."""
        return closed_form(self, images_shape, grid)
