"""The probability from which on a class is said of an input that may have several, as a checkpoint keeps it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from revit.common.models.grid import TokenGrid

THRESHOLDS = "label_thresholds"
"""Key of a checkpoint's extra facts: the split that they were chosen on, and by grid a probability for every class."""


def limits_in(facts: Mapping[str, Any], grids: Sequence[TokenGrid], num_classes: int) -> Tensor | None:
    """Return the log odds (grids, K) of the thresholds that a checkpoint keeps, for a grid that it does not know those of the one
    with the nearest number of tokens; None where it keeps none that fit."""
    kept = (facts.get(THRESHOLDS) or {}).get("values")
    if not isinstance(kept, dict) or not kept or any(len(values) != num_classes for values in kept.values()):
        return None
    known = {TokenGrid.parse(name): values for name, values in kept.items()}
    nearest = [min(known, key=lambda one: abs(one.num_positions - grid.num_positions)) for grid in grids]
    return torch.tensor([known[grid] for grid in nearest], dtype=torch.float64).logit(eps=1e-9).float()
