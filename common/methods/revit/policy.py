"""Token lengths for a wanted mean cost: a continuous threshold on what the assigner says, held while it is used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

DITHER = 1e-3
"""Largest addition to the scores, in log odds: a fortieth of a percent of probability, or less. It orders inputs of which
the assigner says the same, so that a threshold can pass between any two of them."""
HORIZON = 256
"""Inputs over which a mean cost that went astray is brought back."""
MAX_STEPS = 2000
_NUM_VALUES = 4096
_PRIME = 2**31 - 1


def score_grids(logits: Tensor) -> Tensor:
    """Turn the assigner's logits (B, k), longest grid first, into log odds (B, k - 1) that grid 1, ..., k - 1 suffices.

    A grid suffices where the label is it or a shorter one, so a row never rises. Unlike the probabilities, of which a sure
    assigner gives many that are exactly 1, log odds still tell sure from surer.
    """
    logits = logits.double()
    shorter = logits.flip(1).logcumsumexp(1).flip(1)[:, 1:]  # that grid or a shorter one
    longer = logits.logcumsumexp(1)[:, :-1]
    return (shorter - longer).clamp(-1e6, 1e6).float()


def dither(inputs: Tensor) -> Tensor:
    """Draw numbers (B,) evenly spread over 0 to 1 for normalised inputs (B, C, ...), each from its own pixels.

    Made of whole numbers, so it depends neither on the other inputs of a batch nor on the order of a sum.
    """
    flat = inputs.detach().flatten(1)
    step = max(1, flat.shape[1] // _NUM_VALUES) | 1  # odd: it does not follow the rows of a picture
    seen = flat[:, ::step]
    whole = (seen.float() * 4096).round().long()
    weights = torch.arange(1, seen.shape[1] + 1, device=inputs.device) * 2654435761 % _PRIME
    mixed = (whole * weights).sum(dim=1) % _PRIME
    return (mixed * 48271 % _PRIME).double().div(_PRIME).float().clamp(max=1 - 2**-24)


def dithered(scores: Tensor, spread: Tensor) -> Tensor:
    """Add `dither`'s numbers (...) to scores (..., k - 1): what thresholds are compared with, in float64."""
    return scores.double() + DITHER * spread.double().unsqueeze(-1)


def grid_index_at(scores: Tensor, threshold: float) -> Tensor:
    """Return the index (...) of the shortest grid whose dithered score (..., k - 1) reaches the threshold."""
    return (scores >= threshold).sum(dim=-1)


def assign_at_random(spread: Tensor, prices: Sequence[float], target: float) -> Tensor:
    """Return a grid index (...) for `dither`'s numbers (...) so that the mean cost is `target`, without the assigner: a share
    of the inputs at the next dearer grid, the others at the next cheaper one. `prices` fall."""
    last = len(prices) - 1
    shorter = next((index for index in range(1, last) if prices[index] <= target), last)
    span = prices[shorter - 1] - prices[shorter]
    share = (target - prices[shorter]) / span if span > 0 else 0.0
    return shorter - (spread.double() < share).long()


@dataclass(frozen=True)
class Steps:
    """Which threshold costs what in the mean, the assigner included; both rise."""

    gmacs: tuple[float, ...]
    thresholds: tuple[float, ...]

    @classmethod
    def of(cls, scores: Tensor, prices: Sequence[float], assigner: float) -> Steps:
        """Make a step of every dithered score (M, k - 1) of calibration, where one input gets one grid shorter; thin them out."""
        drops = torch.tensor([longer - shorter for longer, shorter in pairwise(prices)]).double()
        flat, order = scores.double().flatten().sort(descending=True)
        saved = drops.repeat(len(scores))[order].cumsum(0) / len(scores)
        costs = prices[0] + assigner - torch.cat([saved.new_zeros(1), saved])
        # Between every two scores; beyond the first and the last.
        edges = torch.cat([flat[:1] + 1, flat, flat[-1:] - 1])
        thresholds = (edges[:-1] + edges[1:]) / 2
        kept = torch.linspace(0, len(flat), min(len(flat) + 1, MAX_STEPS)).round().long().flip(0)
        return cls(
            tuple(round(cost, 9) for cost in costs[kept].tolist()),
            tuple(round(value, 9) for value in thresholds[kept].tolist()),
        )

    def threshold(self, target: float) -> float:
        """Return the threshold that costs `target` in the mean, or the nearest there is."""
        return float(np.interp(target, self.gmacs, self.thresholds))


class LengthPolicy:
    """Gives every input its token grid so that the mean over inputs costs `target` GMACs.

    With `steps` the assigner decides, by the threshold that cost so much on the calibration split; without, grids are
    assigned at random, by the inputs' pixels, and no assigner runs.

    hold: other inputs may be easier or harder than those of the calibration split, and a few hundred are never quite like
    it. So the threshold follows what was spent: what was too much or too little is made up for over the next 256 inputs.
    Then an input's grid depends a little on those before it. Without, it depends on the input alone.
    """

    def __init__(
        self, target: float, prices: Sequence[float], assigner_price: float, steps: Steps | None, hold: bool = True
    ) -> None:
        """Take the GMACs of every grid, longest first, as `prices`, which fall."""
        self.target = target
        self.prices = tuple(prices)
        self.assigner_price = assigner_price if steps is not None else 0.0
        self.steps = steps
        self.hold = hold
        self.num_inputs = 0
        self.counts = [0] * len(self.prices)
        """Counts of inputs by grid."""
        self.spent = 0.0

    @property
    def asks(self) -> bool:
        """The assigner runs."""
        return self.steps is not None

    @property
    def mean(self) -> float:
        """Mean GMACs of inputs so far, the assigner included."""
        return self.spent / max(self.num_inputs, 1)

    def __call__(self, inputs: Tensor, assigner: nn.Module | None) -> Tensor:
        """Choose the grid index (B,) of normalised inputs (B, C, ...)."""
        spread = dither(inputs)
        if self.steps is None:
            grid_index = assign_at_random(spread, self.prices, self._target_now())
        else:
            assert assigner is not None
            scores = dithered(score_grids(assigner(inputs)), spread)
            grid_index = grid_index_at(scores, self.steps.threshold(self._target_now()))
        self._note(grid_index)
        return grid_index

    def _target_now(self) -> float:
        if not self.hold:
            return self.target
        missing = (self.target * self.num_inputs - self.spent) / HORIZON
        low, high = self.prices[-1] + self.assigner_price, self.prices[0] + self.assigner_price
        return min(max(self.target + missing, low), high)

    def _note(self, grid_index: Tensor) -> None:
        counts = torch.bincount(grid_index, minlength=len(self.prices)).tolist()
        self.num_inputs += len(grid_index)
        self.counts = [before + count for before, count in zip(self.counts, counts)]
        self.spent += sum(count * (price + self.assigner_price) for count, price in zip(counts, self.prices))
