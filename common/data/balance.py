"""Classes of unequal size: weights of their losses, and how often their samples are met."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from revit.common.config.sections import BalanceOptions
from revit.common.data.label_names import check_label
from revit.common.data.lists import SampleList
from revit.common.system.errors import UserError

POWERS = {"balanced": 1.0, "inverse_sqrt": 0.5}
"""Power of a class's number of samples that its weight is divided by."""


def class_weights(options: BalanceOptions, samples: SampleList, names: Sequence[str]) -> NDArray[np.float32] | None:
    """Return the weight (K,) of every class in the loss; None for equal weights.

    By the rules a class of n_k samples weighs 1 / n_k (scikit-learn's "balanced") or 1 / sqrt(n_k), times what makes the mean
    over all N samples 1; a class without samples weighs 1. With several labels a sample a weight is that of the class's own
    samples against those of the others (torch's pos_weight): (N - n_k) / n_k, or its square root.

    UserError for given weights that are not one for each class, or of classes that there are not.
    """
    if options.weights == "none":
        return None
    if not isinstance(options.weights, str):
        return _given(options.weights, names)
    power, weights = POWERS[options.weights], np.ones(len(names))
    counts = np.bincount(samples.all_labels, minlength=len(names)).astype(float)
    known = counts > 0
    if samples.several:
        known &= counts < len(samples)
        weights[known] = ((len(samples) - counts[known]) / counts[known]) ** power
    else:
        weights[known] = scaled(counts[known], power)
    return weights.astype(np.float32)


def scaled(counts: NDArray[np.float64], power: float) -> NDArray[np.float64]:
    """Return weights in proportion to counts^-power, whose mean over the counted samples is 1. No count may be 0."""
    weights: NDArray[np.float64] = counts.sum() / (counts**power * (counts ** (1 - power)).sum())
    return weights


def sample_shares(options: BalanceOptions, samples: SampleList) -> NDArray[np.float64] | None:
    """Return in what proportion an epoch meets the samples (n,), mean 1; None: all alike.

    A sample of several labels has the mean of their shares; those without any are a class of their own.
    """
    if options.sampler == "none":
        return None
    empty = np.setdiff1d(np.arange(len(samples)), samples.owners)
    owners = np.concatenate([samples.owners, empty])
    labels = np.concatenate([samples.all_labels + 1, np.zeros(len(empty), np.int64)])  # class 0: no label
    counts = np.bincount(labels)
    by_class = np.zeros(len(counts))
    by_class[counts > 0] = scaled(counts[counts > 0].astype(float), POWERS[options.sampler])
    each = np.bincount(owners, by_class[labels]) / np.bincount(owners)
    return each / each.mean()


def _given(given: Sequence[float] | Mapping[str | int, float], names: Sequence[str]) -> NDArray[np.float32]:
    if isinstance(given, Mapping):
        weights, number_of = np.ones(len(names), np.float32), {name: number for number, name in enumerate(names)}
        for label, weight in given.items():
            try:
                weights[check_label(str(label), number_of)] = weight
            except ValueError as error:
                raise UserError(f"balance.weights: {error}; name the data's classes") from None
        return weights
    if len(given) != len(names):
        raise UserError(
            f"balance.weights has {len(given)} numbers, the data has {len(names)} classes; give one for each"
        )
    return np.array(given, np.float32)
