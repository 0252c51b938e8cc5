"""The baseline without an assigner: a cascade of the same model's grids that stops when it is confident (DVT).

Not All Images are Worth 16x16 Words, section 3: the shortest grid answers first; where the largest softmax probability
reaches that exit's threshold its answer stands, elsewhere the next longer grid runs. An input pays for every grid it ran.
Several views of a sample are decided about one by one, as an assigner does, and then merged.

Thresholds are found on a calibration split for wanted shares of the exits, proportional to q^k (k the exit's number, the
shortest grid's first), as in DVT's published code; no target is looked at. Difference: confidences are compared as log
odds, which order answers whose probabilities are all 1 in rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from revit.common.config.options import Options

NUM_RATIOS = 101


def confidences(per_grid: Tensor, several: bool = False) -> Tensor:
    """Turn logits (k, ..., K) into log odds of the largest softmax probability (k, ...), in float64. several: an input may have
    several labels; then those of the least sure of its decisions, yes or no for every class."""
    logits = per_grid.double()
    if several:
        return logits.abs().amin(dim=-1).clamp(max=1e6)
    if logits.shape[-1] == 1:
        return torch.full(logits.shape[:-1], 1e6, dtype=torch.float64)
    best = logits.max(dim=-1, keepdim=True)
    others = logits.scatter(-1, best.indices, -torch.inf).logsumexp(dim=-1)
    return (best.values.squeeze(-1) - others).clamp(-1e6, 1e6)


def cumulative(prices: Sequence[float]) -> list[float]:
    """Return what an input pays that stops at each grid, of the grids' prices, longest first."""
    return [sum(prices[index:]) for index in range(len(prices))]


def exits(confidence: Tensor, thresholds: Sequence[float]) -> Tensor:
    """Return the index (...) of the grid that answers, for log odds (k, ...), longest grid first, and the thresholds of all
    exits but the last, shortest grid first. The longest answers whatever is left."""
    last = len(confidence) - 1
    answer = torch.zeros(confidence.shape[1:], dtype=torch.long)
    open_ = torch.ones(confidence.shape[1:], dtype=torch.bool)
    for number, threshold in enumerate(thresholds):
        leaves = open_ & (confidence[last - number] >= threshold)
        answer[leaves] = last - number
        open_ &= ~leaves
    return answer


def thresholds_for(confidence: Tensor, shares: Sequence[float]) -> list[float]:
    """Return the thresholds of all exits but the last, for log odds (k, M) and the wanted share of every exit, shortest grid
    first: at each exit those leave that are surest of those still there."""
    last, total = len(confidence) - 1, confidence.shape[1]
    left = torch.arange(total)
    found = []
    for number in range(last):
        wanted = min(round(shares[number] * total), len(left))
        values, order = confidence[last - number, left].sort(descending=True)
        edges = torch.cat([values[:1] + 1, values, values[-1:] - 1]) if len(left) else torch.zeros(2)
        threshold = float(edges[wanted : wanted + 2].mean())
        found.append(threshold)
        left = left[order][values < threshold]
    return found


class CascadeTable(Options):
    """Thresholds over mean cost, from everything leaving at the shortest grid to everything going through all."""

    split: str
    """Split whose samples they were found on."""
    gmacs: tuple[float, ...]
    """Mean costs, rising."""
    thresholds: tuple[tuple[float, ...], ...]
    """Log odds of every exit but the last, shortest grid first, at each of the costs."""

    @classmethod
    def of(cls, split: str, per_grid: Tensor, prices: Sequence[float], several: bool = False) -> CascadeTable:
        """Find them on the logits (k, N, V, K) of a calibration split, longest grid first. The ratios q are r / (1 - r) for r evenly
        spaced from 0 to 1, so all costs are covered; DVT's are 0.05 to 2.95."""
        confidence = confidences(per_grid, several).flatten(1)
        paid = torch.tensor(cumulative(prices), dtype=torch.float64)
        rows: list[tuple[float, tuple[float, ...]]] = []
        for ratio in np.linspace(0, 1, NUM_RATIOS):
            number = np.arange(len(prices))
            weights = ratio**number * (1 - ratio) ** (len(prices) - 1 - number)  # as q^k, without dividing by 0
            found = thresholds_for(confidence, weights / weights.sum())
            cost = float(paid[exits(confidence, found)].mean())
            if not rows or cost > rows[-1][0]:
                rows.append((cost, tuple(round(value, 9) for value in found)))
        return cls(
            split=split, gmacs=tuple(round(cost, 9) for cost, _ in rows), thresholds=tuple(found for _, found in rows)
        )

    def at(self, gmacs: float) -> list[float]:
        """Return the thresholds for a mean cost, in proportion between the stored ones."""
        return [float(np.interp(gmacs, self.gmacs, column)) for column in zip(*self.thresholds)]


def gather_answers(per_grid: Tensor, grid_index: Tensor) -> Tensor:
    """Pick from logits (k, N, V, K) those of the grids at `grid_index` (N, V): (N, V, K)."""
    return per_grid.gather(0, grid_index[None, ..., None].expand(1, *per_grid.shape[1:])).squeeze(0)


def shares_of(grid_index: Tensor, names: Sequence[str]) -> dict[str, float]:
    """Return the fraction of all inputs at each grid, by name."""
    counts = torch.bincount(grid_index.flatten(), minlength=len(names)).double() / max(grid_index.numel(), 1)
    return dict(zip(names, counts.tolist()))


def cascade_figures(
    per_grid: Tensor,
    grids: Mapping[str, float],
    table: CascadeTable,
    gmacs: float,
    top1: Callable[[Tensor], float],
    several: bool = False,
) -> dict[str, Any]:
    """Return the cascade at the mean cost `gmacs`, and its curve, on the logits (k, N, V, K) of the samples that are reported on.

    grids: GMACs by name, longest first. top1: (N, V, K) -> percent.  several: as of `confidences`.
    """
    confidence = confidences(per_grid, several)
    paid = torch.tensor(cumulative(list(grids.values())), dtype=torch.float64)

    def run(thresholds: Sequence[float]) -> tuple[Tensor, dict[str, float]]:
        grid_index = exits(confidence, thresholds)
        found = {"gmacs": float(paid[grid_index].mean()), "top1": top1(gather_answers(per_grid, grid_index))}
        return grid_index, found

    thresholds = table.at(gmacs)
    grid_index, figures = run(thresholds)
    # Log odds as the probabilities they stand for.
    probabilities = torch.tensor(thresholds, dtype=torch.float64).sigmoid().tolist()
    every = max(1, (len(table.gmacs) - 1) // 25)
    return {
        **figures,
        "share": shares_of(grid_index, list(grids)),
        "thresholds": dict(zip(reversed(list(grids)), probabilities)),
        "calibrated_on": table.split,
        "curve": [run(row)[1] for row in table.thresholds[::every]],
    }
