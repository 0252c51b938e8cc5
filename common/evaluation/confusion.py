"""What is taken for what: classes for classes, and assigned token grids for those that were needed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from revit.common.evaluation.intervals import wilson
from revit.common.evaluation.record import ADAPTIVE, EvaluationRecord

NONE_RIGHT = "none right"


def confusion(record: EvaluationRecord) -> Tensor:
    """Count (K, K) int64 samples of the class of the row that were answered with the class of the column."""
    classes = len(record.label_names)
    flat = record.targets * classes + record.predictions[record.policy]
    return torch.bincount(flat, minlength=classes**2).view(classes, classes)


def per_class(record: EvaluationRecord) -> list[dict[str, Any]]:
    """Return top-1 of every class that has samples, with its 95 % interval, in percent; the worst first."""
    classes = len(record.label_names)
    totals = torch.bincount(record.targets, minlength=classes).tolist()
    rights = torch.bincount(record.targets[record.correct(record.policy)], minlength=classes).tolist()
    rows = []
    for name, right, of in zip(record.label_names, rights, totals):
        if of:
            low, high = wilson(right / of, of)
            interval = {"low": 100 * low, "high": 100 * high}
            rows.append({"class": name, "samples": of, "top1": 100 * right / of, **interval})
    return sorted(rows, key=lambda row: row["top1"])


def confused_pairs(record: EvaluationRecord, most: int = 15) -> list[dict[str, Any]]:
    """Return the classes that are taken for another one most often; `share` is of all samples of the class, in percent."""
    wrong, names = ~record.correct(record.policy), record.label_names
    pairs = torch.stack([record.targets[wrong], record.predictions[record.policy][wrong]], dim=1)
    found, counts = pairs.unique(dim=0, return_counts=True)
    of = torch.bincount(record.targets, minlength=len(names)).tolist()
    rows = []
    for place in counts.argsort(descending=True, stable=True)[:most].tolist():
        (target, answer), count = found[place].tolist(), int(counts[place])
        share = 100 * count / of[target]
        rows.append({"class": names[target], "answered": names[answer], "samples": count, "share": share})
    return rows


def by_length(record: EvaluationRecord) -> list[dict[str, Any]]:
    """Say for each grid what the inputs are worth that the assigner gave it: their number and share, top-1 as they were
    answered, and top-1 of the same samples at every fixed grid. Empty without an assigner.

    An input is a view of a sample; it counts as right where the sample's merged answer is.
    """
    if record.grid_index is None:
        return []
    views = record.grid_index.shape[1]
    correct = {name: record.correct(name)[:, None].expand(-1, views) for name in (ADAPTIVE, *record.grids)}
    rows = []
    for index, grid in enumerate(record.grids):
        given = record.grid_index == index
        num = int(given.sum())
        right = {name: 100 * float(one[given].double().mean()) if num else None for name, one in correct.items()}
        rows.append(
            {"length": grid, "inputs": num, "share": num / given.numel(), "top1": right.pop(ADAPTIVE), "top1_at": right}
        )
    return rows


def assigned_against_needed(record: EvaluationRecord) -> dict[str, list[int]]:
    """Return for each assigned grid the inputs by the grid that they needed: the shortest fixed one that is right, and last
    those that none answers rightly. Empty without an assigner."""
    if record.grid_index is None:
        return {}
    needed = record.oracle()[:, None].expand_as(record.grid_index)
    width = len(record.grids) + 1
    table = torch.bincount((record.grid_index * width + needed).flatten(), minlength=len(record.grids) * width)
    return dict(zip(record.grids, table.view(-1, width).tolist()))
