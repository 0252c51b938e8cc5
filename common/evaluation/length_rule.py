"""What shall give inputs their grids where nobody asks: the cheapest threshold that loses little, or a grid for all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from revit.common.costs.flops import Costs
from revit.common.evaluation.adaptive import paired_interval
from revit.common.evaluation.cascade import gather_answers, shares_of
from revit.common.evaluation.evaluate import Evaluation
from revit.common.evaluation.operating_points import SCORES, scores_of
from revit.common.methods.revit.adaptive import Steps, grid_index_at
from revit.common.methods.revit.rule import FixedGrid, LengthRule, Measured
from revit.common.methods.run_options import CalibrationOptions


def find_rule(
    evaluation: Evaluation, costs: Costs, merge: str, options: CalibrationOptions, finds_threshold: bool
) -> LengthRule:
    """Return the rule that the answers of `calibration_runners` show.

    The threshold (finds_threshold; else it is the configured one) is the cheapest of `options.points`, at evenly spaced costs
    from the shortest grid for all to the longest, with at most `options.max_drop` points below the longest grid. With
    `options.drop_assigner` the cheapest grid takes the assigner's place of those that cost no more than its choice does and
    are right at least as often. Both are measured, without a fit: on n samples one is 100 / n points.
    """
    names, prices = list(costs.grids), torch.tensor(list(costs.grids.values()), dtype=torch.float64)
    per_grid = torch.stack([evaluation.decided(name) for name in names])  # (k, N, V, K)
    fixed = [evaluation.correct(logits, merge) for logits in per_grid]

    def percent(right: Tensor) -> float:
        return 100 * float(right.double().mean())

    def measured(grid_index: Tensor) -> tuple[Tensor, Measured]:
        right = evaluation.correct(gather_answers(per_grid, grid_index), merge)
        gmacs = float(prices[grid_index].mean()) + costs.assigner
        return right, Measured(gmacs=gmacs, top1=percent(right), share=shares_of(grid_index, names))

    threshold, longest = None, percent(fixed[0])
    right, assigner = measured(evaluation.answers[SCORES].grid_index)
    if finds_threshold:
        scores = scores_of(evaluation)
        steps = Steps.of(scores.flatten(0, 1), prices.tolist(), costs.assigner)
        for cost in np.linspace(steps.gmacs[0], steps.gmacs[-1], options.points).tolist():
            threshold = steps.threshold(cost)
            right, assigner = measured(grid_index_at(scores, threshold))
            if assigner.top1 >= longest - options.max_drop - 1e-9:  # the last one is the longest grid for all
                break
    return LengthRule(
        split=options.split,
        num_samples=evaluation.num_evaluated,
        grids=dict(costs.grids),
        assigner_gmacs=costs.assigner,
        longest_top1=longest,
        assigner=assigner,
        threshold=threshold,
        max_drop=options.max_drop if finds_threshold else None,
        fixed=_in_its_place(costs.grids, fixed, right, assigner.gmacs) if options.drop_assigner else None,
    )


def _in_its_place(grids: Mapping[str, float], fixed: Sequence[Tensor], right: Tensor, gmacs: float) -> FixedGrid | None:
    """Return the cheapest grid that costs no more than `gmacs` and is right at least as often as `right` (N,); None for none.

    grids: GMACs by name, longest first.  fixed: whether each grid is right, (N,) bool each.
    """
    for (name, price), correct in reversed(list(zip(grids.items(), fixed, strict=True))):
        gains = correct.double() - right.double()
        if price <= gmacs and float(gains.mean()) >= -1e-9:
            low, high = paired_interval(gains)
            share = {one: float(one == name) for one in grids}
            measured = Measured(gmacs=price, top1=100 * float(correct.double().mean()), share=share)
            gain = 100 * float(gains.mean())
            return FixedGrid(grid=name, measured=measured, gain=gain, interval=(100 * low, 100 * high))
    return None
