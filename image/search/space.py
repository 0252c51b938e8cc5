"""The topologies that are searched (As-ViT table 1), and a found one compared with others drawn at random."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from revit.image.models.genotype import SEED_WIDTH, Genotype, Stage
from revit.image.search.measure import Evaluate, Measured

CHOICES: dict[str, tuple[int, ...]] = {
    "K1": (4, 5, 6, 7, 8),
    "S1": (2, 4, 8),
    "E1": (2, 3, 4, 5, 6),
    "K2": (2, 3, 4),
    "S2": (1, 2, 4),
    "E2": (2, 3, 4, 5, 6),
    "K3": (2, 3, 4),
    "S3": (1, 2),
    "E3": (2, 3, 4, 5, 6),
    "K4": (2, 3, 4),
    "E4": (2, 3, 4, 5, 6),
    "heads": (16, 32, 64),
}
"""Name and values of every choice: kernel, splits and expansion by stage, and the last stage's heads. The last stage, whose
map is small, has no splits."""

PAPER_MEANS = dict(zip(CHOICES, (7.3, 4.0, 3.3, 4.0, 2.7, 3.9, 4.0, 1.5, 4.2, 4.0, 5.2, 42.7)))
"""Mean of every choice over the paper's searches on ImageNet (table 3)."""

UNIFORM_ENTROPY = sum(math.log(len(values)) for values in CHOICES.values())
"""Entropy of a uniform policy in nats: 15.33."""

FRESH = 1_000_003
"""Offset to a seed, for weights that no search has drawn."""


def topology(values: Sequence[int], width: int = SEED_WIDTH) -> Genotype:
    """Return the genotype of twelve values, in the order of `CHOICES`, with one block a stage."""
    chosen = dict(zip(CHOICES, values, strict=True)) | {"S4": 1}
    stages = tuple(Stage(chosen[f"K{n}"], chosen[f"S{n}"], chosen[f"E{n}"]) for n in (1, 2, 3, 4))
    return Genotype(stages, chosen["heads"], width)


def values_of(genotype: Genotype) -> dict[str, int]:
    """Return the value of every choice, by its name."""
    found = {"heads": genotype.heads}
    for number, stage in enumerate(genotype.stages, 1):
        found |= {f"K{number}": stage.kernel, f"S{number}": stage.splits, f"E{number}": stage.expansion}
    return {name: found[name] for name in CHOICES}


def statistics(found: Sequence[Genotype]) -> dict[str, tuple[float, float]]:
    """Return the mean of every choice over several searches, and its standard deviation over the mean (As-ViT table 3)."""
    rows = {name: [values_of(one)[name] for one in found] for name in CHOICES}
    return {name: (float(np.mean(row)), float(np.std(row) / np.mean(row))) for name, row in rows.items()}


def random_topologies(number: int, seed: int, width: int) -> list[Genotype]:
    """Draw different topologies, every choice uniform."""
    rng = np.random.default_rng([seed, 6])
    drawn: dict[Genotype, None] = {}
    while len(drawn) < number:
        drawn[topology([int(rng.choice(values)) for values in CHOICES.values()], width)] = None
    return list(drawn)


@dataclass(frozen=True)
class Comparison:
    """A found topology among random ones."""

    seed: int
    found: Genotype
    measured: Measured
    """Measures of the found one, with weights that the search has not seen."""
    score: float
    random: tuple[float, ...]
    """Scores of the random ones."""
    best: Genotype
    """The random one with the highest score."""
    mean_complexity: float
    """Mean complexity of the random ones."""
    mean_condition: float
    """Mean condition of the random ones."""

    @property
    def beaten(self) -> float:
        """Share of the random topologies with a lower score."""
        return sum(score < self.score for score in self.random) / len(self.random)

    @property
    def random_mean(self) -> float:
        """Mean score of the random ones."""
        return sum(self.random) / len(self.random)

    def record(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "seed": self.seed,
            "found": str(self.found),
            "score": self.score,
            "random_mean": self.random_mean,
            "random_best": max(self.random),
            "best_random_topology": str(self.best),
            "share_beaten": self.beaten,
            **self.measured.record(),
            "random_complexity": self.mean_complexity,
            "random_condition": self.mean_condition,
        }


def compare(found: Genotype, seed: int, number: int, draw: int, width: int, evaluate: Evaluate) -> Comparison:
    """Measure the found topology and `number` random ones, all with fresh weights."""
    others = random_topologies(number, draw, width)
    measured = evaluate([found, *others], seed + FRESH)
    score, *random = scores(measured)
    known = [one for one in measured[1:] if not one.failed] or measured[1:]
    means = (sum(getattr(one, name) for one in known) / len(known) for name in ("complexity", "condition"))
    return Comparison(seed, found, measured[0], score, tuple(random), others[int(np.argmax(random))], *means)


def scores(measured: Sequence[Measured]) -> list[float]:
    """Return what the search climbs, for a set measured together: complexity minus the mean over the range, minus the same
    for the NTK's condition. The difference of two scores is the reward of going from one to the other; -2 for failures."""
    known = [one for one in measured if not one.failed]
    if not known:
        return [0.0] * len(measured)
    scaled = [_scaled([getattr(one, name) for one in known]) for name in ("complexity", "condition")]
    good = iter([complexity - condition for complexity, condition in zip(*scaled)])
    return [-2.0 if one.failed else next(good) for one in measured]


def _scaled(values: Sequence[float]) -> list[float]:
    span = max(values) - min(values) or 1.0
    return [(value - sum(values) / len(values)) / span for value in values]
