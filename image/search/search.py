"""The search for a topology: policy gradient, rewarded by complexity and trainability (As-ViT section 3.3)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from revit.image.models.genotype import Genotype
from revit.image.search.evaluations import Evaluate, OutOfBudget
from revit.image.search.options import SearchOptions
from revit.image.search.policy import Policy
from revit.image.search.reward import MovingBaseline, RangeReward
from revit.image.search.space import CHOICES, topology


@dataclass(frozen=True)
class Step:
    """What a step drew, what was measured of it, and what the policy became."""

    number: int
    genotype: Genotype
    complexity: float
    condition: float
    failed: bool
    reward: float
    advantage: float
    entropy: float
    """Of the policy after the step, in nats."""

    def record(self) -> dict[str, Any]:
        """As JSON values; measures of a network that has none are null."""
        values = {"complexity": self.complexity, "condition": self.condition}
        numbers = {name: None if self.failed else value for name, value in values.items()}
        rest = {"reward": self.reward, "advantage": self.advantage, "entropy": self.entropy}
        return {"step": self.number, "genotype": str(self.genotype), **numbers, **rest}


@dataclass(frozen=True)
class Search:
    """A search, finished or cut short."""

    seed: int
    genotype: Genotype
    """Every choice's most probable value."""
    steps: tuple[Step, ...]
    complete: bool


def search(
    options: SearchOptions, seed: int, evaluate: Evaluate, heard: Callable[[Step], None] = lambda _: None
) -> Search:
    """Draws one topology a step and improves the policy by its reward; `heard` gets every step when it is done.

    A function of its arguments: nothing else is remembered from one step to the next, so a search that is started again
    with the same measurements does the same.
    """
    policy = Policy([len(values) for values in CHOICES.values()], seed, options.lr)
    rewards, baseline = RangeReward(options.window), MovingBaseline(options.momentum)
    number_of_steps = min(options.steps, options.budget.steps or options.steps)
    steps: list[Step] = []
    while len(steps) < number_of_steps:
        drawn = policy.draw(len(steps))
        genotype = _topology(drawn, options.width)
        try:
            (measured,) = evaluate([genotype], seed)
        except OutOfBudget:
            break
        reward = rewards(measured.complexity, measured.condition)
        advantage = baseline.advantage(reward)
        policy.update(drawn, advantage)
        measures = (measured.complexity, measured.condition, measured.failed)
        steps.append(Step(len(steps), genotype, *measures, reward, advantage, policy.entropy()))
        heard(steps[-1])
    return Search(seed, _topology(policy.best(), options.width), tuple(steps), len(steps) == options.steps)


def _topology(places: tuple[int, ...], width: int) -> Genotype:
    return topology([values[place] for values, place in zip(CHOICES.values(), places)], width)
