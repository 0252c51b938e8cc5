"""Calibration: what the assigner's thresholds cost and gain on samples that nothing was trained on."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.isotonic import isotonic_regression
from torch import Tensor, nn

from revit.common.engine.backend import autocast
from revit.common.engine.evaluate import Evaluation, Runner, grid_runners
from revit.common.errors import UserError
from revit.common.report.adaptive import Costs
from revit.common.report.cascade import CascadeTable, gather_answers
from revit.common.report.intervals import wilson
from revit.common.report.throughput import seconds_of
from revit.common.tokens.adaptive import AdaptiveClassifier, AdaptiveOutput
from revit.common.tokens.budget import KEY, Budget, BudgetCurve, Choice, Milliseconds, Point
from revit.common.tokens.policy import LengthPolicy, Steps, deal, dither, dithered, lengths_at, score_grids

SCORES = "scores"
CASCADE_KEY = "cascade"
"""Of a checkpoint's extra facts."""
HOW = "python tools/train_net.py --cfg FILE.yaml --stage calibrate, with the configuration of its run"


@dataclass(frozen=True)
class Calibration:
    """What a checkpoint keeps of it."""

    curve: BudgetCurve
    cascade: CascadeTable

    def facts(self) -> dict[str, Any]:
        """As JSON values, beside a checkpoint's other extra facts."""
        return {KEY: self.curve.model_dump(mode="json"), CASCADE_KEY: self.cascade.model_dump(mode="json")}


def calibration_runners(classifier: AdaptiveClassifier) -> dict[str, Runner]:
    """Every grid, and what the assigner says: its scores and the inputs' dither in place of logits, (B, k - 1 + 1)."""
    assigner = classifier.assigner
    assert assigner is not None

    def score(inputs: Tensor) -> AdaptiveOutput:
        said = torch.cat([score_grids(assigner(inputs)), dither(inputs).unsqueeze(1)], dim=1)
        return AdaptiveOutput(said, torch.zeros(len(inputs), dtype=torch.long))

    return {**grid_runners(classifier), SCORES: score}


def calibrated(evaluation: Evaluation, costs: Costs, merge: str, split: str, num_points: int) -> Calibration:
    """The curve of the assigner's operating points and the cascade's thresholds, from the answers of `calibration_runners`.

    Points lie at evenly spaced costs from the shortest grid for all to the longest for all. Each is measured by giving the
    samples the grids that the policy gives them at that cost. See `BudgetCurve` for the fit.
    """
    names, prices = list(costs.grids), list(costs.grids.values())
    per_grid = torch.stack([evaluation.answers[name].logits for name in names])  # (k, N, V, K)
    said = evaluation.answers[SCORES].logits
    spread = said[..., -1]
    scores = dithered(said[..., :-1], spread)  # (N, V, k - 1)
    steps = Steps.of(scores.flatten(0, 1), prices, costs.assigner)
    table = torch.tensor(prices, dtype=torch.float64)

    def measured(lengths: Tensor, how: str, threshold: float | None = None) -> Point:
        correct = evaluation.correct(gather_answers(per_grid, lengths), merge).double().mean()
        low, high = wilson(float(correct), evaluation.num_evaluated)
        share = torch.bincount(lengths.flatten(), minlength=len(names)).double() / lengths.numel()
        paid = float(table[lengths].mean()) + (costs.assigner if how == "assigner" else 0.0)
        return Point(
            gmacs=round(paid, 9),
            top1=100 * float(correct),
            measured=100 * float(correct),
            interval=(100 * low, 100 * high),
            share=dict(zip(names, share.tolist())),
            how=how,  # type: ignore[arg-type]
            threshold=threshold,
        )

    def fixed(position: int) -> Point:
        return measured(torch.full(spread.shape, position), "fixed")

    cheapest, dearest = fixed(len(names) - 1), fixed(0)
    wanted = np.linspace(prices[-1], prices[0], num_points)[1:-1].tolist()
    asked = {}
    for cost in wanted:
        if cost > prices[-1] + costs.assigner:
            threshold = steps.threshold(cost)
            asked[cost] = measured(lengths_at(scores, threshold), "assigner", threshold)
    fixed_top1 = [100 * float(evaluation.correct(logits, merge).double().mean()) for logits in per_grid]
    # Dealt lengths give, in the mean, what lies in proportion between the fixed ones.
    from_dealing = dict(zip(wanted, np.interp(wanted, prices[::-1], fixed_top1[::-1]).tolist()))
    first = _first_worth({cost: point.measured - from_dealing[cost] for cost, point in asked.items()})
    between = [
        asked[cost] if cost >= first else measured(deal(spread, prices, cost), "dealt") for cost in wanted
    ]
    points = _rising([cheapest, *between, dearest])
    dealt_up_to = (
        max([prices[-1], *(cost for cost in wanted if cost < first)]) if first in asked else prices[0]
    )
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
        CascadeTable.of(split, per_grid, prices),
    )


def _first_worth(gains: Mapping[float, float]) -> float:
    """The cost from which on asking the assigner gains most over dealing, all in all; infinity where it never does. A sum
    over all points, as single ones win or lose by chance."""
    costs = sorted(gains)
    sums = [sum(gains[later] for later in costs[number:]) for number in range(len(costs))]
    best = max(sums, default=0.0)
    return costs[sums.index(best)] if best > 0 else float("inf")


def _rising(points: Sequence[Point]) -> tuple[Point, ...]:
    """In the order of their costs, each once, within those of the fixed grids, with fitted accuracies."""
    low, high = points[0], points[-1]
    inner = sorted(
        (one for one in points[1:-1] if low.gmacs < one.gmacs < high.gmacs), key=lambda one: one.gmacs
    )
    kept = [low]
    for point in [*inner, high]:
        if point.gmacs > kept[-1].gmacs:
            kept.append(point)
    fitted = isotonic_regression([point.measured for point in kept], y_min=0, y_max=100)
    return tuple(
        point.model_copy(update={"top1": float(value)}) for point, value in zip(kept, fitted, strict=True)
    )


def calibration_of(classifier: AdaptiveClassifier) -> Calibration | None:
    """What the classifier's checkpoint keeps; None where that is nothing, or nothing that fits its grids."""
    try:
        curve = BudgetCurve.read(classifier.facts, classifier.grids)
        if curve is None or CASCADE_KEY not in classifier.facts:
            return None
        return Calibration(curve, CascadeTable.model_validate(classifier.facts[CASCADE_KEY]))
    except ValueError:
        return None


def curve_of(classifier: AdaptiveClassifier, source: str) -> BudgetCurve:
    """The curve that the classifier's checkpoint `source` keeps. UserError, which says how to get one, if there is none that
    fits its grids."""
    try:
        curve = BudgetCurve.read(classifier.facts, classifier.grids)
    except ValueError as error:
        raise UserError(
            f"{source}: its budget curve cannot be used ({error}); calibrate it again: {HOW}"
        ) from None
    if classifier.assigner is None:
        raise UserError(f"{source}: budgets are for models with a token-length assigner, which it has not")
    if curve is None:
        raise UserError(f"{source}: it has no budget curve yet; calibrate it: {HOW}")
    return curve


def choose(
    text: str,
    curve: BudgetCurve,
    classifier: AdaptiveClassifier,
    input_shape: Sequence[int],
    device: torch.device,
    dtype: str,
    batch: int,
) -> Choice:
    """The operating point for a budget as it was written. UserError, which names what can be asked for, if there is none."""
    try:
        budget = Budget.parse(text)
    except ValueError as error:
        raise UserError(f"budget: {error}; this checkpoint reaches {curve.ranges()}") from None
    try:
        return curve.choose(
            budget, lambda: measure_milliseconds(classifier, input_shape, device, dtype, batch)
        )
    except ValueError as error:
        raise UserError(f"budget: {error}") from None


@torch.inference_mode()
def measure_milliseconds(
    classifier: AdaptiveClassifier,
    input_shape: Sequence[int],
    device: torch.device,
    dtype: str,
    batch: int,
    rounds: int = 5,
) -> Milliseconds:
    """Milliseconds of one input at every grid and of the assigner, in batches of `batch` noise inputs: the median of
    interleaved rounds after two that warm up, so that a machine's other work meets all alike."""
    inputs = torch.randn(batch, *input_shape[1:], generator=torch.Generator().manual_seed(0)).to(device)
    model, assigner = classifier.model, classifier.assigner
    runs: list[tuple[nn.Module, tuple[Any, ...]]] = [(model, (inputs, grid)) for grid in model.grids]
    if assigner is not None:
        runs.append((assigner, (inputs,)))
    times: list[list[float]] = [[] for _ in runs]
    with autocast(device, dtype):
        for number in range(rounds + 2):
            for (network, arguments), one in zip(runs, times):
                seconds = seconds_of(lambda net=network, args=arguments: net(*args), device)  # type: ignore[misc]
                if number >= 2:
                    one.append(1000 * seconds / batch)
    medians = [statistics.median(one) for one in times]
    if medians[0] <= medians[len(model.grids) - 1]:
        shown = ", ".join(f"{grid} {ms:.3g} ms" for grid, ms in zip(model.grids, medians))
        raise ValueError(
            f"shorter grids take no less time here ({shown}, batches of {batch}); ask for gmacs: or drop:, or for larger batches"
        )
    where = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"{device}, {torch.get_num_threads()} threads"
    )
    return Milliseconds(
        grids=tuple(medians[: len(model.grids)]),
        assigner=medians[-1] if assigner is not None else 0.0,
        how=f"measured on {where}, {dtype}, batches of {batch}, median of {rounds} rounds",
    )


def budget_figures(
    choice: Choice, curve: BudgetCurve, report: Mapping[str, Any], policy: LengthPolicy | None
) -> dict[str, Any]:
    """What was asked for, predicted and achieved, for a report that has the rows of `adaptive_report`."""
    adaptive = report["adaptive"]
    asks = policy is not None and policy.asks
    figures = {
        "asked": str(choice.budget),
        "predicted": choice.predicted(curve),
        "achieved": {
            **{key: adaptive[key] for key in ("gmacs", "top1", "share")},
            **_milliseconds(choice, adaptive["share"], asks),
        },
        "how": choice.point.how,
        "held": policy is not None and policy.hold,
        "calibrated_on": curve.split,
        "range": curve.ranges(choice.milliseconds),
    }
    return figures if choice.milliseconds is None else figures | {"milliseconds": choice.milliseconds.how}


def achieved(choice: Choice, curve: BudgetCurve, policy: LengthPolicy) -> dict[str, Any]:
    """What the inputs cost that a policy was asked about so far."""
    share = dict(zip(curve.grids, (count / max(policy.num_inputs, 1) for count in policy.counts)))
    return {
        "inputs": policy.num_inputs,
        "gmacs": policy.mean,
        "share": share,
        **_milliseconds(choice, share, policy.asks),
    }


def _milliseconds(choice: Choice, share: Mapping[str, float], asks: bool) -> dict[str, float]:
    """By the shares and the milliseconds measured of every grid; nothing unless the budget was in milliseconds."""
    measured = choice.milliseconds
    if measured is None:
        return {}
    mean = sum(part * each for part, each in zip(share.values(), measured.grids))
    return {"ms": mean + (measured.assigner if asks else 0.0)}


def budget_line(figures: Mapping[str, Any]) -> str:
    """The same for people."""
    parts = []
    for name in ("predicted", "achieved"):
        row = figures[name]
        said = [f"{row['gmacs']:.4g} GMACs"]
        said += [f"{row['ms']:.4g} ms"] if "ms" in row else []
        said += [f"top-1 {row['top1']:.2f} %"] if "top1" in row else []
        said += ["(95 % {:.1f} to {:.1f})".format(*row["interval"])] if "interval" in row else []
        parts.append(f"{name} {' '.join(said)}")
    measured = f"; milliseconds {figures['milliseconds']}" if "milliseconds" in figures else ""
    return f"budget {figures['asked']}: {'; '.join(parts)}; predicted on {figures['calibrated_on']}{measured}"
