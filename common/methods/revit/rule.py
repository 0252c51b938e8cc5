"""The rule that gives inputs their grids by default: found by a calibration, kept in a checkpoint."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pydantic import Field, ValidationError

from revit.common.config.options import Options
from revit.common.methods.revit.adaptive import LengthPolicy, Steps
from revit.common.methods.run_options import RecipeOptions
from revit.common.system.errors import UserError

KEY = "length_rule"
"""Key among a checkpoint's extra facts, and in reports."""


class Measured(Options):
    """One way to give inputs their grids, on the calibration list."""

    gmacs: float = Field(gt=0)
    """Mean GMACs of a view, with the assigner where it is asked."""
    top1: float = Field(ge=0, le=100)
    """Top-1 in percent."""
    share: dict[str, float]
    """Grid -> fraction of the views."""


class FixedGrid(Options):
    """A grid for all inputs that is at least as accurate as the assigner's choice and costs no more."""

    grid: str
    measured: Measured
    gain: float
    """Points of top-1 over the assigner's choice, the same samples compared."""
    interval: tuple[float, float]
    """Paired 95 % interval of the gain, in points."""


class LengthRule(Options):
    """The assigner's threshold, or the grid that takes its place."""

    split: str
    num_samples: int = Field(ge=1)
    grids: dict[str, float] = Field(min_length=2)
    """Grid -> GMACs of one view, longest first."""
    assigner_gmacs: float = Field(ge=0)
    longest_top1: float = Field(ge=0, le=100)
    """Top-1 in percent of the longest grid for all."""
    assigner: Measured
    """The assigner's choice, at the threshold if there is one."""
    threshold: float | None = None
    """Least log odds that a grid suffices; None: as `assigner.confidence` says."""
    max_drop: float | None = None
    """Points that the threshold was allowed to lose against the longest grid."""
    fixed: FixedGrid | None = None
    """Grid for all inputs. None: the assigner decides."""

    @property
    def confidence(self) -> float | None:
        """The threshold as a probability."""
        return None if self.threshold is None else 1 / (1 + math.exp(-max(min(self.threshold, 700.0), -700.0)))

    def wanted_by(self, options: RecipeOptions) -> LengthRule | None:
        """Return as much of it as a configuration wants: the grid where it lets calibration drop the assigner, the threshold
        where its confidence is auto; None for neither."""
        drops = options.calibration is not None and options.calibration.drop_assigner
        wanted = self if drops else self.model_copy(update={"fixed": None})
        keeps = wanted.fixed is not None or (wanted.threshold is not None and options.assigner.confidence == "auto")
        return wanted if keeps else None

    def policy(self) -> LengthPolicy:
        """Make what gives inputs their grids. An input's grid depends on itself alone."""
        prices = list(self.grids.values())
        if self.fixed is not None:
            return LengthPolicy(self.grids[self.fixed.grid], prices, 0.0, None, hold=False, why=str(self))
        assert self.threshold is not None
        cost = self.assigner.gmacs
        steps = Steps((cost,), (self.threshold,))
        return LengthPolicy(cost, prices, self.assigner_gmacs, steps, hold=False, why=str(self))

    def __str__(self) -> str:
        """Say the rule, and why, in one line."""
        where = f"on {self.split} ({self.num_samples} samples)"
        if self.fixed is not None:
            one, (low, high) = self.fixed, self.fixed.interval
            how, cost = "better than" if low > 0 else "as good as", one.measured.gmacs / self.assigner.gmacs
            return (
                f"no assigner: {one.grid} for every input; {where} it is {how} the assigner's choice ({one.gain:+.2f} points, 95 % "
                f"interval {low:+.2f} to {high:+.2f}) at {cost:.0%} of its GMACs; --budget asks the assigner"
            )
        if self.threshold is None:
            return f"the assigner stays: {where} no grid for all is as accurate and costs no more"
        longest, cost = next(iter(self.grids.items()))
        return (
            f"assigner.confidence {self.confidence:.4g}, the least that {where} loses no more than {self.max_drop:g} points: "
            f"{self.assigner.top1:.2f} % at {self.assigner.gmacs / cost:.0%} of the GMACs of {longest} for all "
            f"({self.longest_top1:.2f} %)"
        )


def rule_of(facts: Mapping[str, Any], options: RecipeOptions, source: str) -> LengthRule | None:
    """Return the rule among a checkpoint's facts as far as the configuration wants it, None for none. UserError if it is
    damaged; `source` names the checkpoint."""
    if KEY not in facts or not options.wants_calibration:
        return None
    try:
        rule = LengthRule.model_validate(facts[KEY])
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, (KEY, *first["loc"])))
        raise UserError(
            f"{source}: {place}: {first['msg']}; calibrate it again (train_net --stage calibrate)"
        ) from None
    names = [grid.name for grid in options.grids]
    if list(rule.grids) != names or (rule.fixed is not None and rule.fixed.grid not in rule.grids):
        raise UserError(
            f"{source}: {KEY} is of the grids {', '.join(rule.grids)}, not {', '.join(names)}; calibrate it again (train_net "
            "--stage calibrate)"
        )
    return rule.wanted_by(options)
