"""Answers where a sample may have several labels: how good they are, and from which probability on a class is said."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

DEFAULT = 0.5


def average_precision(scores: Tensor, targets: Tensor) -> Tensor:
    """Return the average precision (K,) of scores (N, K) for 0/1 targets (N, K), from 0 to 1; NaN for a class without samples.

    The sum over ranks of precision there times what recall gains there, equal scores being one rank (scikit-learn's
    `average_precision_score`; no interpolation, unlike PASCAL VOC's).
    """
    from sklearn.metrics import average_precision_score  # takes a second to load

    found = torch.full((targets.shape[1],), torch.nan, dtype=torch.float64)
    known = targets.sum(dim=0) > 0
    if known.any():
        values = average_precision_score(targets[:, known].numpy() > 0.5, scores[:, known].numpy(), average=None)
        found[known] = torch.as_tensor(np.atleast_1d(values), dtype=torch.float64)
    return found


def mean_average_precision(scores: Tensor, targets: Tensor) -> float:
    """Return the mean of `average_precision` over the classes that have samples, from 0 to 1."""
    return float(average_precision(scores, targets).nanmean())


def overlap(said: Tensor, targets: Tensor) -> Tensor:
    """Return for sets of classes (N, K) how much of both together they share (N,): intersection over union, 1 where both are
    empty (the multi-label accuracy of Godbole and Sarawagi, 2004). Where samples have one label each and answers too, it is
    1 for a right one and 0 for a wrong one."""
    both, either = (said & (targets > 0.5)).sum(dim=1), (said | (targets > 0.5)).sum(dim=1)
    return torch.where(either > 0, both.double() / either.clamp(min=1), 1.0)


def best_thresholds(probabilities: Tensor, targets: Tensor) -> list[float]:
    """Choose for every class the probability from which on saying it gives the best F1 on (N, K); of equally good ones that
    nearest to 0.5. It lies midway between two probabilities that were met. A class without samples keeps 0.5."""
    from sklearn.metrics import precision_recall_curve  # takes a second to load

    chosen = []
    for values, wanted in zip(probabilities.double().T.numpy(), (targets > 0.5).T.numpy(), strict=True):
        if not wanted.any():
            chosen.append(DEFAULT)
            continue
        precision, recall, met = precision_recall_curve(wanted, values)
        precision, recall = precision[:-1], recall[:-1]  # the last point says nothing
        f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
        midway = (met + np.concatenate([[0.0], met[:-1]])) / 2
        best = np.flatnonzero(f1 >= f1.max() - 1e-12)
        chosen.append(float(midway[best[np.abs(midway[best] - DEFAULT).argmin()]]))
    return chosen


def class_figures(probabilities: Tensor, said: Tensor, targets: Tensor, names: Sequence[str]) -> list[dict[str, Any]]:
    """Return for every class its samples, average precision, and precision, recall and F1 of what is said, in percent; None
    where there is nothing to count. Worst average precision first."""
    wanted = targets > 0.5
    right, answered, samples = ((one.sum(dim=0).double()) for one in (said & wanted, said, wanted))
    columns: dict[str, NDArray[np.float64]] = {
        "ap": average_precision(probabilities, targets).numpy(),
        "precision": (right / answered).numpy(),
        "recall": (right / samples).numpy(),
        "f1": (2 * right / (answered + samples)).numpy(),
    }
    rows = []
    for number, name in enumerate(names):
        figures = {
            key: None if np.isnan(column[number]) else 100 * float(column[number]) for key, column in columns.items()
        }
        rows.append({"class": name, "samples": int(samples[number]), **figures})
    return sorted(rows, key=lambda row: (row["ap"] is None, row["ap"]))
