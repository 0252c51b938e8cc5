"""Budgets: what a user may ask for, the calibrated curve it is looked up in, the operating point it comes to."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, cast, get_args

import numpy as np
from pydantic import Field, ValidationError, model_validator
from typing_extensions import Self

from revit.common.config.options import Options
from revit.common.methods.base import refuse
from revit.common.methods.revit.adaptive import LengthPolicy, Steps
from revit.common.models.grid import TokenGrid

KEY = "budget_curve"
"""Key among a checkpoint's extra facts."""
TOLERANCE = 0.005
"""Share of itself by which a budget may lie outside: figures are copied from tables that round."""


Unit = Literal["gmacs", "ms", "drop"]
EXAMPLES = "gmacs:130, ms:40 or drop:0.5"


@dataclass(frozen=True)
class Budget:
    """A limit on what inputs cost in the mean, or on what is lost."""

    unit: Unit
    amount: float

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Read `gmacs:130`, `ms:40` or `drop:0.5`. Raise ValueError for anything else."""
        unit, _, number = text.strip().partition(":")
        try:
            amount = float(number)
        except ValueError:
            amount = math.nan
        if unit not in get_args(Unit) or not math.isfinite(amount) or amount < 0:
            raise ValueError(f"{text!r} is no budget; write {EXAMPLES}")
        return cls(cast(Unit, unit), amount)

    def __str__(self) -> str:
        return f"{self.unit}:{self.amount:g}"


@dataclass(frozen=True)
class Milliseconds:
    """Measured milliseconds of one input at every grid, longest first, and of the assigner."""

    grids: tuple[float, ...]
    assigner: float
    how: str


class Point(Options):
    """One operating point, as the calibration split showed it."""

    gmacs: float = Field(ge=0)
    """Mean GMACs over views, with the assigner where it is asked."""
    top1: float = Field(ge=0, le=100)
    """Top-1 in percent, after `BudgetCurve`'s fit."""
    measured: float = Field(ge=0, le=100)
    """Top-1 in percent, as it was."""
    interval: tuple[float, float]
    """Interval of 95 % (Wilson) of what was measured."""
    share: dict[str, float]
    """Grid -> fraction of the views."""
    how: Literal["fixed", "dealt", "assigner"]
    """Rule: all at one grid; assigned at random and nobody asked; by the assigner."""
    threshold: float | None = None
    """Threshold of the assigner's log odds that a grid suffices."""


class BudgetCurve(Options):
    """Accuracy over cost from the shortest grid for all to the longest for all.

    `points[].top1` is the isotonic (least squares, never falling) fit of what was measured: with more compute a curve from
    a few hundred samples falls here and there by chance. `fits` says whether every fitted value lies within the interval of
    its measured one; if not, the model really does worse with more tokens somewhere.

    Up to `dealt_up_to` GMACs grids are assigned at random without the assigner, which there costs more than it gains.
    """

    split: str
    num_samples: int = Field(ge=1)
    num_views: int = Field(ge=1)
    grids: dict[str, float]
    """Grid -> GMACs of one view, longest first."""
    assigner_gmacs: float = Field(ge=0)
    points: tuple[Point, ...] = Field(min_length=2)
    """Operating points from the cheapest to the dearest."""
    fits: bool
    dealt_up_to: float
    steps_gmacs: tuple[float, ...] = Field(min_length=1)
    steps_thresholds: tuple[float, ...]

    @model_validator(mode="after")
    def _check(self) -> Self:
        points, prices = list(pairwise(self.points)), list(self.grids.values())
        faults = {
            "the points' costs do not rise": any(later.gmacs <= before.gmacs for before, later in points),
            "the points' accuracies fall": any(later.top1 < before.top1 - 1e-9 for before, later in points),
            "the points' shares are not of its grids": any(
                set(point.share) != set(self.grids) for point in self.points
            ),
            "its grids do not go from the dearest to the cheapest": any(
                not longer > shorter > 0 for longer, shorter in pairwise(prices)
            ),
            "steps and thresholds differ in number": len(self.steps_gmacs) != len(self.steps_thresholds),
            "the steps' costs fall": any(later < before for before, later in pairwise(self.steps_gmacs)),
        }
        refuse(faults)
        return self

    @property
    def steps(self) -> Steps:
        """Thresholds of the assigner's decisions."""
        return Steps(self.steps_gmacs, self.steps_thresholds)

    @classmethod
    def read(cls, facts: Mapping[str, Any], grids: Sequence[TokenGrid]) -> BudgetCurve | None:
        """Read the curve among a checkpoint's facts, None without. Raise ValueError if it is damaged or of other grids."""
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
        """Say whether a model's grids (name -> GMACs of a view) cost what they did when this was calibrated."""
        return list(costs) == list(self.grids) and all(
            math.isclose(costs[name], gmacs, rel_tol=1e-3) for name, gmacs in self.grids.items()
        )

    def summary(self) -> dict[str, Any]:
        """Return what a report shows of it, as JSON values."""
        return self.model_dump(mode="json", exclude={"steps_gmacs", "steps_thresholds"})

    def ranges(self, milliseconds: Milliseconds | None = None) -> str:
        """Say what can be asked for."""
        cheapest, dearest = self.points[0], self.points[-1]
        ms = "ms: what these take here, measured when asked for"
        if milliseconds is not None:
            times = [self.milliseconds_of(point, milliseconds) for point in self.points]
            ms = f"ms:{min(times):.4g} to ms:{max(times):.4g}"
        drop = dearest.top1 - cheapest.top1
        return f"gmacs:{cheapest.gmacs:.4g} to gmacs:{dearest.gmacs:.4g}, {ms}, drop:0 to drop:{drop:.4g}"

    def milliseconds_of(self, point: Point, milliseconds: Milliseconds) -> float:
        """Return the mean milliseconds of one input."""
        shares = (point.share.get(name, 0.0) for name in self.grids)
        mean = sum(share * each for share, each in zip(shares, milliseconds.grids))
        return mean + (milliseconds.assigner if point.how == "assigner" else 0.0)

    def choose(self, budget: Budget, milliseconds: Callable[[], Milliseconds]) -> Choice:
        """Choose the operating point for a budget; `milliseconds` is asked for ms budgets only. Raise ValueError, which names
        what can be asked for, if it is out of reach."""
        if budget.unit == "drop":  # the cheapest stored point that loses no more than this
            wanted = self.points[-1].top1 - budget.amount - 1e-9
            return Choice(budget, next(point for point in self.points if point.top1 >= wanted))
        if budget.unit == "ms":
            return self._within(budget, milliseconds())
        low, high = self.points[0].gmacs, self.points[-1].gmacs
        self._check_range(budget, low, high)
        return Choice(budget, self.at(min(max(budget.amount, low), high)))

    def at(self, gmacs: float) -> Point:
        """Return the operating point of this mean cost, between the stored ones in proportion."""
        costs = [point.gmacs for point in self.points]
        if gmacs in (costs[0], costs[-1]):
            return self.points[0 if gmacs == costs[0] else -1]

        def between(value: Callable[[Point], float]) -> float:
            return float(np.interp(gmacs, costs, [value(point) for point in self.points]))

        at_random = gmacs <= self.dealt_up_to
        return Point(
            gmacs=gmacs,
            top1=between(lambda point: point.top1),
            measured=between(lambda point: point.measured),
            interval=(between(lambda point: point.interval[0]), between(lambda point: point.interval[1])),
            share={
                name: float(np.interp(gmacs, costs, [point.share.get(name, 0.0) for point in self.points]))
                for name in self.grids
            },
            how="dealt" if at_random else "assigner",
            threshold=None if at_random else self.steps.threshold(gmacs),
        )

    def policy(self, point: Point, hold: bool) -> LengthPolicy:
        """Make what gives inputs their grids at an operating point of this curve."""
        steps = self.steps if point.how == "assigner" else None
        return LengthPolicy(
            point.gmacs, list(self.grids.values()), self.assigner_gmacs, steps, hold and point.how != "fixed"
        )

    def _within(self, budget: Budget, milliseconds: Milliseconds) -> Choice:
        """Choose the point of most GMACs that takes no longer than this; where the next one does, up to where it would."""
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
            # From chance to the assigner is a jump: its time comes at once.
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
        """A cost was asked for, which can be held to; an accuracy is that of one threshold."""
        return self.budget.unit != "drop"

    def predicted(self, curve: BudgetCurve) -> dict[str, Any]:
        """Return what the calibration split lets expect, as JSON values."""
        point = self.point
        figures: dict[str, Any] = {"gmacs": point.gmacs, "top1": point.top1}
        figures |= {"interval": list(point.interval), "share": point.share}
        if self.milliseconds is not None:
            figures["ms"] = curve.milliseconds_of(point, self.milliseconds)
        return figures
