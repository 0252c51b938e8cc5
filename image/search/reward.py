"""From the measures of one topology after another to rewards and advantages."""

from __future__ import annotations

import math
from typing import Literal

Window = Literal["recent", "all"]
"""Values whose range normalises: the last 20 (published code), or all so far (paper)."""
RECENT = 20
EPS = 1e-6


class RangeReward:
    """How much better a topology is than the one before it: the change of its complexity over that measure's range, minus
    the same for the NTK's condition (As-ViT algorithm 1, line 5). The first reward is 0.

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
        """Reward minus baseline."""
        self.numerator = self.momentum * self.numerator + (1 - self.momentum) * reward
        self.denominator = self.momentum * self.denominator + (1 - self.momentum)
        return reward - self.numerator / self.denominator
