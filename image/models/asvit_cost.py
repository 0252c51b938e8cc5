"""Cost and size of an As-ViT by formula."""

from __future__ import annotations

from collections.abc import Sequence

from revit.common.costs.closed_form import Macs, single_input
from revit.common.models.embed.patches import Sides
from revit.common.models.grid import TokenGrid
from revit.image.models.genotype import Genotype, Stage


def split_side(side: int, splits: int) -> int:
    """Return the windows along a side of `side` tokens: `splits`, or the nearest smaller number that divides the side.

    The published code has no rule where `splits` does not divide (a coarse grid, another picture size); here no token is
    padded or masked.
    """
    return next(number for number in range(min(splits, side), 0, -1) if side % number == 0)


def num_windows(grid: TokenGrid, splits: int) -> int:
    """Count the windows of a map."""
    return split_side(grid.rows, splits) * split_side(grid.cols, splits)


def stage_maps(first: TokenGrid, num_stages: int) -> list[TokenGrid]:
    """Return the maps of all stages, each half the one before, rounded up."""
    maps = [first]
    while len(maps) < num_stages:
        maps.append(TokenGrid(-(-maps[-1].rows // 2), -(-maps[-1].cols // 2)))
    return maps


def stage_macs(stage: Stage, width: int, heads: int, grid: TokenGrid) -> Macs:
    """Count all blocks of a stage on a map of `grid`: four projections and the MLP per token, two products per window."""
    inner = heads * (width // heads)
    per_token = (4 * inner + 2 * stage.expansion * width) * width
    return {
        "linear": float(stage.depth * grid.num_positions * per_token),
        "attention": 2.0 * stage.depth * grid.num_positions**2 / num_windows(grid, stage.splits) * inner,
    }


def closed_form(genotype: Genotype, images_shape: Sequence[int], stride: int, num_classes: int) -> Macs:
    """Count multiply-accumulates of one picture (1, C, H, W) at a stride of the stem, by kind: linear, attention,
    convolution. ValueError for another batch."""
    in_chans, *sides = single_input(images_shape)
    first = stem_map((sides[0], sides[1]), stride)
    dims, stages = genotype.dims, genotype.stages
    maps = stage_maps(first, len(stages))
    macs: Macs = {"linear": 0.0, "attention": 0.0}
    for stage, width, heads, grid in zip(stages, dims, genotype.heads_per_stage, maps):
        for kind, cost in stage_macs(stage, width, heads, grid).items():
            macs[kind] += cost
    for stage, width, next_width, grid in zip(stages[1:], dims, dims[1:], maps[1:]):
        macs["linear"] += grid.num_positions * stage.kernel**2 * width * next_width
    if num_classes > 0:
        macs["linear"] += dims[-1] * (dims[-1] + num_classes)
    macs["convolution"] = float(first.num_positions * stages[0].kernel ** 2 * in_chans * dims[0])
    return macs


def stem_map(sides: Sides, stride: int) -> TokenGrid:
    """Return the stem's map of a picture of `sides` pixels."""
    return TokenGrid(-(-sides[0] // stride), -(-sides[1] // stride))


def num_params(genotype: Genotype, num_classes: int, in_chans: int = 3) -> int:
    """Count the parameters of the model without a position table."""
    dims, stages = genotype.dims, genotype.stages
    total = dims[0] * (stages[0].kernel ** 2 * in_chans + 1 + 2)  # the stem's convolution and norm
    for stage, dim, heads in zip(stages, dims, genotype.heads_per_stage):
        inner, hidden = heads * (dim // heads), stage.expansion * dim
        attention = dim * 3 * inner + 3 * inner + inner * dim + dim
        total += stage.depth * (4 * dim + attention + 2 * dim * hidden + hidden + dim)
    for stage, dim, next_dim in zip(stages[1:], dims, dims[1:]):
        total += stage.kernel**2 * dim * (2 + next_dim)
    return total + dims[-1] * (2 + dims[-1] + 1 + num_classes) + num_classes
