"""Budgets of a calibrated checkpoint: its curve, the operating point that is asked for, what it comes to."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch

from revit.common.methods.revit.adaptive import AdaptiveClassifier, LengthPolicy
from revit.common.methods.revit.budget import Budget, BudgetCurve, Choice, Milliseconds
from revit.common.system.device import autocast
from revit.common.system.errors import UserError
from revit.common.timing.clock import seconds_of

HOW = "python tools/train_net.py --cfg FILE.yaml --stage calibrate, with the configuration of its run"
ROUNDS, WARM_UP = 5, 2
"""Rounds of measuring milliseconds that count, and before them some that do not."""


def curve_of(classifier: AdaptiveClassifier, source: str) -> BudgetCurve:
    """Return the curve that the classifier's checkpoint `source` keeps. UserError, which says how to get one, if there is none
    that fits its grids."""
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
    """Raise UserError unless the grids cost (GMACs by name, one view) what they did when the checkpoint `source` was
    calibrated: with other frames or pixels a budget would be kept in the wrong currency."""
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
    """Return the operating point for a budget as it was written; dtype, batch, served as in `measure_milliseconds`.

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


@torch.inference_mode()
def measure_milliseconds(
    classifier: AdaptiveClassifier,
    input_shape: Sequence[int],
    device: torch.device,
    dtype: str,
    batch: int,
    served: str | None = None,
) -> Milliseconds:
    """Measure the milliseconds of one input at every grid and of the assigner, in batches of noise: the median of interleaved
    rounds, so that a machine's other work meets all alike.

    dtype: of autocast. served: words for how a model is served that has a dtype of its own; then there is no autocast.
    """
    inputs = torch.randn(batch, *input_shape[1:], generator=torch.Generator().manual_seed(0)).to(device)
    model, assigner = classifier.model, classifier.assigner
    runs = [partial(model, inputs, grid) for grid in model.grids]
    if assigner is not None:
        runs.append(partial(assigner, inputs))
    with autocast(device, dtype if served is None else "float32"):
        rounds = [[1000 * seconds_of(run, device) / batch for run in runs] for _ in range(WARM_UP + ROUNDS)]
    medians = [statistics.median(times) for times in zip(*rounds[WARM_UP:])]
    if medians[0] <= medians[len(model.grids) - 1]:
        shown = ", ".join(f"{grid} {ms:.3g} ms" for grid, ms in zip(model.grids, medians))
        raise ValueError(
            f"shorter grids take no less time here ({shown}, batches of {batch}); ask for gmacs: or drop:, or for larger batches"
        )
    where = (
        torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device}, {torch.get_num_threads()} threads"
    )
    return Milliseconds(
        grids=tuple(medians[: len(model.grids)]),
        assigner=medians[-1] if assigner is not None else 0.0,
        how=f"measured on {where}, {served or dtype}, batches of {batch}, median of {ROUNDS} rounds",
    )


def budget_figures(
    choice: Choice,
    curve: BudgetCurve,
    policy: LengthPolicy,
    spent: Mapping[str, Any],
    ms_clock: float | None,
    **more: Any,
) -> dict[str, Any]:
    """Return what was asked for, predicted and achieved, as JSON values.

    spent: what was achieved, the grids' shares under `share` among it; for a budget in milliseconds it gets `ms`, what the
    shares come to by the times that the budget was looked up with, and `ms_clock`, what a view took by the clock.
    more: what else is to be said.
    """
    achieved, times = dict(spent), choice.milliseconds
    if times is not None:
        mean = sum(part * each for part, each in zip(spent["share"].values(), times.grids))
        achieved["ms"] = mean + (times.assigner if policy.asks else 0.0)
        if ms_clock is not None:
            achieved["ms_clock"] = ms_clock
    figures = {
        "asked": str(choice.budget),
        "predicted": choice.predicted(curve),
        "achieved": achieved,
        "how": choice.point.how,
        "held": policy.hold,
        "calibrated_on": curve.split,
        **more,
    }
    return figures if times is None else figures | {"milliseconds": times.how}


def reported_budget(
    choice: Choice, curve: BudgetCurve, report: Mapping[str, Any], policy: LengthPolicy, num_views: int = 1
) -> dict[str, Any]:
    """Return `budget_figures` for a report that has the rows of `adaptive_report`, of `num_views` a sample."""
    adaptive = report["adaptive"]
    spent = {key: adaptive[key] for key in ("gmacs", "top1", "share")}
    ms_clock = 1000 / (adaptive["per_second"] * num_views)
    return budget_figures(choice, curve, policy, spent, ms_clock, range=curve.ranges(choice.milliseconds))


def budget_line(figures: Mapping[str, Any]) -> str:
    """Say `budget_figures` in one line."""
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
