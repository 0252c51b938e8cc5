"""What is taken for what: classes for classes, and assigned token lengths for those that were needed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from revit.common.evaluation.intervals import wilson
from revit.common.evaluation.record import ADAPTIVE, Seen

NONE_RIGHT = "none right"


def confusion(seen: Seen) -> Tensor:
    """(K, K) int64: samples of the class of the row that were answered with the class of the column."""
    classes = len(seen.label_names)
    flat = seen.targets * classes + seen.predictions[seen.policy]
    return torch.bincount(flat, minlength=classes**2).view(classes, classes)


def per_class(seen: Seen) -> list[dict[str, Any]]:
    """Top-1 of every class that has samples, with its 95 % interval; the worst first."""
    classes = len(seen.label_names)
    totals = torch.bincount(seen.targets, minlength=classes).tolist()
    rights = torch.bincount(seen.targets[seen.correct(seen.policy)], minlength=classes).tolist()
    rows = []
    for name, right, of in zip(seen.label_names, rights, totals):
        if of:
            low, high = wilson(right / of, of)
            interval = {"low": 100 * low, "high": 100 * high}
            rows.append({"class": name, "samples": of, "top1": 100 * right / of, **interval})
    return sorted(rows, key=lambda row: row["top1"])


def confused_pairs(seen: Seen, most: int = 15) -> list[dict[str, Any]]:
    """The classes that are taken for another one most often; `share` is of all samples of the class, in percent."""
    wrong = ~seen.correct(seen.policy)
    pairs = torch.stack([seen.targets[wrong], seen.predictions[seen.policy][wrong]], dim=1)
    found, counts = pairs.unique(dim=0, return_counts=True)
    of = torch.bincount(seen.targets, minlength=len(seen.label_names)).tolist()
    rows = []
    for place in counts.argsort(descending=True, stable=True)[:most].tolist():
        target, answer = found[place].tolist()
        count = int(counts[place])
        names = {"class": seen.label_names[target], "answered": seen.label_names[answer]}
        rows.append({**names, "samples": count, "share": 100 * count / of[target]})
    return rows


def by_length(seen: Seen) -> list[dict[str, Any]]:
    """For each length what the inputs are worth that the assigner gave it: their number and share, top-1 as they were
    answered, and top-1 of the same samples at every fixed length. Empty without an assigner.

    An input is a view of a sample; it counts as right where the sample's merged answer is.
    """
    if seen.lengths is None:
        return []
    views = seen.lengths.shape[1]
    correct = {name: seen.correct(name)[:, None].expand(-1, views) for name in (ADAPTIVE, *seen.grids)}
    rows = []
    for position, grid in enumerate(seen.grids):
        given = seen.lengths == position
        num = int(given.sum())
        right = {name: 100 * float(one[given].double().mean()) if num else None for name, one in correct.items()}
        rows.append(
            {"length": grid, "inputs": num, "share": num / given.numel(), "top1": right.pop(ADAPTIVE), "top1_at": right}
        )
    return rows


def assigned_against_needed(seen: Seen) -> dict[str, list[int]]:
    """Assigned length -> inputs by the length that they needed: the shortest fixed one that is right, and last those that
    none answers rightly. Empty without an assigner."""
    if seen.lengths is None:
        return {}
    needed = seen.oracle()[:, None].expand_as(seen.lengths)
    width = len(seen.grids) + 1
    table = torch.bincount((seen.lengths * width + needed).flatten(), minlength=len(seen.grids) * width)
    return dict(zip(seen.grids, table.view(-1, width).tolist()))
