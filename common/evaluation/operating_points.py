"""Calibration: what the assigner's thresholds cost and gain on samples that nothing was trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from revit.common.costs.flops import Costs
from revit.common.evaluation.cascade import CascadeTable, gather_answers, shares_of
from revit.common.evaluation.evaluate import Evaluation, Runner, grid_runners
from revit.common.evaluation.intervals import wilson
from revit.common.methods.revit.adaptive import (
    AdaptiveClassifier,
    AdaptiveOutput,
    Steps,
    assign_at_random,
    confident_grids,
    dither,
    dithered,
    grid_index_at,
    score_grids,
)
from revit.common.methods.revit.budget import KEY, BudgetCurve, Point
from revit.common.methods.revit.rule import KEY as RULE_KEY
from revit.common.methods.revit.rule import LengthRule

SCORES = "scores"
CASCADE_KEY = "cascade"
"""Key among a checkpoint's extra facts."""


@dataclass(frozen=True)
class Calibration:
    """Results of a calibration, as a checkpoint keeps them."""

    curve: BudgetCurve
    cascade: CascadeTable
    rule: LengthRule | None = None
    """Rule that gives inputs their grids by default, if the configuration wants one found."""

    def facts(self) -> dict[str, Any]:
        """Return JSON values, beside a checkpoint's other extra facts."""
        found = {KEY: self.curve.model_dump(mode="json"), CASCADE_KEY: self.cascade.model_dump(mode="json")}
        return found | ({} if self.rule is None else {RULE_KEY: self.rule.model_dump(mode="json")})


def calibration_of(classifier: AdaptiveClassifier) -> Calibration | None:
    """Read what the classifier's checkpoint keeps; None where that is nothing, or nothing that fits its grids."""
    try:
        curve = BudgetCurve.read(classifier.facts, classifier.grids)
        if curve is None or CASCADE_KEY not in classifier.facts:
            return None
        return Calibration(curve, CascadeTable.model_validate(classifier.facts[CASCADE_KEY]))
    except ValueError:
        return None


def calibration_runners(classifier: AdaptiveClassifier) -> dict[str, Runner]:
    """Make runners of every grid, and of what the assigner says: its scores and the inputs' dither in place of logits,
    (B, k - 1 + 1), and the grids that it chooses with the classifier's confidence, the longest where that is auto."""
    assigner, confidence = classifier.assigner, classifier.confidence
    assert assigner is not None

    def score(inputs: Tensor) -> AdaptiveOutput:
        logits = assigner(inputs)
        said = torch.cat([score_grids(logits), dither(inputs).unsqueeze(1)], dim=1)
        if confidence == "auto":
            return AdaptiveOutput(said, torch.zeros(len(inputs), dtype=torch.long))
        return AdaptiveOutput(said, confident_grids(logits, confidence))

    return {**grid_runners(classifier), SCORES: score}


def scores_of(evaluation: Evaluation) -> Tensor:
    """Return the dithered scores (N, V, k - 1) among the answers of `calibration_runners`."""
    said = evaluation.answers[SCORES].logits
    return dithered(said[..., :-1], said[..., -1])


def calibrated(evaluation: Evaluation, costs: Costs, merge: str, split: str, num_points: int) -> Calibration:
    """Find the curve of the assigner's operating points and the cascade's thresholds, from the answers of `calibration_runners`.

    Points lie at evenly spaced costs from the shortest grid for all to the longest for all. Each is measured by giving the
    samples the grids that the policy gives them at that cost. See `BudgetCurve` for the fit.
    """
    names, prices = list(costs.grids), list(costs.grids.values())
    per_grid = torch.stack([evaluation.decided(name) for name in names])  # (k, N, V, K)
    spread, scores = evaluation.answers[SCORES].logits[..., -1], scores_of(evaluation)
    steps = Steps.of(scores.flatten(0, 1), prices, costs.assigner)
    table = torch.tensor(prices, dtype=torch.float64)

    def measured(
        grid_index: Tensor, how: Literal["fixed", "dealt", "assigner"], threshold: float | None = None
    ) -> Point:
        right = float(evaluation.correct(gather_answers(per_grid, grid_index), merge).double().mean())
        low, high = wilson(right, evaluation.num_evaluated)
        paid = float(table[grid_index].mean()) + (costs.assigner if how == "assigner" else 0.0)
        return Point(
            gmacs=round(paid, 9),
            top1=100 * right,
            measured=100 * right,
            interval=(100 * low, 100 * high),
            share=shares_of(grid_index, names),
            how=how,
            threshold=threshold,
        )

    cheapest, dearest = (measured(torch.full(spread.shape, index), "fixed") for index in (len(names) - 1, 0))
    wanted = np.linspace(prices[-1], prices[0], num_points)[1:-1].tolist()
    asked = {}
    for cost in wanted:
        if cost > prices[-1] + costs.assigner:
            threshold = steps.threshold(cost)
            asked[cost] = measured(grid_index_at(scores, threshold), "assigner", threshold)
    fixed_top1 = [evaluation.percent(logits, merge) for logits in per_grid]
    # Dealt lengths give, in the mean, what lies in proportion between the fixed ones.
    from_dealing = dict(zip(wanted, np.interp(wanted, prices[::-1], fixed_top1[::-1]).tolist()))
    first = _first_worth({cost: point.measured - from_dealing[cost] for cost, point in asked.items()})
    between = [
        asked[cost] if cost >= first else measured(assign_at_random(spread, prices, cost), "dealt") for cost in wanted
    ]
    points = _rising([cheapest, *between, dearest])
    dealt_up_to = max([prices[-1], *(cost for cost in wanted if cost < first)]) if first in asked else prices[0]
    return Calibration(
        BudgetCurve(
            split=split,
            num_samples=evaluation.num_evaluated,
            num_views=per_grid.shape[2],
            grids=dict(costs.grids),
            assigner_gmacs=costs.assigner,
            points=points,
            fits=all(point.interval[0] <= point.top1 <= point.interval[1] for point in points),
            dealt_up_to=dealt_up_to,
            steps_gmacs=steps.gmacs,
            steps_thresholds=steps.thresholds,
        ),
        CascadeTable.of(split, per_grid, prices, evaluation.several),
    )


def _first_worth(gains: Mapping[float, float]) -> float:
    """Return the cost from which on asking the assigner gains most over dealing, summed over all points, as single ones win
    or lose by chance; infinity where it never gains."""
    costs = sorted(gains)
    sums = [sum(gains[later] for later in costs[number:]) for number in range(len(costs))]
    best = max(sums, default=0.0)
    return costs[sums.index(best)] if best > 0 else float("inf")


def _rising(points: Sequence[Point]) -> tuple[Point, ...]:
    """Sort points by cost, each once, within those of the fixed grids, and fit their accuracies."""
    low, high = points[0], points[-1]
    inner = sorted((one for one in points[1:-1] if low.gmacs < one.gmacs < high.gmacs), key=lambda one: one.gmacs)
    kept = [low]
    for point in [*inner, high]:
        if point.gmacs > kept[-1].gmacs:
            kept.append(point)
    # Imported here: it brings much of scipy, and every tool reads this file.
    from sklearn.isotonic import isotonic_regression

    fitted = isotonic_regression([point.measured for point in kept], y_min=0, y_max=100)
    return tuple(point.model_copy(update={"top1": float(value)}) for point, value in zip(kept, fitted, strict=True))
