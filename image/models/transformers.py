"""DeiT and LV-ViT, each one class for one token grid or several; and MixToken, CutMix on the tokens, so that every token keeps a
label of its own (LV-ViT section 3.2)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from revit.common.costs.closed_form import Macs, encoder_macs, mlp_ratio_of, single_input, transformer_macs
from revit.common.models.base import ModelOutput
from revit.common.models.grid import TokenGrid
from revit.common.models.layers.block import Block, drop_path_rates
from revit.common.models.reducer import restore_merged
from revit.common.models.vit import EmbeddingArguments, ResizableTransformer, make_head


class PictureTransformer(ResizableTransformer):
    """A transformer whose blocks see all tokens of a picture at once."""

    def closed_form_macs(self, images_shape: Sequence[int], grid: TokenGrid | None = None) -> Macs:
        """Count the multiply-accumulates of one picture (1, C, H, W) by formula, by kind of work. ValueError for another batch."""
        chans, height, width = single_input(images_shape)
        grid = self.check_grid(grid)
        P, inner = self.num_prefix(grid), cast(Block, self.blocks[0]).attn.proj.in_features

        def blocks(num_positions: Sequence[int]) -> Macs:
            return encoder_macs([P + S for S in num_positions], self.embed_dim, mlp_ratio_of(self), inner)

        return transformer_macs(self, chans, (height, width), grid, blocks)


class DeiT(PictureTransformer):
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


class LVViT(PictureTransformer):
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


@dataclass(frozen=True)
class Box:
    """A box of tokens in a map; corners as in slices, the far ones left out."""

    grid: TokenGrid
    """The whole map."""
    top: int
    left: int
    bottom: int
    right: int

    @property
    def keep_share(self) -> float:
        """Share of the map outside the box, lambda': the weight of a picture's own class beside its partner's."""
        return 1 - (self.bottom - self.top) * (self.right - self.left) / self.grid.num_positions

    def mask(self, device: torch.device) -> Tensor:
        """Return (rows, cols) bool, true inside."""
        rows = torch.arange(self.grid.rows, device=device)
        cols = torch.arange(self.grid.cols, device=device)
        inside = (rows >= self.top) & (rows < self.bottom)
        return inside[:, None] & (cols >= self.left) & (cols < self.right)


@dataclass(frozen=True)
class MixDraw:
    """Draw of MixToken for a batch: how much of a picture is kept, and where the box lies, in shares of the picture.

    The published code draws a box of tokens for the one map there is. Reading for several grids: one draw for all, and
    every grid rounds the box to its own tokens, so that all grids' class logits see the same mixture and can teach one
    another. With one grid this is the published distribution.
    """

    lam: float
    """lambda: 1 - lambda is the area of the box, before rounding and clipping."""
    row: float
    """Centre of the box, in [0, 1) of the height."""
    col: float
    """Centre of the box, in [0, 1) of the width."""

    @classmethod
    def draw(cls, alpha: float = 1.0) -> MixDraw:
        """Draw lambda ~ Beta(alpha, alpha), 1 as published, and a uniform centre, from torch's global generator."""
        lam = torch.distributions.Beta(alpha, alpha).sample()
        row, col = torch.rand(2).tolist()
        return cls(float(lam), row, col)

    def box(self, grid: TokenGrid) -> Box:
        """Return the box in a map of `grid` (the real one, where it is not the nominal): sides int(side * sqrt(1 - lambda)),
        half of each, rounded down, on either side of the centre token; what lies outside is cut off."""

        def span(side: int, centre: float) -> tuple[int, int]:
            half = int(side * math.sqrt(1 - self.lam)) // 2
            middle = int(side * centre)
            return max(middle - half, 0), min(middle + half, side)

        (top, bottom), (left, right) = span(grid.rows, self.row), span(grid.cols, self.col)
        return Box(grid, top, left, bottom, right)


def mix_map(feature_map: Tensor, box: Box) -> Tensor:
    """Give each map of (B, D, rows, cols), inside the box, that of its partner, i with B - 1 - i."""
    return torch.where(box.mask(feature_map.device), feature_map.flip(0), feature_map)


def unmix(patch_logits: Tensor, box: Box) -> Tensor:
    """Give what `mix_map` exchanged back to the pictures it came from; (B, S, K) in row order."""
    inside = box.mask(patch_logits.device).flatten()[:, None]
    return torch.where(inside, patch_logits.flip(0), patch_logits)
