"""The topologies (As-ViT table 1) and the search among them: policy gradient, rewarded by complexity and trainability (As-ViT section 3.3, algorithm 1)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from revit.image.models.genotype import SEED_WIDTH, Genotype, Stage
from revit.image.search.measure import Evaluate, Measured, OutOfBudget
from revit.image.search.options import SearchOptions, Window

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


def compare(found: Genotype, seed: int, number: int, draw: int, width: int, evaluate: Evaluate) -> dict[str, Any]:
    """Measure the found topology and `number` random ones, all with weights that the search has not seen -> JSON values."""
    others = random_topologies(number, draw, width)
    measured = evaluate([found, *others], seed + FRESH)
    score, *random = scores(measured)
    known = [one for one in measured[1:] if not one.failed] or measured[1:]
    return {
        "seed": seed,
        "found": str(found),
        "score": score,
        "random_mean": sum(random) / len(random),
        "random_best": max(random),
        "best_random_topology": str(others[int(np.argmax(random))]),
        "share_beaten": sum(one < score for one in random) / len(random),
        **measured[0].record(),
        "random_complexity": sum(one.complexity for one in known) / len(known),
        "random_condition": sum(one.condition for one in known) / len(known),
    }


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


RECENT = 20
"""Number of the latest values whose range normalises a reward."""
EPS = 1e-6


class Policy:
    """Independent categorical distributions, one for each choice, improved by REINFORCE.

    Logits start as 0.001 * normal (published code). The draw of step t depends on the seed, t and the logits alone, so that
    a policy that took the same updates goes on alike.
    """

    def __init__(self, sizes: Sequence[int], seed: int, lr: float = 0.08) -> None:
        """`sizes`: number of values of each choice."""
        self.seed = seed
        generator = torch.Generator().manual_seed(seed)
        self.logits = [
            (0.001 * torch.randn(size, generator=generator, dtype=torch.float64)).requires_grad_() for size in sizes
        ]
        self.optimizer = torch.optim.Adam(self.logits, lr=lr)

    def draw(self, step: int) -> tuple[int, ...]:
        """Draw the position of a value for every choice."""
        uniform = np.random.default_rng([self.seed, step]).random(len(self.logits))
        edges = [probabilities.cumsum(0).numpy()[:-1] for probabilities in self._probabilities()]
        return tuple(int(np.searchsorted(edge, number, "right")) for edge, number in zip(edges, uniform))

    def update(self, drawn: Sequence[int], advantage: float) -> None:
        """Take one step of Adam on -log probability of `drawn` * `advantage`."""
        chosen = [logits.log_softmax(0)[place] for logits, place in zip(self.logits, drawn, strict=True)]
        self.optimizer.zero_grad()
        (-advantage * torch.stack(chosen).sum()).backward()
        self.optimizer.step()

    def best(self) -> tuple[int, ...]:
        """Return the position of every choice's most probable value."""
        return tuple(int(logits.argmax()) for logits in self.logits)

    def entropy(self) -> float:
        """Return the entropy in nats."""
        return float(sum(-(p * p.log()).sum() for p in self._probabilities()))

    def _probabilities(self) -> list[Tensor]:
        return [logits.detach().softmax(0) for logits in self.logits]


class RangeReward:
    """The change of the complexity over that measure's range, minus the same for the NTK's condition (As-ViT algorithm 1,
    line 5), from one topology to the next. The first reward is 0.

    A topology that could not be measured (a value that is not finite) counts as the worst so far in both measures; before
    any was measured, it is left out and its reward is 0. The published code means to do so and forgets the flag on the way;
    its -1 for a condition that is NaN would then be the best there is.
    """

    def __init__(self, window: Window = "recent") -> None:
        self.window = window
        self.complexities: list[float] = []
        self.conditions: list[float] = []

    def __call__(self, complexity: float, condition: float) -> float:
        if not (math.isfinite(complexity) and math.isfinite(condition)):
            if not self.complexities:
                return 0.0
            complexity, condition = min(self.complexities), max(self.conditions)
        self.complexities.append(complexity)
        self.conditions.append(condition)
        return self._change(self.complexities) - self._change(self.conditions)

    def _change(self, values: list[float]) -> float:
        if len(values) < 2:
            return 0.0
        ranged = values[-RECENT:] if self.window == "recent" else values
        return (values[-1] - values[-2]) / (max(ranged) - min(ranged) + EPS)


class MovingBaseline:
    """Exponential moving average of the rewards, corrected for its start; each reward is in it before the average is
    subtracted from it (published code; the paper names no baseline)."""

    def __init__(self, momentum: float = 0.9) -> None:
        self.momentum = momentum
        self.numerator = self.denominator = 0.0

    def advantage(self, reward: float) -> float:
        """Return the reward minus the baseline."""
        self.numerator = self.momentum * self.numerator + (1 - self.momentum) * reward
        self.denominator = self.momentum * self.denominator + (1 - self.momentum)
        return reward - self.numerator / self.denominator


@dataclass(frozen=True)
class Step:
    """A topology drawn, its measures, and the policy after its reward."""

    number: int
    genotype: Genotype
    measured: Measured
    reward: float
    advantage: float
    entropy: float
    """Entropy of the policy after the step, in nats."""

    def record(self) -> dict[str, Any]:
        """Return JSON values."""
        rest = {"reward": self.reward, "advantage": self.advantage, "entropy": self.entropy}
        return {"step": self.number, "genotype": str(self.genotype), **self.measured.record(), **rest}


@dataclass(frozen=True)
class Search:
    """A search, finished or cut short."""

    seed: int
    genotype: Genotype
    """Every choice's most probable value."""
    steps: tuple[Step, ...]
    complete: bool


def search(
    options: SearchOptions, seed: int, evaluate: Evaluate, on_step: Callable[[Step], None] = lambda _: None
) -> Search:
    """Draw one topology a step and improve the policy by its reward; call `on_step` after every step.

    A function of its arguments: nothing else is remembered from one step to the next, so a search that is started again
    with the same measurements does the same.
    """
    policy = Policy([len(values) for values in CHOICES.values()], seed, options.lr)
    rewards, baseline = RangeReward(options.window), MovingBaseline(options.momentum)
    steps: list[Step] = []
    for number in range(min(options.steps, options.budget.steps or options.steps)):
        drawn = policy.draw(number)
        genotype = _topology(drawn, options.width)
        try:
            (measured,) = evaluate([genotype], seed)
        except OutOfBudget:
            break
        reward = rewards(measured.complexity, measured.condition)
        advantage = baseline.advantage(reward)
        policy.update(drawn, advantage)
        steps.append(Step(number, genotype, measured, reward, advantage, policy.entropy()))
        on_step(steps[-1])
    return Search(seed, _topology(policy.best(), options.width), tuple(steps), len(steps) == options.steps)


def _topology(places: Sequence[int], width: int) -> Genotype:
    return topology([values[place] for values, place in zip(CHOICES.values(), places)], width)
