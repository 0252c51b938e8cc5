"""As-ViT: a hierarchical transformer whose kernels, windows, expansions, heads, depths and widths are a genotype."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from revit.common.models.base import GridModel, ModelOutput
from revit.common.models.embed.patches import ReTokenizing, Sides, resize_positions, sides_of, strided_convolution
from revit.common.models.grid import TokenGrid, longest_first
from revit.common.models.layers.block import Block, drop_path_rates
from revit.common.models.reducer import TokenLayout
from revit.image.models.genotype import Genotype, Stage, closed_form, split_side, stem_map

STEM_STRIDE = 4
EPS = 1e-5

Position = Literal["none", "absolute"]


class Stem(ReTokenizing):
    """Overlapping patches: one convolution of stride 4 and a norm; coarser by stride and dilation of the same kernel."""

    def __init__(self, kernel: int, width: int, in_chans: int = 3) -> None:
        super().__init__()
        self.kernel = kernel
        self.proj = nn.Conv2d(in_chans, width, kernel, stride=STEM_STRIDE)
        self.norm = nn.LayerNorm(width, eps=EPS)

    def forward(self, images: Tensor, times: int = 1) -> Tensor:
        """Embed (B, C, H, W) as (B, rows, cols, D), at `times` the stride; what fills no stride at the border gets zeros."""
        tokens = strided_convolution(images, self.proj, times * self.times)
        return self.norm(tokens.permute(0, 2, 3, 1))


class ReEmbed(nn.Module):
    """Halve the map: K x K windows of stride 2, normalised together, projected without bias to the next width.

    A map with an odd side gets one more row or column of zeros (round up; the published code refuses odd sides).
    """

    def __init__(self, kernel: int, width: int, next_width: int) -> None:
        super().__init__()
        self.kernel = kernel
        self.norm = nn.LayerNorm(kernel * kernel * width, eps=EPS)
        self.reduction = nn.Linear(kernel * kernel * width, next_width, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (B, rows, cols, D) to (B, ceil(rows / 2), ceil(cols / 2), D')."""
        rows, cols = tokens.shape[1:3]
        K = self.kernel
        before, behind = (K - 2) // 2, (K - 1) // 2
        as_map = F.pad(tokens.permute(0, 3, 1, 2), (before, behind + cols % 2, before, behind + rows % 2))
        windows = F.unfold(as_map, K, stride=2).transpose(1, 2)  # features: channel, row, column
        return self.reduction(self.norm(windows)).unflatten(1, (-(-rows // 2), -(-cols // 2)))


class WindowStage(nn.Module):
    """Blocks whose attention stays inside S x S windows of the map; no shift, no mask."""

    def __init__(
        self,
        stage: Stage,
        width: int,
        num_heads: int,
        grid: TokenGrid,
        drop_path_rates: Sequence[float],
        downsample: ReEmbed | None = None,
    ) -> None:
        super().__init__()
        self.splits = stage.splits
        self.grid = grid
        # The head width rounds down (published), so that a growing width need not be a multiple of the heads.
        head_dim = width // num_heads
        self.blocks = nn.ModuleList(
            Block(width, num_heads, [grid], stage.expansion, True, rate, EPS, head_dim=head_dim)
            for rate in drop_path_rates
        )
        self.downsample = downsample
        """Re-embedding to the next stage; not part of this one's output."""
        self.recompute = False

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (B, rows, cols, D) to the same."""
        rows, cols = (split_side(side, self.splits) for side in tokens.shape[1:3])
        windows = tokens.unflatten(2, (cols, -1)).unflatten(1, (rows, -1))  # (B, rows, h, cols, w, D)
        h, w = windows.shape[2], windows.shape[4]
        windows = windows.transpose(2, 3).flatten(3, 4).flatten(1, 2)  # (B, windows, h * w, D)
        layout = TokenLayout(self.grid, num_prefix=0, num_positions=h * w)
        for block in self.blocks:
            if self.recompute and torch.is_grad_enabled():
                windows = checkpoint(block, windows, layout, use_reentrant=False)
            else:
                windows = block(windows, layout)
        windows = windows.unflatten(1, (rows, cols)).unflatten(3, (h, w))
        return windows.transpose(2, 3).flatten(3, 4).flatten(1, 2)


class AsViT(GridModel):
    """ "Auto-scaling Vision Transformers without Training" (As-ViT), from its genotype.

    Stem, four stages of windowed attention with a re-embedding between them, norm, mean over the tokens, and a head with a
    hidden tanh layer (not in the paper, needed for its parameter counts). `position` "none" is the published code,
    "absolute" adds a table for the stem's map, with which the paper's parameter counts come out.

    `grids` lists the stem's maps that the model is asked to run at, longest first (default: the full one); any other that a
    stride of the stem gives is possible too, with the same weights (progressive re-tokenisation, section 4). Any picture
    size. Stochastic depth is drawn per picture. Raises ValueError for a grid that no stride gives.
    """

    def __init__(
        self,
        genotype: Genotype | str,
        img_size: int | Sides = 224,
        grids: Iterable[TokenGrid | int | str] | None = None,
        num_classes: int = 1000,
        in_chans: int = 3,
        position: Position = "none",
        drop_path_rate: float = 0.0,
        linear_std: float = 0.02,
    ) -> None:
        super().__init__()
        self._linear_std = linear_std
        self.genotype = genotype = Genotype.parse(genotype) if isinstance(genotype, str) else genotype
        self.img_size = img_size
        self.full_grid = stem_map(sides_of(img_size), STEM_STRIDE)
        self.grids = longest_first([self.full_grid] if grids is None else grids)
        for grid in self.grids:
            self.stride_of(grid)
        self.num_classes = num_classes
        dims = genotype.dims
        self.embed_dim = dims[-1]
        self.patch_embed = Stem(genotype.stages[0].kernel, dims[0], in_chans)
        self.pos_embed = None
        if position == "absolute":
            self.pos_embed = nn.Parameter(torch.zeros(1, self.full_grid.num_positions, dims[0]))
        rates = iter(drop_path_rates(drop_path_rate, sum(genotype.depths)))
        self.layers = nn.ModuleList()
        for number, (stage, width, heads) in enumerate(zip(genotype.stages, dims, genotype.heads_per_stage)):
            follows = number + 1 < len(genotype.stages)
            down = ReEmbed(genotype.stages[number + 1].kernel, width, dims[number + 1]) if follows else None
            own = [next(rates) for _ in range(stage.depth)]
            self.layers.append(WindowStage(stage, width, heads, self.full_grid, own, down))
        self.norm = nn.LayerNorm(self.embed_dim, eps=EPS)
        self.head: nn.Module = nn.Identity()
        if num_classes > 0:
            hidden = nn.Linear(self.embed_dim, self.embed_dim)
            self.head = nn.Sequential(hidden, nn.Tanh(), nn.Linear(self.embed_dim, num_classes))
        self.init_weights()

    def heads(self) -> list[nn.Module]:
        """Return the classifier."""
        return [self.head]

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return timm's expressions for the order of layers: stem, block after block of all stages, then the head."""
        blocks = [
            (r"^layers\.(\d+)\.blocks\.(\d+)", None),
            (r"^layers\.(\d+)\.downsample", (99999,)),
            (r"^norm\b", (99999,)),
        ]
        return {"stem": r"^(?:patch_embed|pos_embed)\b", "blocks": blocks}

    def init_weights(self) -> None:
        """Draw linear weights from a truncated normal of std `linear_std`, the position table of std 0.02; biases 0; the stem's
        convolution keeps the framework's default (published code, where `linear_std` is 0.02)."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=self._linear_std)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        if self.pos_embed is not None:
            nn.init.trunc_normal_(self.pos_embed, std=0.02)

    def stride_of(self, grid: TokenGrid) -> int:
        """Return the stem's stride in pixels at `grid`. ValueError where no multiple of 4 gives that map."""
        sides = sides_of(self.img_size)
        times = -(-sides[0] // (STEM_STRIDE * grid.rows))
        if stem_map(sides, STEM_STRIDE * times) != grid:
            raise ValueError(
                f"no stride of the stem gives {grid} tokens for {sides[0]}x{sides[1]} pixels; choose {self.full_grid} (stride "
                f"{STEM_STRIDE}) or a coarser one, such as half of it"
            )
        return STEM_STRIDE * times

    def check_grid(self, grid: TokenGrid | None) -> TokenGrid:
        """Return the grid to run: the longest of `grids` where none is named. Raises ValueError as `stride_of`."""
        grid = self.grids[0] if grid is None else grid
        self.stride_of(grid)
        return grid

    def no_weight_decay(self) -> set[str]:
        """Return the position table's name, where there is one."""
        return set() if self.pos_embed is None else {"pos_embed"}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keep only the inputs of each block in training and compute the block again in the backward pass."""
        for stage in self.layers:
            cast(WindowStage, stage).recompute = enable

    def feature_maps(self, images: Tensor, grid: TokenGrid | None = None) -> list[Tensor]:
        """Return the output of every stage, (B, rows, cols, D), before the final norm; at the full grid their strides are 4, 8,
        16 and 32 pixels."""
        tokens = self.patch_embed(images, self.stride_of(self.check_grid(grid)) // STEM_STRIDE)
        if self.pos_embed is not None:
            actual = TokenGrid(*tokens.shape[1:3])
            table = resize_positions(self.pos_embed, 0, self.full_grid, actual, "bicubic")
            tokens = tokens + table.unflatten(1, (actual.rows, actual.cols))
        maps = []
        for stage in self.layers:
            tokens = stage(tokens)
            maps.append(tokens)
            down = cast(WindowStage, stage).downsample
            tokens = tokens if down is None else down(tokens)
        return maps

    def forward(self, images: Tensor, grid: TokenGrid | None = None) -> ModelOutput:
        """Classify normalised pictures (B, C, H, W), with the stem's map at `grid` (default: the longest).

        Raises ValueError for a grid that no stride of the stem gives.
        """
        tokens = self.norm(self.feature_maps(images, grid)[-1].flatten(1, 2))
        return ModelOutput(self.head(tokens.mean(dim=1)), patch_features=tokens)

    def closed_form_macs(self, images_shape: Sequence[int], grid: TokenGrid | None = None) -> dict[str, float]:
        """Count multiply-accumulates of one picture (1, C, H, W) by formula, by kind: linear, attention, convolution."""
        stride = self.stride_of(self.check_grid(grid)) * self.patch_embed.times
        return closed_form(self.genotype, images_shape, stride, self.num_classes)


class AsViTFeatures(nn.Module):
    """As-ViT as the backbone of a detector: pictures (B, C, H, W) of any size -> an OrderedDict of maps (B, D, ceil(H /
    stride), ceil(W / stride)), named "0" to "3" as torchvision's feature pyramids expect, finest first.

    `channels` and `strides` hold a number for every map returned. Takes a model over: its final norm and its head, which no
    map passes, are removed (a distributed run would wait for their gradients).

    maps: which of the four.  norms: a new LayerNorm on every map, as backbones of windowed transformers have it; the paper
    does not say.
    """

    def __init__(self, model: AsViT, maps: Sequence[int] = (0, 1, 2, 3), norms: bool = False) -> None:
        super().__init__()
        dims = model.genotype.dims
        if not maps or sorted(set(maps) & set(range(len(dims)))) != list(maps):
            raise ValueError(f"maps are {list(maps)}; choose some of 0 to {len(dims) - 1}, in order, each once")
        model.norm = nn.Identity()  # type: ignore[assignment]
        model.head = nn.Identity()
        self.body = model
        self.maps = tuple(maps)
        self.channels = [dims[number] for number in maps]
        self.strides = [STEM_STRIDE * 2**number for number in maps]
        self.norms = nn.ModuleDict(
            {str(number): nn.LayerNorm(dims[number], eps=EPS) for number in maps} if norms else {}
        )

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        """Return the maps by name."""
        found = self.body.feature_maps(images, self.body.full_grid)
        out: OrderedDict[str, Tensor] = OrderedDict()
        for number in self.maps:
            name = str(number)
            map_ = self.norms[name](found[number]) if name in self.norms else found[number]
            out[name] = map_.permute(0, 3, 1, 2)
        return out
