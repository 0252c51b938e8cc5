"""What a run showed: fixed grids, the assigner, and the baselines that keep it honest."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import Tensor

from revit.common.engine.evaluate import Evaluation
from revit.common.tokens.labels import smallest_correct

PACKAGES = ("revit-video", "torch", "torchvision", "timm", "numpy", "av", "decord", "fvcore", "deepspeed")
SEED = 0


@dataclass(frozen=True)
class Costs:
    """GMACs of one view, batch 1, attention included; parameters of the model without its assigner."""

    grids: Mapping[str, float]
    """Grid name -> GMACs, longest first."""
    assigner: float
    num_params: int
    num_assigner_params: int = 0


def adaptive_report(
    evaluation: Evaluation, costs: Costs, merge: str, num_draws: int = 5, adaptive: str = "adaptive"
) -> dict[str, Any]:
    """The figures of RUN_DIR/report.json that an evaluation gives.

    Answers under a grid's name are fixed; the one named `adaptive`, if there is one, is the assigner's. Rows:
    - fixed: every sample at one grid.
    - adaptive: the assigner's choice; its GMACs are the mean over samples with the assigner included.
    - random: the same lengths in random order, mean of `num_draws` draws, no assigner to pay for.
    - oracle: each sample at the shortest grid that is right, at the longest where none is.
    """
    names = list(costs.grids)
    fixed = []
    for name in names:
        answers = evaluation.answers[name]
        fixed.append(
            {
                "grid": name,
                "top1": _percent(evaluation.correct(answers.logits, merge)),
                "top5": _percent(evaluation.correct(answers.logits, merge, topk=5)),
                "gmacs": costs.grids[name],
                "params": costs.num_params,
                "per_second": evaluation.num_evaluated / max(answers.seconds, 1e-9),
            }
        )
    report: dict[str, Any] = {"fixed": fixed}
    if adaptive in evaluation.answers:
        answers = evaluation.answers[adaptive]
        prices = torch.tensor([costs.grids[name] for name in names])
        mean_price = float(prices[answers.lengths].mean())
        report["adaptive"] = {
            "top1": _percent(evaluation.correct(answers.logits, merge)),
            "top5": _percent(evaluation.correct(answers.logits, merge, topk=5)),
            "gmacs": mean_price + costs.assigner,
            "share": {
                name: float((answers.lengths == index).float().mean()) for index, name in enumerate(names)
            },
            "per_second": evaluation.num_evaluated / max(answers.seconds, 1e-9),
            "assigner_gmacs": costs.assigner,
            "assigner_params": costs.num_assigner_params,
        }
        per_grid = torch.stack([evaluation.answers[name].logits for name in names])  # (k, N, V, K)
        draws = _random_draws(evaluation, per_grid, answers.lengths, merge, num_draws)
        report["random"] = {"top1": sum(draws) / len(draws), "gmacs": mean_price, "draws": draws}
        report["oracle"] = _oracle(evaluation, per_grid, prices, merge)
    report["samples"] = {"evaluated": evaluation.num_evaluated, "failed": len(evaluation.failures)}
    report["failures"] = [{"path": failure.path, "reason": failure.reason} for failure in evaluation.failures]
    return report


def _random_draws(
    evaluation: Evaluation, per_grid: Tensor, lengths: Tensor, merge: str, num_draws: int
) -> list[float]:
    """Top-1 with the assigned lengths dealt out in random order, once per draw."""
    generator = torch.Generator().manual_seed(SEED)
    draws = []
    for _ in range(num_draws):
        order = torch.randperm(lengths.numel(), generator=generator)
        dealt = lengths.flatten()[order].view_as(lengths)
        chosen = per_grid.gather(0, dealt[None, ..., None].expand(1, *per_grid.shape[1:])).squeeze(0)
        draws.append(_percent(evaluation.correct(chosen, merge)))
    return draws


def _oracle(evaluation: Evaluation, per_grid: Tensor, prices: Tensor, merge: str) -> dict[str, float]:
    correct = torch.stack([evaluation.correct(logits, merge) for logits in per_grid], dim=1)
    lengths = smallest_correct(correct, "longest")
    return {"top1": _percent(correct.any(dim=1)), "gmacs": float(prices[lengths].mean())}


def _percent(correct: Tensor) -> float:
    return 100 * float(correct.double().mean())


def versions() -> dict[str, str]:
    """Versions of what the figures depend on."""
    found = {
        "python": platform.python_version(),
        "machine": f"{platform.machine()} {platform.processor()}".strip(),
    }
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
