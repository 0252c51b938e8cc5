"""Budgets: what a user may ask for, the calibrated curve it is looked up in, the operating point it comes to."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from pydantic import Field, ValidationError, model_validator
from typing_extensions import Self

from revit.common.config.options import Options
from revit.common.methods.revit.asked import Budget as Budget
from revit.common.methods.revit.policy import LengthPolicy, Steps
from revit.common.models.grid import TokenGrid

KEY = "budget_curve"
"""Of a checkpoint's extra facts."""
TOLERANCE = 0.005
"""A budget may lie outside by so much of itself: figures are copied from tables that round."""


@dataclass(frozen=True)
class Milliseconds:
    """Of one input at every grid, longest first, and of the assigner; as measured."""

    grids: tuple[float, ...]
    assigner: float
    how: str


class Point(Options):
    """One operating point, as the calibration split showed it."""

    gmacs: float = Field(ge=0)
    """Mean over views, with the assigner where it is asked."""
    top1: float = Field(ge=0, le=100)
    """Percent, after `BudgetCurve`'s fit."""
    measured: float = Field(ge=0, le=100)
    """Percent, as it was."""
    interval: tuple[float, float]
    """95 % (Wilson) of what was measured."""
    share: dict[str, float]
    """Grid -> fraction of the views."""
    how: Literal["fixed", "dealt", "assigner"]
    """All at one grid; lengths dealt out and nobody asked; by the assigner."""
    threshold: float | None = None
    """Of the assigner's log odds that a grid suffices."""


class BudgetCurve(Options):
    """Accuracy over cost from the shortest grid for all to the longest for all.

    `points[].top1` is the isotonic (least squares, never falling) fit of what was measured: with more compute a curve from
    a few hundred samples falls here and there by chance. `fits` says whether every fitted value lies within the interval of
    its measured one; if not, the model really does worse with more tokens somewhere.

    Up to `dealt_up_to` GMACs lengths are dealt out without the assigner, which there costs more than it gains.
    """

    split: str
    num_samples: int = Field(ge=1)
    num_views: int = Field(ge=1)
    grids: dict[str, float]
    """Grid -> GMACs of one view, longest first."""
    assigner_gmacs: float = Field(ge=0)
    points: tuple[Point, ...] = Field(min_length=2)
    """From the cheapest to the dearest."""
    fits: bool
    dealt_up_to: float
    steps_gmacs: tuple[float, ...] = Field(min_length=1)
    steps_thresholds: tuple[float, ...]

    @model_validator(mode="after")
    def _check(self) -> Self:
        """What `at` and `choose` rely on."""
        costs, top1 = [point.gmacs for point in self.points], [point.top1 for point in self.points]
        if any(later <= before for before, later in pairwise(costs)):
            raise ValueError("the points' costs do not rise")
        if any(later < before - 1e-9 for before, later in pairwise(top1)):
            raise ValueError("the points' accuracies fall")
        if any(set(point.share) != set(self.grids) for point in self.points):
            raise ValueError("the points' shares are not of its grids")
        prices = list(self.grids.values())
        if not all(longer > shorter > 0 for longer, shorter in pairwise(prices)):
            raise ValueError("its grids do not go from the dearest to the cheapest")
        if len(self.steps_gmacs) != len(self.steps_thresholds):
            raise ValueError("steps and thresholds differ in number")
        if any(later < before for before, later in pairwise(self.steps_gmacs)):
            raise ValueError("the steps' costs fall")
        return self

    @property
    def steps(self) -> Steps:
        """The thresholds of the assigner's decisions."""
        return Steps(self.steps_gmacs, self.steps_thresholds)

    @classmethod
    def read(cls, facts: Mapping[str, Any], grids: Sequence[TokenGrid]) -> BudgetCurve | None:
        """The one among a checkpoint's extra facts; None where there is none. ValueError if it is damaged or of other grids."""
        if KEY not in facts:
            return None
        try:
            curve = cls.model_validate(facts[KEY])
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, (KEY, *first["loc"])))
            raise ValueError(f"{place}: {first['msg'].removeprefix('Value error, ')}") from None
        names = [grid.name for grid in grids]
        if list(curve.grids) != names:
            raise ValueError(f"it is of the grids {', '.join(curve.grids)}, not {', '.join(names)}")
        return curve

    def is_of(self, costs: Mapping[str, float]) -> bool:
        """Whether a model's grids (name -> GMACs of a view) cost what they did when this was calibrated."""
        return list(costs) == list(self.grids) and all(
            math.isclose(costs[name], gmacs, rel_tol=1e-3) for name, gmacs in self.grids.items()
        )

    def summary(self) -> dict[str, Any]:
        """What a report shows of it, as JSON values."""
        return self.model_dump(mode="json", exclude={"steps_gmacs", "steps_thresholds"})

    def ranges(self, milliseconds: Milliseconds | None = None) -> str:
        """What can be asked for, in words."""
        low, high = self.points[0].gmacs, self.points[-1].gmacs
        parts = [f"gmacs:{low:.4g} to gmacs:{high:.4g}"]
        if milliseconds is not None:
            times = [self.milliseconds_of(point, milliseconds) for point in self.points]
            parts.append(f"ms:{min(times):.4g} to ms:{max(times):.4g}")
        else:
            parts.append("ms: what these take here, measured when asked for")
        return ", ".join([*parts, f"drop:0 to drop:{self.points[-1].top1 - self.points[0].top1:.4g}"])

    def milliseconds_of(self, point: Point, milliseconds: Milliseconds) -> float:
        """Of one input in the mean."""
        shares = (point.share.get(name, 0.0) for name in self.grids)
        mean = sum(share * each for share, each in zip(shares, milliseconds.grids))
        return mean + (milliseconds.assigner if point.how == "assigner" else 0.0)

    def choose(self, budget: Budget, milliseconds: Callable[[], Milliseconds]) -> Choice:
        """The operating point for a budget. `milliseconds` is asked for ms budgets only.

        Raises ValueError, which names what can be asked for, if it is out of reach.
        """
        if budget.unit == "drop":
            return self._least(budget)
        if budget.unit == "ms":
            return self._within(budget, milliseconds())
        low, high = self.points[0].gmacs, self.points[-1].gmacs
        self._check_range(budget, low, high)
        return Choice(budget, self.at(min(max(budget.amount, low), high)))

    def at(self, gmacs: float) -> Point:
        """The operating point of this mean cost, between the stored ones in proportion."""
        costs = [point.gmacs for point in self.points]
        if gmacs in (costs[0], costs[-1]):
            return self.points[0 if gmacs == costs[0] else -1]

        def between(values: Sequence[float]) -> float:
            return float(np.interp(gmacs, costs, values))

        dealt = gmacs <= self.dealt_up_to
        return Point(
            gmacs=gmacs,
            top1=between([point.top1 for point in self.points]),
            measured=between([point.measured for point in self.points]),
            interval=(
                between([point.interval[0] for point in self.points]),
                between([point.interval[1] for point in self.points]),
            ),
            share={
                name: between([point.share.get(name, 0.0) for point in self.points]) for name in self.grids
            },
            how="dealt" if dealt else "assigner",
            threshold=None if dealt else self.steps.threshold(gmacs),
        )

    def policy(self, point: Point, hold: bool) -> LengthPolicy:
        """What gives inputs their grids at an operating point of this curve."""
        steps = self.steps if point.how == "assigner" else None
        return LengthPolicy(
            point.gmacs, list(self.grids.values()), self.assigner_gmacs, steps, hold and point.how != "fixed"
        )

    def _least(self, budget: Budget) -> Choice:
        """The cheapest stored point that loses no more than this."""
        wanted = self.points[-1].top1 - budget.amount - 1e-9
        return Choice(budget, next(point for point in self.points if point.top1 >= wanted))

    def _within(self, budget: Budget, milliseconds: Milliseconds) -> Choice:
        """The point of most GMACs that takes no longer than this; where the next one does, up to where it would."""
        times = [self.milliseconds_of(point, milliseconds) for point in self.points]
        try:
            self._check_range(budget, min(times), max(times))
        except ValueError as error:
            raise ValueError(f"{error} ({milliseconds.how})") from None
        amount = max(budget.amount, min(times))
        number = max(index for index, time in enumerate(times) if time <= amount * (1 + 1e-9))
        point = self.points[number]
        if number + 1 < len(self.points):
            following = self.points[number + 1]
            part = (amount - times[number]) / (times[number + 1] - times[number])
            inner = self.at(point.gmacs + part * (following.gmacs - point.gmacs))
            # A change from dealing to asking is a jump: the assigner's time comes at once.
            if self.milliseconds_of(inner, milliseconds) <= amount * (1 + TOLERANCE):
                point = inner
        return Choice(budget, point, milliseconds)

    def _check_range(self, budget: Budget, low: float, high: float) -> None:
        if not low * (1 - TOLERANCE) <= budget.amount <= high * (1 + TOLERANCE):
            raise ValueError(
                f"{budget} is out of reach: {low:.4g} is what all inputs at {list(self.grids)[-1]} take, {high:.4g} the most "
                f"the model can use; {budget.unit}:{low:.4g} to {budget.unit}:{high:.4g} can be asked for"
            )


@dataclass(frozen=True)
class Choice:
    """A budget and the operating point it came to."""

    budget: Budget
    point: Point
    milliseconds: Milliseconds | None = None

    @property
    def holds(self) -> bool:
        """Whether a cost was asked for, which can be held to; an accuracy is that of one threshold."""
        return self.budget.unit != "drop"

    def predicted(self, curve: BudgetCurve) -> dict[str, Any]:
        """What the calibration split lets expect, as JSON values."""
        point = self.point
        figures: dict[str, Any] = {
            "gmacs": point.gmacs,
            "top1": point.top1,
            "interval": list(point.interval),
            "share": point.share,
        }
        if self.milliseconds is not None:
            figures["ms"] = curve.milliseconds_of(point, self.milliseconds)
        return figures
