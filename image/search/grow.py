"""Growth in depth and width by comparing complexities (As-ViT section 3.4, algorithm 2)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from revit.common.models.embed.patches import Sides
from revit.image.models.asvit import STEM_STRIDE
from revit.image.models.genotype import NUM_STAGES, Genotype, closed_form, num_params
from revit.image.search.measure import Evaluate, Measured, OutOfBudget
from revit.image.search.options import GrowOptions, Ties


@dataclass(frozen=True)
class Choice:
    """One way to go on."""

    narrow: Genotype
    """The genotype that is measured."""
    genotype: Genotype
    """The genotype that it stands for: the same, several times as wide."""
    params: int
    gmacs: float
    measured: Measured | None = None

    def record(self) -> dict[str, Any]:
        """Return JSON values; measures that were not taken, or do not exist, are null."""
        measures = {"complexity": None, "condition": None} if self.measured is None else self.measured.record()
        genotypes = {"genotype": str(self.genotype), "measured_as": str(self.narrow)}
        return {**genotypes, "params": self.params, "gmacs": self.gmacs, **measures}


@dataclass(frozen=True)
class GrowthStep:
    """All choices of a step, their sums of ranks, and which was taken."""

    choices: tuple[Choice, ...]
    sums: tuple[int, ...]
    """Sums of ranks; empty where the choice was drawn."""
    taken: int

    @property
    def choice(self) -> Choice:
        """The choice that was taken."""
        return self.choices[self.taken]

    def record(self) -> dict[str, Any]:
        """Return JSON values."""
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
        """The start and the choice of every step: a series of models from one run."""
        return [self.start, *(step.choice for step in self.steps)]

    def record(self) -> dict[str, Any]:
        """Return JSON values."""
        steps = [step.record() for step in self.steps]
        return {"complete": self.complete, "start": self.start.record(), "steps": steps}


Take = Callable[[list[Choice]], GrowthStep]
"""Takes one of the choices, measured or not."""


def by_rank(options: GrowOptions, evaluate: Evaluate) -> Take:
    """Take the choice with the smallest sum of ranks."""

    def take(choices: list[Choice]) -> GrowthStep:
        measured = evaluate([choice.narrow for choice in choices], options.seed)
        known = tuple(replace(choice, measured=one) for choice, one in zip(choices, measured))
        sums = rank_sums(measured)
        return GrowthStep(known, sums, best_of(measured, sums, options.ties))

    return take


def at_random(seed: int) -> Take:
    """Take a random choice; nothing is measured."""
    rng = np.random.default_rng([seed, 5])
    return lambda choices: GrowthStep(tuple(choices), (), int(rng.integers(len(choices))))


def grow(
    options: GrowOptions,
    seed: Genotype,
    sides: Sides,
    take: Take,
    on_step: Callable[[GrowthStep], None] = lambda _: None,
) -> Growth:
    """Grow from one block a stage on, one block and some width a step.

    `sides` are those of the pictures, for the cost. A function of its arguments, as `search`.
    """
    start = _choice(options, seed.grown((1,) * NUM_STAGES, options.start_width), sides)
    steps: list[GrowthStep] = []
    try:
        start = at = take([start]).choice
        while at.params < options.stop_params:
            if len(steps) == options.budget.steps:
                return Growth(start, tuple(steps), complete=False)
            wider = (_choice(options, genotype, sides) for genotype in grown_genotypes(at.narrow, options.ratios))
            choices = [choice for choice in wider if choice.params <= options.max_params]
            if not choices:
                break
            steps.append(take(choices))
            on_step(steps[-1])
            at = steps[-1].choice
    except OutOfBudget:
        return Growth(start, tuple(steps), complete=False)
    return Growth(start, tuple(steps), complete=True)


def grown_genotypes(genotype: Genotype, ratios: Sequence[float]) -> list[Genotype]:
    """Return all genotypes of one block more in one stage, times one of the wider widths; widths that round alike are one."""
    widths = list(dict.fromkeys(round(genotype.width * (1 + ratio)) for ratio in ratios))
    deeper = [
        tuple(depth + (number == stage) for number, depth in enumerate(genotype.depths)) for stage in range(NUM_STAGES)
    ]
    return [genotype.grown(depths, width) for depths in deeper for width in widths]


def rank_sums(measured: Sequence[Measured]) -> tuple[int, ...]:
    """Return the rank by complexity, largest first, plus the rank by the NTK's condition, smallest first; equal values share
    a rank. Failures come last in both."""
    complexities, conditions = _measures(measured)
    by_complexity, by_condition = (
        np.unique(values, return_inverse=True)[1] for values in (-np.array(complexities), conditions)
    )
    return tuple((by_complexity + by_condition).tolist())


def best_of(measured: Sequence[Measured], sums: Sequence[int], ties: Ties = "measure") -> int:
    """Return the position of the smallest sum; among several, see `GrowOptions.ties`."""
    tied = [place for place, total in enumerate(sums) if total == min(sums)]
    if len(tied) == 1:
        return tied[0]
    complexities, conditions = _measures(measured)
    by_complexity = _relative_range(complexities) > _relative_range(conditions)
    if ties == "published":
        values = complexities if by_complexity else conditions
        return min(tied[:2], key=lambda place: values[place])
    if by_complexity:
        return max(tied, key=lambda place: complexities[place])
    return min(tied, key=lambda place: conditions[place])


def _measures(measured: Sequence[Measured]) -> tuple[list[float], list[float]]:
    """Return complexities and conditions, the worst there can be for failures."""
    return (
        [-math.inf if one.failed else one.complexity for one in measured],
        [math.inf if one.failed else one.condition for one in measured],
    )


def _relative_range(values: Sequence[float]) -> float:
    finite = [value for value in values if math.isfinite(value)]
    return (max(finite) - min(finite)) / max(finite) if finite and max(finite) > 0 else 0.0


def _choice(options: GrowOptions, narrow: Genotype, sides: Sides) -> Choice:
    genotype = narrow.grown(width=narrow.width * options.times)
    macs = closed_form(genotype, (1, 3, *sides), STEM_STRIDE, options.num_classes)
    params = num_params(genotype, options.num_classes)
    return Choice(narrow, genotype, params, round(sum(macs.values()) / 1e9, 6))
