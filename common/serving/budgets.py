"""Budgets of a calibrated checkpoint: its curve, the operating point that is asked for, what it comes to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from revit.common.methods.revit.adaptive import AdaptiveClassifier, LengthPolicy
from revit.common.methods.revit.budget import Budget, BudgetCurve, Choice
from revit.common.serving.milliseconds import measure_milliseconds
from revit.common.system.errors import UserError

HOW = "python tools/train_net.py --cfg FILE.yaml --stage calibrate, with the configuration of its run"


def curve_of(classifier: AdaptiveClassifier, source: str) -> BudgetCurve:
    """The curve that the classifier's checkpoint `source` keeps. UserError, which says how to get one, if there is none that
    fits its grids."""
    try:
        curve = BudgetCurve.read(classifier.facts, classifier.grids)
    except ValueError as error:
        raise UserError(f"{source}: its budget curve cannot be used ({error}); calibrate it again: {HOW}") from None
    if classifier.assigner is None:
        raise UserError(f"{source}: budgets are for models with a token-length assigner, which it has not")
    if curve is None:
        raise UserError(f"{source}: it has no budget curve yet; calibrate it: {HOW}")
    return curve


def check_costs(curve: BudgetCurve, costs: Mapping[str, float], source: str) -> None:
    """UserError unless the grids cost (GMACs by name, one view) what they did when the checkpoint `source` was calibrated: with
    other frames or pixels a budget would be kept in the wrong currency."""
    if not curve.is_of(costs):
        then, now = (", ".join(f"{name} {gmacs:.4g}" for name, gmacs in one.items()) for one in (curve.grids, costs))
        raise UserError(
            f"{source}: its budget curve is of inputs of another size (GMACs then: {then}; now: {now}); restore the settings of "
            f"its run, or calibrate it again: {HOW}"
        )


def choose(
    text: str,
    curve: BudgetCurve,
    classifier: AdaptiveClassifier,
    input_shape: Sequence[int],
    device: torch.device,
    dtype: str,
    batch: int,
    served: str | None = None,
) -> Choice:
    """The operating point for a budget as it was written. dtype, batch, served: as `measure_milliseconds`.

    UserError, which names what can be asked for, if there is none.
    """
    try:
        budget = Budget.parse(text)
    except ValueError as error:
        raise UserError(f"budget: {error}; this checkpoint reaches {curve.ranges()}") from None
    try:
        return curve.choose(budget, lambda: measure_milliseconds(classifier, input_shape, device, dtype, batch, served))
    except ValueError as error:
        raise UserError(f"budget: {error}") from None


def budget_figures(
    choice: Choice, curve: BudgetCurve, report: Mapping[str, Any], policy: LengthPolicy | None, num_views: int = 1
) -> dict[str, Any]:
    """What was asked for, predicted and achieved, for a report that has the rows of `adaptive_report`.

    Of a budget in milliseconds `ms` is what the shares come to by the times that the budget was looked up with, `ms_clock`
    what a view (of `num_views` a sample) took in this very pass.
    """
    adaptive = report["adaptive"]
    asks = policy is not None and policy.asks
    times = _milliseconds(choice, adaptive["share"], asks)
    if times:
        times["ms_clock"] = 1000 / (adaptive["per_second"] * num_views)
    figures = {
        "asked": str(choice.budget),
        "predicted": choice.predicted(curve),
        "achieved": {**{key: adaptive[key] for key in ("gmacs", "top1", "share")}, **times},
        "how": choice.point.how,
        "held": policy is not None and policy.hold,
        "calibrated_on": curve.split,
        "range": curve.ranges(choice.milliseconds),
    }
    return figures if choice.milliseconds is None else figures | {"milliseconds": choice.milliseconds.how}


def achieved(choice: Choice, curve: BudgetCurve, policy: LengthPolicy, ms_clock: float | None = None) -> dict[str, Any]:
    """What the inputs cost that a policy was asked about so far. ms_clock: what one took by the clock, for a budget in
    milliseconds; see `budget_figures`."""
    share = dict(zip(curve.grids, (count / max(policy.num_inputs, 1) for count in policy.counts)))
    return {
        "inputs": policy.num_inputs,
        "gmacs": policy.mean,
        "share": share,
        **_milliseconds(choice, share, policy.asks),
        **({} if choice.milliseconds is None or ms_clock is None else {"ms_clock": ms_clock}),
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
        said += [f"(by the clock {row['ms_clock']:.4g} ms)"] if "ms_clock" in row else []
        said += [f"top-1 {row['top1']:.2f} %"] if "top1" in row else []
        said += ["(95 % {:.1f} to {:.1f})".format(*row["interval"])] if "interval" in row else []
        parts.append(f"{name} {' '.join(said)}")
    measured = f"; milliseconds {figures['milliseconds']}" if "milliseconds" in figures else ""
    return f"budget {figures['asked']}: {'; '.join(parts)}; predicted on {figures['calibrated_on']}{measured}"
