"""Figures of an evaluation that need no costs: accuracy, calibration of the probabilities, classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from revit.common.evaluation.evaluate import Evaluation
from revit.common.evaluation.label_sets import class_figures, mean_average_precision
from revit.common.evaluation.reliability import reliability


def accuracy(evaluation: Evaluation, name: str, merge: str) -> dict[str, float]:
    """Score a runner's answers, in percent: `top1` and `top5`; where a sample may have several labels, `top1` is the mean
    overlap of its labels with what is said, and `map` the mean average precision."""
    decided = evaluation.decided(name)
    top1 = evaluation.percent(decided, merge)
    if evaluation.several:
        return {
            "top1": top1,
            "map": 100 * mean_average_precision(evaluation.probabilities(name, merge), evaluation.targets),
        }
    return {"top1": top1, "top5": evaluation.percent(decided, merge, 5)}


def answer_figures(evaluation: Evaluation, merge: str, label_names: Sequence[str]) -> dict[str, Any]:
    """Return what report.json says of the probabilities: `reliability` of every policy (of its answer, or, where a sample may
    have several labels, of the yes to every class), and in that case `classes`, by the policy that stands for the run."""
    figures: dict[str, Any] = {"reliability": {}}
    for name, answers in evaluation.answers.items():
        values = evaluation.probabilities(name, merge)
        if evaluation.several:
            figures["reliability"][name] = reliability(values, evaluation.targets)
        else:
            figures["reliability"][name] = reliability(values.amax(dim=1), evaluation.correct(answers.logits, merge))
    if evaluation.several:
        policy = "adaptive" if "adaptive" in evaluation.answers else next(iter(evaluation.answers))
        said = evaluation.said(evaluation.decided(policy))
        values = evaluation.probabilities(policy, merge)
        figures["classes"] = class_figures(values, said, evaluation.targets, label_names)
    return figures
