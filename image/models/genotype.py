"""The genotype of an As-ViT: kernels, attention splits, expansions and depths of four stages, heads and width; its cost."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from revit.common.costs.closed_form import Macs, single_input
from revit.common.models.embed.patches import Sides
from revit.common.models.grid import TokenGrid
from revit.common.system.errors import reason_of

NUM_STAGES = 4
MAX_WIDTH = 1024
"""Largest width of a stage (published code; it matters for the Large model only)."""
SEED_WIDTH = 32


@dataclass(frozen=True)
class Stage:
    """The topology of one stage, and its depth."""

    kernel: int
    """Side of the window that embeds the stage's input: pixels in the first stage, tokens of the stage before in others."""
    splits: int
    """Attention windows per side; 1 is global attention."""
    expansion: int
    """Hidden width of the MLP over the stage's width."""
    depth: int = 1

    def __post_init__(self) -> None:
        for name in ("kernel", "splits", "expansion", "depth"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} of a stage is {getattr(self, name)}; it must be 1 or more")


@dataclass(frozen=True)
class Genotype:
    """An As-ViT architecture (As-ViT figure 1 and table 1).

    As text `K,S,E,L|K,S,E,L|K,S,E,L|K,S,E,L|heads,width`; depths L and the width may be left out and are then 1 and 32.
    """

    stages: tuple[Stage, ...]
    heads: int
    """Heads of the last stage; every stage before it has half as many."""
    width: int = SEED_WIDTH
    """Width of the first stage; every stage after it has twice as much, up to `MAX_WIDTH`."""

    def __post_init__(self) -> None:
        if len(self.stages) != NUM_STAGES:
            raise ValueError(f"an As-ViT has {NUM_STAGES} stages, not {len(self.stages)}")
        smallest = 2 ** (NUM_STAGES - 1)
        if self.heads % smallest or self.heads < smallest:
            raise ValueError(
                f"heads of the last stage are {self.heads}; the first stage has an eighth of them, so choose a multiple "
                f"of {smallest}"
            )
        narrow = [dim for dim, heads in zip(self.dims, self.heads_per_stage) if dim < heads]
        if narrow:
            raise ValueError(
                f"a stage of width {narrow[0]} has more heads than channels; raise width {self.width} or lower heads "
                f"{self.heads}"
            )
        if self.stages[0].kernel < NUM_STAGES:
            raise ValueError(
                f"the first kernel is {self.stages[0].kernel}; it has to cover the stem's stride of {NUM_STAGES} pixels"
            )
        if any(stage.kernel < 2 for stage in self.stages[1:]):
            raise ValueError("kernels after the first have to cover their stride of 2 tokens")

    @classmethod
    def parse(cls, text: str) -> Genotype:
        """Read the text form. Raises ValueError for anything else."""
        parts = [part.split(",") for part in re.sub(r"\s", "", text).replace("/", "|").split("|")]
        try:
            numbers = [[int(number) for number in part] for part in parts]
        except ValueError:
            numbers = []
        fits = len(numbers) == NUM_STAGES + 1 and len(numbers[-1]) in (1, 2)
        if not fits or any(len(stage) not in (3, 4) for stage in numbers[:-1]):
            raise ValueError(
                f"{text!r} is not an As-ViT genotype; write kernel,splits,expansion,depth of four stages and "
                "heads,width of the last and the first, as in 8,2,3,1|4,1,2,1|4,1,4,1|4,1,6,1|32,32"
            )
        return cls(tuple(Stage(*stage) for stage in numbers[:-1]), *numbers[-1])

    def __str__(self) -> str:
        stages = (f"{one.kernel},{one.splits},{one.expansion},{one.depth}" for one in self.stages)
        return "|".join([*stages, f"{self.heads},{self.width}"])

    @property
    def dims(self) -> tuple[int, ...]:
        """Width of every stage."""
        return tuple(min(MAX_WIDTH, self.width * 2**number) for number in range(NUM_STAGES))

    @property
    def heads_per_stage(self) -> tuple[int, ...]:
        """Attention heads of every stage."""
        return tuple(self.heads // 2 ** (NUM_STAGES - 1 - number) for number in range(NUM_STAGES))

    @property
    def depths(self) -> tuple[int, ...]:
        """Blocks of every stage."""
        return tuple(stage.depth for stage in self.stages)

    def grown(self, depths: tuple[int, ...] | None = None, width: int | None = None) -> Genotype:
        """Return the same topology with other depths, another width, or both."""
        stages = self.stages
        if depths is not None:
            stages = tuple(replace(stage, depth=depth) for stage, depth in zip(stages, depths))
        return replace(self, stages=stages, width=self.width if width is None else width)


def read_genotype(text_or_file: str) -> Genotype:
    """Read a genotype from its text, or from a file with nothing but that. Raises ValueError where neither is one."""
    if "|" in text_or_file:
        return Genotype.parse(text_or_file)
    try:
        text = Path(text_or_file).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"no genotype, and no file that can be read ({reason_of(error)})") from None
    return Genotype.parse(text)


SEED_TOPOLOGY = Genotype.parse("8,2,3|4,1,2|4,1,4|4,1,6|32")
"""Topology that the paper's search found (section 5.1)."""
PUBLISHED: dict[str, Genotype] = {
    "asvit_seed": SEED_TOPOLOGY,
    "asvit_small": SEED_TOPOLOGY.grown((3, 1, 4, 2), 88),
    "asvit_base": SEED_TOPOLOGY.grown((3, 1, 5, 2), 116),
    "asvit_large": SEED_TOPOLOGY.grown((5, 2, 5, 2), 180),
}
"""The seed and the three models grown from it (table 5)."""


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


def closed_form(genotype: Genotype, images_shape: Sequence[int], stride: int, num_classes: int) -> Macs:
    """Count multiply-accumulates of one picture (1, C, H, W) at a stride of the stem, by kind: linear, attention,
    convolution. Of a block: four projections and the MLP per token, two products per window. ValueError for another batch."""
    in_chans, *sides = single_input(images_shape)
    first = stem_map((sides[0], sides[1]), stride)
    dims, stages = genotype.dims, genotype.stages
    maps = stage_maps(first, len(stages))
    macs: Macs = {"linear": 0.0, "attention": 0.0}
    for stage, width, heads, grid in zip(stages, dims, genotype.heads_per_stage, maps):
        inner = heads * (width // heads)
        per_token = (4 * inner + 2 * stage.expansion * width) * width
        macs["linear"] += stage.depth * grid.num_positions * per_token
        macs["attention"] += 2.0 * stage.depth * grid.num_positions**2 / num_windows(grid, stage.splits) * inner
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
