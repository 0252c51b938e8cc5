"""What a found topology is compared with: topologies drawn at random, by the search's own measure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from revit.image.models.genotype import Genotype
from revit.image.search.evaluations import Evaluate, Measured
from revit.image.search.space import CHOICES, topology, values_of

FRESH = 1_000_003
"""Added to a seed: weights that no search has drawn."""


def random_topologies(number: int, seed: int, width: int) -> list[Genotype]:
    """Different ones, every choice uniform."""
    rng = np.random.default_rng([seed, 6])
    drawn: dict[Genotype, None] = {}
    while len(drawn) < number:
        drawn[topology([int(rng.choice(values)) for values in CHOICES.values()], width)] = None
    return list(drawn)


def scores(measured: Sequence[Measured]) -> list[float]:
    """What the search climbs, for a set measured together: complexity minus the mean over the range, minus the same for the
    NTK's condition. The difference of two scores is the reward of going from one to the other. Failed ones are the worst."""
    known = [one for one in measured if not one.failed]
    if not known:
        return [0.0] * len(measured)
    found = [_scaled([getattr(one, name) for one in known]) for name in ("complexity", "condition")]
    good = iter([complexity - condition for complexity, condition in zip(*found)])
    return [-2.0 if one.failed else next(good) for one in measured]


def _scaled(values: Sequence[float]) -> list[float]:
    span = max(values) - min(values) or 1.0
    return [(value - sum(values) / len(values)) / span for value in values]


@dataclass(frozen=True)
class Comparison:
    """A found topology among random ones."""

    seed: int
    found: Genotype
    score: float
    random: tuple[float, ...]
    best: Genotype
    """Of the random ones."""
    measured: Measured
    """Of the found one, with weights that the search has not seen."""
    mean_complexity: float
    """Of the random ones."""
    mean_condition: float

    @property
    def beaten(self) -> float:
        """Share of the random topologies with a lower score."""
        return sum(score < self.score for score in self.random) / len(self.random)

    def record(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "seed": self.seed,
            "found": str(self.found),
            "score": self.score,
            "random_mean": sum(self.random) / len(self.random),
            "random_best": max(self.random),
            "best_random_topology": str(self.best),
            "share_beaten": self.beaten,
            "complexity": None if self.measured.failed else self.measured.complexity,
            "condition": None if self.measured.failed else self.measured.condition,
            "random_complexity": self.mean_complexity,
            "random_condition": self.mean_condition,
        }


def compare(found: Genotype, seed: int, number: int, draw: int, width: int, evaluate: Evaluate) -> Comparison:
    """Measures the found topology and `number` random ones, all with fresh weights."""
    others = random_topologies(number, draw, width)
    measured = evaluate([found, *others], seed + FRESH)
    score, *random = scores(measured)
    known = [one for one in measured[1:] if not one.failed] or measured[1:]
    return Comparison(
        seed,
        found,
        score,
        tuple(random),
        others[int(np.argmax(random))],
        measured[0],
        sum(one.complexity for one in known) / len(known),
        sum(one.condition for one in known) / len(known),
    )


def statistics(found: Sequence[Genotype]) -> dict[str, tuple[float, float]]:
    """Mean of every choice over several searches, and its standard deviation over the mean (As-ViT table 3)."""
    rows = {name: [values_of(one)[name] for one in found] for name in CHOICES}
    return {name: (float(np.mean(row)), float(np.std(row) / np.mean(row))) for name, row in rows.items()}
