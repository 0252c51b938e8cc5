"""What every resizable vision transformer has around its blocks, for pictures and for clips.

The longest grid owns the names of a published plain model (`patch_embed.proj`, `pos_embed`, `norm`, `head`); each
shorter grid adds its own parts under `short`. So a plain model is a ReViT with one grid, a plain checkpoint loads
into a ReViT as it is, and the longest path of a ReViT is the plain model.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from revit.common.models.base import GridModel
from revit.common.models.embed.patch_embed import PATCH_EMBEDS
from revit.common.models.embed.patches import PatchEmbed, Remainder, Sides, sides_of
from revit.common.models.embed.resize import resize_positions
from revit.common.models.grid import TokenGrid, longest_first
from revit.common.models.layers.norm import LengthAwareLayerNorm
from revit.common.models.layout import TokenLayout
from revit.common.models.outputs import ModelOutput, Reduction

Distillation = Literal["none", "shared", "per_grid", "every_grid"]
Positions = Literal["separate", "shared_zero_pad", "shared_interpolate"]


def make_head(embed_dim: int, num_classes: int) -> nn.Module:
    """A classifier (..., D) -> (..., K); without classes the features themselves, as in timm and the published code."""
    return nn.Linear(embed_dim, num_classes) if num_classes > 0 else nn.Identity()


def _all_of(parts: Any) -> list[Any]:
    """One part, or all those of a dictionary."""
    return list(parts.values()) if isinstance(parts, (nn.ParameterDict, nn.ModuleDict)) else [parts]


class ResizableTransformer(GridModel):
    """Prefix tokens, embeddings, norms and heads of a vision transformer that runs at several token grids (ReViT 3.2).

    Readings of what the paper leaves open:
    - `distillation`: the teacher (longest grid) has the class token only and so equals the plain model; every other
      grid has a class and a distillation token, whose token and head are shared by all of them ("shared": the
      figure draws one) or not ("per_grid"). With one grid there is none. "every_grid" is not ReViT's but the
      distilled variant of DeiT: all grids, also a single one, have the token and the head, under the published names.
    - `positions`: "separate" is the method. "shared_zero_pad" takes the longest grid's table cropped, or padded with
      zeros, from the top left corner (the ablation of Table 3), "shared_interpolate" resizes it instead. In both the
      distillation token keeps a position row of its own.
    - Table 3's marks are inverted against its text: a tick there means separate.

    `patch_embed` "flexi" makes it a FlexiViT, which has nothing per grid and so runs at any: one kernel of `kernel_size`
    pixels (default 32) and one position table of `position_grid` (default 7x7), both resized in every forward pass to the
    grid that is asked for, norms that all grids share, no distillation token. `grids` are then only those that
    evaluation and reports go through. The table has no row for the class token, and none is added to it.

    Subclasses fill `self.blocks` and write `forward`, which runs them by `run_blocks`. Raises ValueError for contradictory arguments.
    """

    asks_reducer = True

    def __init__(
        self,
        img_size: int | tuple[int, int],
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
        flexible = patch_embed == "flexi"
        _check_flexible(flexible, positions, distillation, kernel_size, position_grid)
        self.grids = longest_first(grids)
        self.img_size = img_size
        self.num_classes = num_classes
        self.embed_dim = embed_dim
        self.position_resize = position_resize
        self.positions = positions
        self.position_grid = TokenGrid.parse(position_grid or 7) if flexible else None
        """Of the table that all grids share, in a FlexiViT."""
        self.norm_grids = () if flexible else self.grids
        """The grids that have norms of their own."""
        extra: dict[str, Any] = {"stem_widths": tuple(stem_widths)} if stem_widths else {}
        if flexible:
            extra["kernel_size"] = kernel_size or 32
            distillation = "none"
        elif remainder != "pad":
            extra["remainder"] = remainder
        self.patch_embed = PATCH_EMBEDS[patch_embed](img_size, self.grids, embed_dim, in_chans, **extra)
        shorter = self.grids[1:]

        self._distilled = {"none": (), "every_grid": self.grids}.get(distillation, shorter)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.head = make_head(embed_dim, num_classes)
        self.dist_token: nn.Parameter | nn.ParameterDict
        self.head_dist: nn.Module
        if distillation == "every_grid":
            self.dist_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
            self.head_dist = make_head(embed_dim, num_classes)
        else:
            # The students' token and head: under one key, or one for each grid.
            self._student_key = {
                grid: "shared" if distillation == "shared" else grid.name for grid in self._distilled
            }
            keys = list(dict.fromkeys(self._student_key.values()))
            self.dist_token = nn.ParameterDict({key: torch.zeros(1, 1, embed_dim) for key in keys})
            self.head_dist = nn.ModuleDict({key: make_head(embed_dim, num_classes) for key in keys})

        longest_rows = self.num_prefix(self.grids[0]) + self.grids[0].num_positions
        if self.position_grid is not None:
            longest_rows = self.position_grid.num_positions
        self.pos_embed = nn.Parameter(torch.zeros(1, longest_rows, embed_dim))
        self.short_pos_embed = nn.ParameterDict(
            {
                grid.name: torch.zeros(1, self.num_prefix(grid) + grid.num_positions, embed_dim)
                for grid in shorter
                if positions == "separate" and not flexible
            }
        )
        shared_rows = bool(self._distilled) and distillation != "every_grid" and positions != "separate"
        self.dist_pos_embed = nn.Parameter(torch.zeros(1, 1, embed_dim)) if shared_rows else None
        self.blocks = nn.ModuleList()
        self._recompute_blocks = False
        self.norm = LengthAwareLayerNorm(embed_dim, self.norm_grids, layer_norm_eps)
        self._pos_std = pos_std
        self._linear_std = linear_std

    def init_weights(self) -> None:
        """Linear weights: normal, std `linear_std`, cut at +-2 (in effect uncut); heads and tokens: std 0.02; position
        tables: `pos_std`; linear biases 0; LayerNorm 1 and 0; convolutions keep the framework's default."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                is_head = any(module is head for head in self.heads())
                nn.init.trunc_normal_(module.weight, std=0.02 if is_head else self._linear_std)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for token in (self.cls_token, *_all_of(self.dist_token)):
            nn.init.trunc_normal_(token, std=0.02)
        tables = [self.pos_embed, *self.short_pos_embed.values()]
        for table in tables if self.dist_pos_embed is None else [*tables, self.dist_pos_embed]:
            nn.init.trunc_normal_(table, std=self._pos_std)

    def heads(self) -> list[nn.Module]:
        """All classifiers of the model."""
        return [self.head, *_all_of(self.head_dist)]

    def no_weight_decay(self) -> set[str]:
        """Names of tokens, position and time tables, which are not decayed (timm's optimiser factory asks for them)."""
        tables = {"cls_token", "dist_token", "pos_embed", "short_pos_embed", "dist_pos_embed", "time_embed"}
        return {name for name, _ in self.named_parameters() if name.split(".")[0] in tables}

    def num_prefix(self, grid: TokenGrid) -> int:
        """Prefix tokens of a grid: class, and distillation where the grid is a student (or every grid has one)."""
        return 2 if grid in self._distilled else 1

    def distillation_token(self, grid: TokenGrid) -> Tensor:
        """(1, 1, D) of a grid that has one."""
        if isinstance(self.dist_token, nn.ParameterDict):
            return self.dist_token[self._student_key[grid]]
        return self.dist_token

    def distillation_head(self, grid: TokenGrid) -> nn.Module:
        """The classifier on it."""
        if isinstance(self.head_dist, nn.ModuleDict):
            return self.head_dist[self._student_key[grid]]
        return self.head_dist

    @property
    def is_flexible(self) -> bool:
        """Whether it runs at any grid."""
        return self.position_grid is not None

    def check_grid(self, grid: TokenGrid | None) -> TokenGrid:
        """The grid to run: the longest where none is named. Raises KeyError for one the model was not made for."""
        if grid is None:
            return self.grids[0]
        if self.is_flexible:
            height, width = sides_of(self.img_size)
            if grid.rows > height or grid.cols > width:
                raise KeyError(f"grid {grid} has more tokens than the {height}x{width} pixels of a picture")
            return grid
        if grid not in self.grids:
            names = ", ".join(known.name for known in self.grids)
            raise KeyError(f"this model was not made for grid {grid}; it runs at {names}")
        return grid

    def position_table(self, grid: TokenGrid, actual: TokenGrid) -> Tensor:
        """(1, P + S, D): the rows of `grid`, resized where the map that came out is `actual`; of a FlexiViT (1, S, D)."""
        if self.position_grid is not None:
            return resize_positions(self.pos_embed, 0, self.position_grid, actual, "linear")
        num_prefix = self.num_prefix(grid)
        if grid == self.grids[0]:
            table: Tensor = self.pos_embed
        elif self.positions == "separate":
            table = self.short_pos_embed[grid.name]
        else:
            rows = [self.pos_embed[:, : self.num_prefix(self.grids[0])], self._shared_positions(grid)]
            if self.dist_pos_embed is not None:
                rows.insert(1, self.dist_pos_embed)
            table = torch.cat(rows, dim=1)
        return resize_positions(table, num_prefix, grid, actual, self.position_resize)

    def _shared_positions(self, grid: TokenGrid) -> Tensor:
        longest = self.grids[0]
        P = self.num_prefix(longest)
        if self.positions == "shared_interpolate":
            return resize_positions(self.pos_embed, P, longest, grid, self.position_resize)[:, P:]
        as_map = self.pos_embed[:, P:].unflatten(1, (longest.rows, longest.cols))[:, : grid.rows, : grid.cols]
        missing = (0, 0, 0, grid.cols - as_map.shape[2], 0, grid.rows - as_map.shape[1])
        return nn.functional.pad(as_map, missing).flatten(1, 2)

    def embed(self, images: Tensor, grid: TokenGrid) -> tuple[Tensor, Tensor, TokenLayout]:
        """Pictures or single frames (B, C, H, W) -> prefix (1, P, D), patches (B, S, D), both with positions added."""
        return self.embed_map(self.patch_embed(images, grid), grid)

    def embed_map(self, feature_map: Tensor, grid: TokenGrid) -> tuple[Tensor, Tensor, TokenLayout]:
        """The same from the map (B, D, rows, cols) that the patch embedding made of the pictures."""
        actual = TokenGrid(feature_map.shape[-2], feature_map.shape[-1])
        table = self.position_table(grid, actual)
        tokens: list[Tensor] = [self.cls_token]
        if self.num_prefix(grid) == 2:
            tokens.append(self.distillation_token(grid))
        layout = TokenLayout(grid, num_prefix=len(tokens), num_positions=actual.num_positions)
        prefix = torch.cat(tokens, dim=1)
        if not self.is_flexible:
            prefix, table = prefix + table[:, : layout.num_prefix], table[:, layout.num_prefix :]
        return prefix, feature_map.flatten(2).transpose(1, 2) + table, layout

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Whether training keeps only what enters each block and computes the block again in the backward pass, with the
        same random draws (timm's name for it)."""
        self._recompute_blocks = enable

    def run_blocks(self, tokens: Tensor, layout: TokenLayout) -> tuple[Tensor, TokenLayout]:
        """(B, N, D) and its layout -> both after all blocks; shorter where there is a reducer."""
        for number, block in enumerate(self.blocks):
            if self.reducer is not None:
                tokens, layout = self.reducer(number, tokens, layout)
            if self._recompute_blocks and torch.is_grad_enabled():
                tokens = checkpoint(block, tokens, layout, use_reentrant=False)
            else:
                tokens = block(tokens, layout)
        return tokens, layout

    def classify(self, tokens: Tensor, layout: TokenLayout) -> ModelOutput:
        """Final norm and heads on the prefix of (B, P + ..., D)."""
        # The heads need the prefix only; the published models normalise all tokens, and their counts include it.
        return self.read_prefix(self.norm(tokens, layout.grid), layout)

    def read_prefix(self, normed: Tensor, layout: TokenLayout) -> ModelOutput:
        """The heads on the prefix of (B, P + ..., D), which went through the final norm; the rest as features."""
        logits = self.head(normed[:, 0])
        distilled = self.distillation_head(layout.grid)(normed[:, 1]) if layout.num_prefix == 2 else None
        return ModelOutput(
            logits,
            distilled,
            patch_features=normed[:, layout.num_prefix :],
            reduction=Reduction.of(layout.decisions),
        )

    @torch.no_grad()
    def start_short_grids(self) -> None:
        """Give every shorter grid its start from the longest one's weights, after those were loaded.

        Patch kernels by pseudo-inverse resizing, position tables by `position_resize` (the distillation row from the
        class row), norms, distillation token and head as copies.
        """
        for module in self.modules():
            if isinstance(module, (PatchEmbed, LengthAwareLayerNorm)):
                module.start_short_grids()
        longest = self.grids[0]
        P = self.num_prefix(longest)
        for name, table in self.short_pos_embed.items():
            grid = TokenGrid.parse(name)
            start = resize_positions(self.pos_embed, P, longest, grid, self.position_resize)
            table.copy_(torch.cat([start[:, :1]] * (self.num_prefix(grid) - P) + [start], dim=1))
        if self.dist_pos_embed is not None:
            self.dist_pos_embed.copy_(self.pos_embed[:, :1])
        if P == 1:
            for token in _all_of(self.dist_token):
                token.copy_(self.cls_token)
            for head in _all_of(self.head_dist):
                head.load_state_dict(self.head.state_dict())


def _check_flexible(
    flexible: bool, positions: str, distillation: str, kernel_size: object, position_grid: object
) -> None:
    if not flexible and (kernel_size is not None or position_grid is not None):
        raise ValueError('kernel_size and position_grid are for patch_embed "flexi"; leave them out')
    if flexible and (positions != "separate" or distillation not in ("none", "shared")):
        raise ValueError(
            f"positions {positions} and distillation {distillation} have no meaning where one kernel and one position "
            'table serve all grids (patch_embed "flexi"); leave them out'
        )
