"""Growth in depth and width by comparing complexities (As-ViT section 3.4, algorithm 2)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from revit.common.models.embed.patches import Sides
from revit.image.models.asvit import STEM_STRIDE
from revit.image.models.asvit_cost import closed_form
from revit.image.models.genotype import NUM_STAGES, Genotype
from revit.image.search.evaluations import Evaluate, Measured, OutOfBudget
from revit.image.search.options import GrowOptions, Ties


@dataclass(frozen=True)
class Choice:
    """One way to go on."""

    narrow: Genotype
    """What is measured."""
    genotype: Genotype
    """What it stands for: the same, several times as wide."""
    params: int
    gmacs: float
    measured: Measured | None = None

    def record(self) -> dict[str, Any]:
        """As JSON values; measures that were not taken, or do not exist, are null."""
        taken = self.measured is not None and not self.measured.failed
        return {
            "genotype": str(self.genotype),
            "measured_as": str(self.narrow),
            "params": self.params,
            "gmacs": self.gmacs,
            "complexity": self.measured.complexity if taken and self.measured else None,
            "condition": self.measured.condition if taken and self.measured else None,
        }


@dataclass(frozen=True)
class GrowthStep:
    """All choices of a step, their sums of ranks, and which was taken."""

    choices: tuple[Choice, ...]
    sums: tuple[int, ...]
    """Empty where the choice was drawn."""
    taken: int

    @property
    def choice(self) -> Choice:
        return self.choices[self.taken]

    def record(self) -> dict[str, Any]:
        """As JSON values."""
        choices = [choice.record() for choice in self.choices]
        for choice, total in zip(choices, self.sums):
            choice["rank_sum"] = total
        return {"taken": self.choice.record(), "choices": choices}


@dataclass(frozen=True)
class Growth:
    """A growth, finished or cut short."""

    start: Choice
    steps: tuple[GrowthStep, ...]
    complete: bool

    @property
    def models(self) -> list[Choice]:
        """The start and what every step took: a series of models from one run."""
        return [self.start, *(step.choice for step in self.steps)]

    def record(self) -> dict[str, Any]:
        """As JSON values."""
        steps = [step.record() for step in self.steps]
        return {"complete": self.complete, "start": self.start.record(), "steps": steps}


def grow(
    options: GrowOptions,
    seed: Genotype,
    sides: Sides,
    evaluate: Evaluate,
    heard: Callable[[GrowthStep], None] = lambda _: None,
) -> Growth:
    """From one block a stage on, one block and some width a step, the choice with the smallest sum of ranks.

    `sides` are those of the pictures, for the cost. A function of its arguments, as `search`.
    """

    def take(choices: list[Choice], _: int) -> GrowthStep:
        measured = evaluate([choice.narrow for choice in choices], options.seed)
        known = [
            Choice(one.narrow, one.genotype, one.params, one.gmacs, what)
            for one, what in zip(choices, measured)
        ]
        sums = rank_sums(measured)
        return GrowthStep(tuple(known), sums, best_of(measured, sums, options.ties))

    def begin(start: Choice) -> Choice:
        (what,) = evaluate([start.narrow], options.seed)
        return Choice(start.narrow, start.genotype, start.params, start.gmacs, what)

    return _grow(options, seed, sides, take, begin, heard)


def grow_at_random(options: GrowOptions, seed: Genotype, sides: Sides, draw: int) -> Growth:
    """The same choices, taken by lot; nothing is measured. `draw` is the seed."""
    rng = np.random.default_rng([draw, 5])

    def take(choices: list[Choice], _: int) -> GrowthStep:
        return GrowthStep(tuple(choices), (), int(rng.integers(len(choices))))

    return _grow(options, seed, sides, take, lambda start: start, lambda _: None)


def _grow(
    options: GrowOptions,
    seed: Genotype,
    sides: Sides,
    take: Callable[[list[Choice], int], GrowthStep],
    begin: Callable[[Choice], Choice],
    heard: Callable[[GrowthStep], None],
) -> Growth:
    at = _choice(options, seed.grown((1,) * NUM_STAGES, options.start_width), sides)
    steps: list[GrowthStep] = []
    complete = False
    try:
        start = begin(at)
    except OutOfBudget:
        return Growth(at, (), False)
    while options.budget.steps is None or len(steps) < options.budget.steps:
        if at.params >= options.stop_params:
            complete = True
            break
        choices = [_choice(options, narrow, sides) for narrow in grown_genotypes(at.narrow, options.ratios)]
        choices = [choice for choice in choices if choice.params <= options.max_params]
        if not choices:
            complete = True
            break
        try:
            step = take(choices, len(steps))
        except OutOfBudget:
            break
        steps.append(step)
        heard(step)
        at = step.choice
    return Growth(start, tuple(steps), complete or at.params >= options.stop_params)


def grown_genotypes(genotype: Genotype, ratios: Sequence[float]) -> list[Genotype]:
    """One block more in one stage, times one of the wider widths; widths that round alike are one."""
    widths = list(dict.fromkeys(round(genotype.width * (1 + ratio)) for ratio in ratios))
    deeper = [
        tuple(depth + (number == stage) for number, depth in enumerate(genotype.depths))
        for stage in range(NUM_STAGES)
    ]
    return [genotype.grown(depths, width) for depths in deeper for width in widths]


def rank_sums(measured: Sequence[Measured]) -> tuple[int, ...]:
    """Rank by complexity, largest first, plus rank by the NTK's condition, smallest first; equal values share a rank. What
    could not be measured comes last in both."""
    return tuple(
        a + b
        for a, b in zip(_ranks([-one for one in _complexities(measured)]), _ranks(_conditions(measured)))
    )


def best_of(measured: Sequence[Measured], sums: Sequence[int], ties: Ties = "measure") -> int:
    """The position of the smallest sum; among several, see `GrowOptions.ties`."""
    tied = [place for place, total in enumerate(sums) if total == min(sums)]
    if len(tied) == 1:
        return tied[0]
    complexities, conditions = _complexities(measured), _conditions(measured)
    by_complexity = _relative_range(complexities) > _relative_range(conditions)
    if ties == "published":
        values = complexities if by_complexity else conditions
        return min(tied[:2], key=lambda place: values[place])
    if by_complexity:
        return max(tied, key=lambda place: complexities[place])
    return min(tied, key=lambda place: conditions[place])


def _complexities(measured: Sequence[Measured]) -> list[float]:
    return [-math.inf if one.failed else one.complexity for one in measured]


def _conditions(measured: Sequence[Measured]) -> list[float]:
    return [math.inf if one.failed else one.condition for one in measured]


def _ranks(values: Sequence[float]) -> list[int]:
    """0 for the smallest."""
    order = {value: rank for rank, value in enumerate(sorted(set(values)))}
    return [order[value] for value in values]


def _relative_range(values: Sequence[float]) -> float:
    finite = [value for value in values if math.isfinite(value)]
    return (max(finite) - min(finite)) / max(finite) if finite and max(finite) > 0 else 0.0


def _choice(options: GrowOptions, narrow: Genotype, sides: Sides) -> Choice:
    genotype = narrow.grown(width=narrow.width * options.times)
    macs = closed_form(genotype, (1, 3, *sides), STEM_STRIDE, options.num_classes)
    return Choice(
        narrow, genotype, num_params(genotype, options.num_classes), round(sum(macs.values()) / 1e9, 6)
    )


def num_params(genotype: Genotype, num_classes: int, in_chans: int = 3) -> int:
    """Parameters of the model without a position table."""
    dims, stages = genotype.dims, genotype.stages
    total = dims[0] * (stages[0].kernel ** 2 * in_chans + 1 + 2)  # the stem's convolution and norm
    for stage, dim, heads in zip(stages, dims, genotype.heads_per_stage):
        inner, hidden = heads * (dim // heads), stage.expansion * dim
        attention = dim * 3 * inner + 3 * inner + inner * dim + dim
        total += stage.depth * (4 * dim + attention + 2 * dim * hidden + hidden + dim)
    for stage, dim, next_dim in zip(stages[1:], dims, dims[1:]):
        total += stage.kernel**2 * dim * (2 + next_dim)
    return total + dims[-1] * (2 + dims[-1] + 1 + num_classes) + num_classes
