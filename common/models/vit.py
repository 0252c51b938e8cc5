"""What every resizable vision transformer has around its blocks, for pictures and for clips.

The longest grid owns the names of a published plain model (`patch_embed.proj`, `pos_embed`, `norm`, `head`); each
shorter grid adds its own parts under `short`. So a plain model is a ReViT with one grid, a plain checkpoint loads
into a ReViT as it is, and the longest path of a ReViT is the plain model.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from typing_extensions import TypedDict

from revit.common.models.base import GridModel, ModelOutput, Reduction
from revit.common.models.embed.patch_embed import PATCH_EMBEDS
from revit.common.models.embed.patches import PatchEmbed, Remainder, Sides, resize_positions
from revit.common.models.grid import TokenGrid, longest_first
from revit.common.models.layers.block import LengthAwareLayerNorm
from revit.common.models.reducer import TokenLayout

Distillation = Literal["none", "shared", "per_grid", "every_grid"]
Positions = Literal["separate", "shared_zero_pad", "shared_interpolate"]


def make_head(embed_dim: int, num_classes: int) -> nn.Module:
    """Make a classifier (..., D) -> (..., K); without classes it gives the features, as in timm and the published code."""
    return nn.Linear(embed_dim, num_classes) if num_classes > 0 else nn.Identity()


def parts_of(part: Any) -> list[Any]:
    """List one part, or all those of a dictionary."""
    return list(part.values()) if isinstance(part, (nn.ParameterDict, nn.ModuleDict)) else [part]


TABLES = {"cls_token", "dist_token", "pos_embed", "short_pos_embed", "dist_pos_embed", "time_embed"}
"""Parameters, or dictionaries of them, that are not decayed."""


class EmbeddingArguments(TypedDict, total=False):
    """Arguments of `ResizableTransformer` that the models pass on as they get them."""

    in_chans: int
    patch_embed: str
    stem_widths: Sequence[int] | None
    positions: Positions
    distillation: Distillation
    pos_std: float
    linear_std: float
    position_resize: str
    remainder: Remainder
    kernel_size: int | Sides | None
    position_grid: TokenGrid | int | str | None


class ResizableTransformer(GridModel):
    """Prefix tokens, embeddings, norms and heads of a vision transformer that runs at several token grids (ReViT 3.2).

    Readings of what the paper leaves open:
    - `distillation`: the teacher (longest grid) has the class token only and so equals the plain model; every other
      grid has a class and a distillation token, whose token and head are shared by all of them ("shared": the
      figure draws one) or not ("per_grid"). With one grid there is none. "every_grid" is not ReViT's but the
      distilled variant of DeiT: all grids, also a single one, have the token and the head, under the published names.
    - `positions`: "separate" is the method; the two others are the ablation of Table 3, whose marks are inverted
      against its text: a tick there means separate.

    `patch_embed` "flexi" makes it a FlexiViT, which has nothing per grid and so runs at any: one kernel of `kernel_size`
    pixels (default 32) and one position table of `position_grid` (default 7x7), both resized in every forward pass to
    the grid that is asked for, norms that all grids share, no distillation token. `grids` are then only those that
    evaluation and reports go through.

    Subclasses fill `self.blocks` and write `forward`, which runs them by `run_blocks`. Raises ValueError for contradictory
    arguments.
    """

    asks_reducer = True
    patch_embed: PatchEmbed
    dist_token: Any
    """(1, 1, D), or such by the keys of the grids' distillation tokens."""
    head_dist: Any
    pos_embed: nn.Parameter
    """(1, P + S, D) of the longest grid, or what all grids share; of a FlexiViT (1, S, D)."""
    short_pos_embed: nn.ParameterDict
    """Tables of the other grids by name."""
    dist_pos_embed: nn.Parameter | None
    """Row (1, 1, D) of the shorter grids' distillation token, where all share one table."""

    def __init__(
        self,
        img_size: int | Sides,
        grids: Iterable[TokenGrid | int | str],
        num_classes: int,
        embed_dim: int,
        in_chans: int = 3,
        patch_embed: str = "patchify",
        stem_widths: Sequence[int] | None = None,
        positions: Positions = "separate",
        distillation: Distillation = "shared",
        layer_norm_eps: float = 1e-6,
        pos_std: float = 0.02,
        linear_std: float = 0.02,
        position_resize: str = "bicubic",
        remainder: Remainder = "pad",
        kernel_size: int | Sides | None = None,
        position_grid: TokenGrid | int | str | None = None,
    ) -> None:
        super().__init__()
        self.grids = longest_first(grids)
        self.img_size = img_size
        self.num_classes = num_classes
        self.embed_dim = embed_dim
        self.is_flexible = patch_embed == "flexi"
        """Runs at any grid, not only at those of `grids`."""
        extra: dict[str, Any] = {"stem_widths": tuple(stem_widths)} if stem_widths else {}
        if self.is_flexible:
            if positions != "separate" or distillation not in ("none", "shared"):
                raise ValueError(
                    f"positions {positions} and distillation {distillation} have no meaning where one kernel and one "
                    'position table serve all grids (patch_embed "flexi"); leave them out'
                )
            extra["kernel_size"] = kernel_size or 32
            distillation = "none"
        elif kernel_size is not None or position_grid is not None:
            raise ValueError('kernel_size and position_grid are for patch_embed "flexi"; leave them out')
        elif remainder != "pad":
            extra["remainder"] = remainder
        self.patch_embed = PATCH_EMBEDS[patch_embed](img_size, self.grids, embed_dim, in_chans, **extra)

        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.head = make_head(embed_dim, num_classes)
        self._make_distillation(distillation)
        self._positions = positions
        self._position_resize = position_resize
        self.position_grid = TokenGrid.parse(position_grid or 7) if self.is_flexible else self.grids[0]
        """Rows and columns of `pos_embed`."""
        self._make_positions()
        self.blocks = nn.ModuleList()
        self._recompute_blocks = False
        self.norm_grids = () if self.is_flexible else self.grids
        """The grids that have norms of their own."""
        self.norm = LengthAwareLayerNorm(embed_dim, self.norm_grids, layer_norm_eps)
        self._pos_std = pos_std
        self._linear_std = linear_std

    def _make_distillation(self, distillation: Distillation) -> None:
        students = () if distillation in ("none", "every_grid") else self.grids[1:]
        self._student_keys = {grid: "shared" if distillation == "shared" else grid.name for grid in students}
        """Grid -> key of its token and head in `dist_token` and `head_dist`."""
        self._all_distilled = distillation == "every_grid"
        if self._all_distilled:
            self.dist_token = nn.Parameter(torch.zeros(1, 1, self.embed_dim))
            self.head_dist = make_head(self.embed_dim, self.num_classes)
        else:
            keys = list(dict.fromkeys(self._student_keys.values()))
            self.dist_token = nn.ParameterDict({key: torch.zeros(1, 1, self.embed_dim) for key in keys})
            self.head_dist = nn.ModuleDict({key: make_head(self.embed_dim, self.num_classes) for key in keys})

    def _make_positions(self) -> None:
        rows = 0 if self.is_flexible else self.num_prefix(self.grids[0])
        self.pos_embed = nn.Parameter(torch.zeros(1, rows + self.position_grid.num_positions, self.embed_dim))
        own = self.grids[1:] if self._positions == "separate" and not self.is_flexible else ()
        sizes = {grid.name: self.num_prefix(grid) + grid.num_positions for grid in own}
        self.short_pos_embed = nn.ParameterDict(
            {name: torch.zeros(1, size, self.embed_dim) for name, size in sizes.items()}
        )
        some_have_more = len({self.num_prefix(grid) for grid in self.grids}) > 1
        needs_row = self._positions != "separate" and some_have_more
        self.dist_pos_embed = nn.Parameter(torch.zeros(1, 1, self.embed_dim)) if needs_row else None

    def init_weights(self) -> None:
        """Draw the weights: linear layers with std `linear_std`, cut at +-2 (in effect uncut), heads and tokens 0.02,
        position tables `pos_std`; linear biases 0; LayerNorm 1 and 0; convolutions keep the framework's default."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                is_head = any(module is head for head in self.heads())
                nn.init.trunc_normal_(module.weight, std=0.02 if is_head else self._linear_std)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for token in (self.cls_token, *parts_of(self.dist_token)):
            nn.init.trunc_normal_(token, std=0.02)
        for table in (self.pos_embed, *self.short_pos_embed.values(), self.dist_pos_embed):
            if table is not None:
                nn.init.trunc_normal_(table, std=self._pos_std)

    def heads(self) -> list[nn.Module]:
        """Return all classifiers of the model."""
        return [self.head, *parts_of(self.head_dist)]

    def no_weight_decay(self) -> set[str]:
        """Return the names of tokens, position and time tables (timm's optimiser factory asks for them)."""
        return {name for name, _ in self.named_parameters() if name.split(".")[0] in TABLES}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return timm's expressions for the order of layers: embeddings first, then block after block with the norm, then heads."""
        tables = "|".join(sorted(TABLES))
        return {"stem": rf"^(?:patch_embed|{tables})\b", "blocks": [(r"^blocks\.(\d+)", None), (r"^norm\b", (99999,))]}

    def num_prefix(self, grid: TokenGrid) -> int:
        """Count the prefix tokens of a grid: class, and distillation where the grid has one."""
        return 2 if self._all_distilled or grid in self._student_keys else 1

    def _own(self, part: Any, grid: TokenGrid) -> Any:
        """Return the entry of a grid in `dist_token` or `head_dist`."""
        return part if self._all_distilled else part[self._student_keys[grid]]

    def check_grid(self, grid: TokenGrid | None) -> TokenGrid:
        """Return the grid to run, the longest where none is named. Raise KeyError for one the model cannot run at."""
        if grid is None:
            return self.grids[0]
        self.patch_embed.check_grid(grid)
        return grid

    def position_table(self, grid: TokenGrid, actual: TokenGrid) -> Tensor:
        """Return the table (1, P + S, D) of `grid` where the map that came out is `actual`; of a FlexiViT (1, S, D)."""
        if self.is_flexible:
            return resize_positions(self.pos_embed, 0, self.position_grid, actual, "linear")
        return resize_positions(self._nominal_table(grid), self.num_prefix(grid), grid, actual, self._position_resize)

    def _nominal_table(self, grid: TokenGrid) -> Tensor:
        """Return the table of a grid at the model's own input size."""
        longest = self.grids[0]
        if grid == longest:
            return self.pos_embed
        if self._positions == "separate":
            return self.short_pos_embed[grid.name]
        P = self.num_prefix(longest)
        if self._positions == "shared_interpolate":
            patches = resize_positions(self.pos_embed, P, longest, grid, self._position_resize)[:, P:]
        else:  # cropped, or padded with zeros, from the top left corner
            as_map = self.pos_embed[:, P:].unflatten(1, (longest.rows, longest.cols))[:, : grid.rows, : grid.cols]
            missing = (0, 0, 0, grid.cols - as_map.shape[2], 0, grid.rows - as_map.shape[1])
            patches = F.pad(as_map, missing).flatten(1, 2)
        row = [] if self.dist_pos_embed is None else [self.dist_pos_embed]
        return torch.cat([self.pos_embed[:, :P], *row, patches], dim=1)

    def embed(self, images: Tensor, grid: TokenGrid) -> tuple[Tensor, Tensor, TokenLayout]:
        """Embed pictures or single frames (B, C, H, W) -> prefix (1, P, D), patches (B, S, D), positions added."""
        return self.embed_map(self.patch_embed(images, grid), grid)

    def embed_map(self, feature_map: Tensor, grid: TokenGrid) -> tuple[Tensor, Tensor, TokenLayout]:
        """Do the same with the map (B, D, rows, cols) that the patch embedding made of the pictures."""
        actual = TokenGrid(feature_map.shape[-2], feature_map.shape[-1])
        tokens: list[Tensor] = [self.cls_token]
        if self.num_prefix(grid) == 2:
            tokens.append(self._own(self.dist_token, grid))
        layout = TokenLayout(grid, num_prefix=len(tokens), num_positions=actual.num_positions)
        prefix, patches = torch.cat(tokens, dim=1), feature_map.flatten(2).transpose(1, 2)
        table = self.position_table(grid, actual)
        if self.is_flexible:
            return prefix, patches + table, layout
        P = layout.num_prefix
        return prefix + table[:, :P], patches + table[:, P:], layout

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keep only what enters each block and compute the block again in the backward pass, with the same random draws."""
        self._recompute_blocks = enable

    def run_blocks(self, tokens: Tensor, layout: TokenLayout) -> tuple[Tensor, TokenLayout]:
        """Run all blocks: (B, N, D) and its layout -> both afterwards, shorter where there is a reducer."""
        for number, block in enumerate(self.blocks):
            if self.reducer is not None:
                tokens, layout = self.reducer(number, tokens, layout)
            if self._recompute_blocks and torch.is_grad_enabled():
                tokens = checkpoint(block, tokens, layout, use_reentrant=False)
            else:
                tokens = block(tokens, layout)
        return tokens, layout

    def classify(self, tokens: Tensor, layout: TokenLayout) -> ModelOutput:
        """Apply the final norm and the heads to (B, P + ..., D)."""
        # The heads need the prefix only; the published models normalise all tokens, and their counts include it.
        return self.read_prefix(self.norm(tokens, layout.grid), layout)

    def read_prefix(self, normed: Tensor, layout: TokenLayout) -> ModelOutput:
        """Apply the heads to the prefix of (B, P + ..., D), which went through the final norm; the rest as features."""
        logits, distilled = self.head(normed[:, 0]), None
        if layout.num_prefix == 2:
            distilled = self._own(self.head_dist, layout.grid)(normed[:, 1])
        return ModelOutput(
            logits, distilled, patch_features=normed[:, layout.num_prefix :], reduction=Reduction.of(layout.decisions)
        )

    @torch.no_grad()
    def start_short_grids(self) -> None:
        """Start every shorter grid from the longest one's weights, after those were loaded.

        Patch kernels by pseudo-inverse resizing, position tables by `position_resize` (the distillation row from the
        class row), norms, distillation token and head as copies.
        """
        for module in self.modules():
            if isinstance(module, (PatchEmbed, LengthAwareLayerNorm)):
                module.start_short_grids()
        P = self.num_prefix(self.grids[0])
        for grid in self.grids[1:]:
            if grid.name in self.short_pos_embed:
                start = resize_positions(self.pos_embed, P, self.position_grid, grid, self._position_resize)
                rows = [start[:, :1]] * (self.num_prefix(grid) - P) + [start]
                self.short_pos_embed[grid.name].copy_(torch.cat(rows, dim=1))
        if self.dist_pos_embed is not None:
            self.dist_pos_embed.copy_(self.pos_embed[:, :1])
        if P == 1:
            for token in parts_of(self.dist_token):
                token.copy_(self.cls_token)
            for head in parts_of(self.head_dist):
                head.load_state_dict(self.head.state_dict())
