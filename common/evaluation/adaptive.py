"""What a run showed: fixed grids, the assigner, and the baselines that keep it honest."""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import Tensor

from revit.common.costs.per_grid import Costs
from revit.common.evaluation.cascade import CascadeTable, cascade_figures, gather_answers
from revit.common.evaluation.evaluate import Evaluation
from revit.common.evaluation.intervals import Z95
from revit.common.evaluation.label_sets import class_figures, mean_average_precision
from revit.common.evaluation.reliability import reliability
from revit.common.methods.revit.labels import right_grids, smallest_correct
from revit.common.system.machine import machine_name

PACKAGES = ("revit-video", "torch", "torchvision", "timm", "numpy", "av", "decord", "fvcore", "deepspeed")
SEED = 0


def adaptive_report(
    evaluation: Evaluation,
    costs: Costs,
    merge: str,
    num_draws: int = 5,
    adaptive: str = "adaptive",
    cascade: CascadeTable | None = None,
    asks: bool = True,
) -> dict[str, Any]:
    """The figures of RUN_DIR/report.json that an evaluation gives.

    Answers under a grid's name are fixed; the one named `adaptive`, if there is one, is the assigner's. Rows:
    - fixed: every sample at one grid.
    - adaptive: the assigner's choice; its GMACs are the mean over samples with the assigner included.
    - random: the same lengths in random order, mean of `num_draws` draws, no assigner to pay for.
    - oracle: each sample at the shortest grid that is right, at the longest where none is.
    - cascade: the same model without an assigner, grid after grid until it is confident, at the same mean cost (DVT). Its
      thresholds are `cascade`'s; without, they are found on the samples themselves, which needs no targets.

    `adaptive` also says how many points it gains over random lengths, with the 95 % interval of that (`paired_interval`),
    and `verdict` puts it into words. asks: whether the assigner decided; a small budget deals lengths out without it.
    """
    names = list(costs.grids)
    fixed = []
    for name in names:
        answers = evaluation.answers[name]
        fixed.append(
            {
                "grid": name,
                **accuracy(evaluation, name, merge),
                "gmacs": costs.grids[name],
                "params": costs.num_params,
                "per_second": evaluation.num_evaluated / max(answers.seconds, 1e-9),
            }
        )
    report: dict[str, Any] = {"fixed": fixed}
    if adaptive in evaluation.answers:
        answers = evaluation.answers[adaptive]
        prices = torch.tensor([costs.grids[name] for name in names], dtype=torch.float64)
        mean_price = float(prices[answers.lengths].mean())
        share = _shares(answers.lengths, names)
        report["adaptive"] = {
            **accuracy(evaluation, adaptive, merge),
            "gmacs": mean_price + costs.assigner,
            "share": share,
            "per_second": evaluation.num_evaluated / max(answers.seconds, 1e-9),
            "assigner_gmacs": costs.assigner,
            "assigner_params": costs.num_assigner_params,
        }
        per_grid = torch.stack([evaluation.decided(name) for name in names])  # (k, N, V, K)
        drawn = _random_draws(evaluation, per_grid, answers.lengths, merge, num_draws)
        draws = [_percent(correct) for correct in drawn]
        report["random"] = {"top1": sum(draws) / len(draws), "gmacs": mean_price, "share": share, "draws": draws}
        report["oracle"] = _oracle(evaluation, per_grid, prices, merge, names)
        report["cascade"] = cascade_figures(
            per_grid,
            list(costs.grids.values()),
            names,
            cascade
            or CascadeTable.of("the samples themselves", per_grid, list(costs.grids.values()), evaluation.several),
            report["adaptive"]["gmacs"],
            lambda logits: _percent(evaluation.correct(logits, merge)),
            evaluation.several,
        )
        gains = evaluation.correct(evaluation.decided(adaptive), merge).double() - drawn.double().mean(dim=0)
        report["adaptive"]["gain_over_random"] = 100 * float(gains.mean())
        report["adaptive"]["interval"] = [100 * limit for limit in paired_interval(gains)]
        report["verdict"] = verdict(report, asks)
    report["samples"] = {"evaluated": evaluation.num_evaluated, "failed": len(evaluation.failures)}
    report["failures"] = [{"path": failure.path, "reason": failure.reason} for failure in evaluation.failures]
    if evaluation.salvaged:
        report["samples"]["salvaged"] = len(evaluation.salvaged)
        report["salvaged"] = [{"path": one.path, "reason": one.reason} for one in evaluation.salvaged]
    return report


def accuracy(evaluation: Evaluation, name: str, merge: str) -> dict[str, float]:
    """Score a runner's answers, in percent: `top1` and `top5`; where a sample may have several labels, `top1` is the mean
    overlap of its labels with what is said, and `map` the mean average precision."""
    decided = evaluation.decided(name)
    top1 = _percent(evaluation.correct(decided, merge))
    if evaluation.several:
        scores = evaluation.probabilities(evaluation.answers[name].logits, merge)
        return {"top1": top1, "map": 100 * mean_average_precision(scores, evaluation.targets)}
    return {"top1": top1, "top5": _percent(evaluation.correct(decided, merge, topk=5))}


def answer_figures(evaluation: Evaluation, merge: str, label_names: Sequence[str]) -> dict[str, Any]:
    """Return what report.json says of the probabilities: `reliability` of every policy (of its answer, or, where a sample may
    have several labels, of the yes to every class), and in that case `classes`, by the policy that stands for the run."""
    figures: dict[str, Any] = {"reliability": {}}
    for name, answers in evaluation.answers.items():
        values = evaluation.probabilities(answers.logits, merge)
        if evaluation.several:
            figures["reliability"][name] = reliability(values, evaluation.targets)
        else:
            right = evaluation.correct(answers.logits, merge)
            figures["reliability"][name] = reliability(values.amax(dim=1), right)
    if evaluation.several:
        policy = "adaptive" if "adaptive" in evaluation.answers else next(iter(evaluation.answers))
        values = evaluation.probabilities(evaluation.answers[policy].logits, merge)
        said = evaluation.said(evaluation.decided(policy))
        figures["classes"] = class_figures(values, said, evaluation.targets, label_names)
    return figures


def _random_draws(evaluation: Evaluation, per_grid: Tensor, lengths: Tensor, merge: str, num_draws: int) -> Tensor:
    """`Evaluation.correct` with the assigned lengths dealt out in random order, once per draw: (draws, N)."""
    generator = torch.Generator().manual_seed(SEED)
    draws = []
    for _ in range(num_draws):
        order = torch.randperm(lengths.numel(), generator=generator)
        dealt = lengths.flatten()[order].view_as(lengths)
        draws.append(evaluation.correct(gather_answers(per_grid, dealt), merge))
    return torch.stack(draws)


def paired_interval(differences: Tensor) -> tuple[float, float]:
    """The 95 % interval of the mean of per-sample differences (N,), each from -1 to 1.

    Both ways answer the same samples, so what is hard for both cancels, as in McNemar's test. One sample for either way is
    added (Bonett and Price, "Adjusted Wald Confidence Interval for a Difference of Binomial Proportions Based on Paired
    Data", 2012): a plain or bootstrapped interval is too narrow where only a few samples differ. For differences of -1, 0
    and 1 it is theirs; here the other way's answers are a mean over random draws, so there are fractions, too.
    """
    added = torch.cat([differences.double(), torch.tensor([1.0, -1.0], dtype=torch.float64)])
    half = Z95 * float(added.std(correction=0)) / math.sqrt(len(added))
    return float(added.mean()) - half, float(added.mean()) + half


def verdict(report: Mapping[str, Any], asks: bool = True) -> str:
    """What the assigner is worth, the worst news first. Where nobody asked it, it is not judged."""
    adaptive, longest, cascade = report["adaptive"], report["fixed"][0], report["cascade"]
    gain, (low, high) = adaptive["gain_over_random"], adaptive["interval"]
    worth = f"{gain:+.2f} points over random lengths at the same shares (95 % interval {low:+.2f} to {high:+.2f})"
    text = (
        f"adaptive {adaptive['top1']:.2f} % at {adaptive['gmacs'] / longest['gmacs']:.0%} of the GMACs of {longest['grid']}"
        f" ({adaptive['top1'] - longest['top1']:+.2f} points)"
    )
    other = f"a confidence cascade gets {cascade['top1']:.2f} % at {cascade['gmacs'] / longest['gmacs']:.0%}"
    if not asks:
        return f"the assigner was not asked, at this budget it costs more than it gains: {text}; {other}"
    if low <= 0:
        return f"THE ASSIGNER IS NO BETTER THAN CHANCE: {worth}; {text}; {other}"
    return f"{text}; {worth}; {other}"


def _oracle(
    evaluation: Evaluation, per_grid: Tensor, prices: Tensor, merge: str, names: Sequence[str]
) -> dict[str, Any]:
    scores = torch.stack([evaluation.correct(logits, merge) for logits in per_grid], dim=1)
    lengths = smallest_correct(right_grids(scores), "longest")
    return {
        "top1": _percent(scores.amax(dim=1)),
        "gmacs": float(prices[lengths].mean()),
        "share": _shares(lengths, names),
    }


def _shares(lengths: Tensor, names: Sequence[str]) -> dict[str, float]:
    """Grid -> fraction of the positions in `lengths` that are its own."""
    counts = torch.bincount(lengths.flatten(), minlength=len(names)).double() / max(lengths.numel(), 1)
    return dict(zip(names, counts.tolist()))


def _percent(correct: Tensor) -> float:
    return 100 * float(correct.double().mean())


def versions() -> dict[str, str]:
    """Versions of what the figures depend on."""
    found = {"python": platform.python_version(), "machine": machine_name()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
