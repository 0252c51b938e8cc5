"""Whether probabilities mean what they say: the expected calibration error."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

NUM_BINS = 15
"""Bins of equal width, as in Guo et al."""


def reliability(probabilities: Tensor, right: Tensor, num_bins: int = NUM_BINS) -> dict[str, Any]:
    """Compare probabilities (M,) with what came true (M,), 0 or 1, in bins of equal width (Guo et al., "On Calibration of Modern
    Neural Networks", 2017, equation 3).

    Returns `ece`, the mean over all answers of the distance between a bin's mean probability and its share of right ones, in
    points; `bias`, the mean probability minus the share of right ones, in points (above 0: too sure); and the `bins` that
    have answers: `from`, `to` (probability; a bin contains its upper end), `answers`, and `probability` and `right` in percent.
    """
    values, came_true = probabilities.double().flatten(), right.double().flatten()
    place = (values * num_bins).ceil().long().clamp(1, num_bins) - 1
    counts = torch.bincount(place, minlength=num_bins)
    sums = [torch.bincount(place, one, minlength=num_bins) for one in (values, came_true)]
    bins = [
        {
            "from": number / num_bins,
            "to": (number + 1) / num_bins,
            "answers": count,
            "probability": 100 * float(sums[0][number]) / count,
            "right": 100 * float(sums[1][number]) / count,
        }
        for number, count in enumerate(counts.tolist())
        if count
    ]
    error = 100 * float((sums[0] - sums[1]).abs().sum()) / max(len(values), 1)
    bias = 100 * float((sums[0] - sums[1]).sum()) / max(len(values), 1)
    return {"ece": error, "bias": bias, "bins": bins}
