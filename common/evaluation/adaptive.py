"""What a run showed: fixed grids, the assigner, and the baselines that keep it honest."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from revit.common.costs.flops import Costs
from revit.common.evaluation.cascade import CascadeTable, cascade_figures, gather_answers, shares_of
from revit.common.evaluation.evaluate import Evaluation
from revit.common.evaluation.figures import accuracy
from revit.common.evaluation.intervals import Z95
from revit.common.evaluation.verdict import verdict
from revit.common.methods.revit.labels import right_grids, smallest_correct
from revit.common.system.device import machine_name, package_versions

PACKAGES = ("revit-video", "torch", "torchvision", "timm", "numpy", "av", "decord", "fvcore", "deepspeed")
SEED = 0


def adaptive_report(
    evaluation: Evaluation,
    costs: Costs,
    merge: str,
    num_draws: int = 5,
    cascade: CascadeTable | None = None,
    asks: bool = True,
    inputs: str = "samples",
    rule: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the figures of RUN_DIR/report.json that an evaluation gives.

    Answers under a grid's name are fixed; those called "adaptive", if there are any, are the assigner's. Rows:
    - fixed: every sample at one grid.
    - adaptive: the assigner's choice; its GMACs are the mean over samples with the assigner included.
    - random: the same grids in random order, mean of `num_draws` draws, no assigner to pay for.
    - oracle: each sample at the shortest grid that is right, at the longest where none is.
    - cascade: the same model without an assigner, grid after grid until it is confident, at the same mean cost (DVT). Its
      thresholds are `cascade`'s; without, they are found on the samples themselves, which needs no targets.

    `adaptive` also says how many points it gains over random grids, and under `gain_over` over each fixed one, with the 95 %
    interval of that (`paired_interval`). `chance` is the top-1 of always saying the commonest class, in percent. `verdict` puts
    all into words and `good` says whether they are good news. asks: whether the assigner decided; a small budget deals grids
    out without it. inputs: word for the samples, "clips" or "pictures". rule: what calibration found to give out grids by
    default, if that is how it was done here.
    """

    def row(name: str, gmacs: float, **more: Any) -> dict[str, Any]:
        per_second = evaluation.num_evaluated / max(evaluation.answers[name].seconds, 1e-9)
        return {**accuracy(evaluation, name, merge), "gmacs": gmacs, **more, "per_second": per_second}

    names, several = list(costs.grids), evaluation.several
    report: dict[str, Any] = {
        "fixed": [{"grid": name, **row(name, costs.grids[name], params=costs.num_params)} for name in names],
        "inputs": inputs,
    }
    if not several:
        report["chance"] = 100 * float(torch.bincount(evaluation.targets).max()) / evaluation.num_evaluated
    if "adaptive" in evaluation.answers:
        answers = evaluation.answers["adaptive"]
        prices = torch.tensor(list(costs.grids.values()), dtype=torch.float64)
        mean_price = float(prices[answers.grid_index].mean())
        share = shares_of(answers.grid_index, names)
        per_grid = torch.stack([evaluation.decided(name) for name in names])  # (k, N, V, K)
        drawn = _random_draws(evaluation, per_grid, answers.grid_index, merge, num_draws)
        draws = [100 * float(correct.double().mean()) for correct in drawn]
        own = evaluation.correct(evaluation.decided("adaptive"), merge).double()
        scores = torch.stack([evaluation.correct(logits, merge) for logits in per_grid], dim=1)
        over = _gain(own - drawn.double().mean(dim=0))
        report["adaptive"] = {
            **row("adaptive", mean_price + costs.assigner, share=share),
            "assigner_gmacs": costs.assigner,
            "assigner_params": costs.num_assigner_params,
            "gain_over_random": over["points"],
            "interval": over["interval"],
            "gain_over": {name: _gain(own - column.double()) for name, column in zip(names, scores.unbind(dim=1))},
        }
        report["random"] = {"top1": sum(draws) / len(draws), "gmacs": mean_price, "share": share, "draws": draws}
        shortest = smallest_correct(right_grids(scores), "longest")
        report["oracle"] = {
            "top1": 100 * float(scores.amax(dim=1).double().mean()),
            "gmacs": float(prices[shortest].mean()),
            "share": shares_of(shortest, names),
        }
        table = cascade or CascadeTable.of("the samples themselves", per_grid, list(costs.grids.values()), several)
        gmacs, top1 = report["adaptive"]["gmacs"], lambda logits: evaluation.percent(logits, merge)
        report["cascade"] = cascade_figures(per_grid, costs.grids, table, gmacs, top1, several)
    report["samples"] = {"evaluated": evaluation.num_evaluated, "failed": len(evaluation.failures)}
    report["failures"] = [{"path": failure.path, "reason": failure.reason} for failure in evaluation.failures]
    if evaluation.salvaged:
        report["samples"]["salvaged"] = len(evaluation.salvaged)
        report["salvaged"] = [{"path": one.path, "reason": one.reason} for one in evaluation.salvaged]
    if rule is not None:
        report["length_rule"] = dict(rule)
    report["verdict"], report["good"] = verdict(report, asks)
    return report


def _gain(differences: Tensor) -> dict[str, Any]:
    """Return the mean of per-sample differences (N,) and its `paired_interval`, in points."""
    interval = [100 * limit for limit in paired_interval(differences)]
    return {"points": 100 * float(differences.mean()), "interval": interval}


def _random_draws(evaluation: Evaluation, per_grid: Tensor, grid_index: Tensor, merge: str, num_draws: int) -> Tensor:
    """Return `Evaluation.correct` with the assigned grids in random order, once per draw: (draws, N)."""
    generator = torch.Generator().manual_seed(SEED)
    draws = []
    for _ in range(num_draws):
        order = torch.randperm(grid_index.numel(), generator=generator)
        dealt = grid_index.flatten()[order].view_as(grid_index)
        draws.append(evaluation.correct(gather_answers(per_grid, dealt), merge))
    return torch.stack(draws)


def paired_interval(differences: Tensor) -> tuple[float, float]:
    """Return the 95 % interval of the mean of per-sample differences (N,), each from -1 to 1.

    Both ways answer the same samples, so what is hard for both cancels, as in McNemar's test. One sample for either way is
    added (Bonett and Price, "Adjusted Wald Confidence Interval for a Difference of Binomial Proportions Based on Paired
    Data", 2012): a plain or bootstrapped interval is too narrow where only a few samples differ. For differences of -1, 0
    and 1 it is theirs; here the other way's answers are a mean over random draws, so there are fractions, too.
    """
    added = torch.cat([differences.double(), torch.tensor([1.0, -1.0], dtype=torch.float64)])
    half = Z95 * float(added.std(correction=0)) / math.sqrt(len(added))
    return float(added.mean()) - half, float(added.mean()) + half


def versions() -> dict[str, str]:
    """Return versions of what the figures depend on."""
    found = {"machine": machine_name(), **package_versions(*PACKAGES)}
    return {name: found.get(name, "not installed") for name in ("python", "machine", *PACKAGES)}
