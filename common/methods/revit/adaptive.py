"""Adaptive inference: every input at the token grid that the Token-Length Assigner chose for it, or for a wanted mean cost by
a continuous threshold on what the assigner says, held while it is used."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from timm.models.efficientnet import _gen_efficientnet
from torch import Tensor, nn

from revit.common.models.base import GridModel, Reduction
from revit.common.models.grid import TokenGrid
from revit.common.system.errors import UserError

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


def confident_grids(logits: Tensor, confidence: float | None) -> Tensor:
    """Return the grid index (B,) for the assigner's logits (B, k): see `AdaptiveClassifier.confidence`."""
    if confidence is None:
        return logits.argmax(dim=1)
    suffices = logits.float().softmax(dim=1).flip(1).cumsum(dim=1).flip(1)  # (B, k), falling from 1
    return (suffices[:, 1:] >= confidence).sum(dim=1)


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
        self,
        target: float,
        prices: Sequence[float],
        assigner_price: float,
        steps: Steps | None,
        hold: bool = True,
        why: str = "",
    ) -> None:
        """Take the GMACs of every grid, longest first, as `prices`, which fall; `why`: words for who decided so, if not the user."""
        self.target = target
        self.prices = tuple(prices)
        self.assigner_price = assigner_price if steps is not None else 0.0
        self.steps = steps
        self.hold = hold
        self.why = why
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


class TokenLengthAssigner(nn.Module):
    """Shrunk EfficientNet-B0 that predicts the smallest sufficient token grid (ReViT sections 3.1 and 4).

    The paper's appendix with its details is not public. Reading: width and depth 0.5 at 112 pixels (0.021 GMACs a
    frame, 0.66 M parameters with three grids). A clip shows `num_frames` frames, each the middle of its share of the
    clip (one frame: the middle one), whose logits are averaged.
    """

    def __init__(
        self,
        num_grids: int,
        size: int = 112,
        num_frames: int = 1,
        width: float = 0.5,
        depth: float = 0.5,
        in_chans: int = 3,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.size = size
        self.num_frames = num_frames
        scale = {"channel_multiplier": width, "depth_multiplier": depth}
        self.net = _gen_efficientnet(
            "efficientnet_b0", **scale, num_classes=num_grids, in_chans=in_chans, drop_rate=dropout
        )

    def forward(self, inputs: Tensor) -> Tensor:
        """Score normalised pictures (B, C, H, W) or clips (B, C, T, H, W) -> logits (B, number of grids), longest first."""
        if inputs.ndim == 4:
            return self.net(self._shrink(inputs))
        B, _, T = inputs.shape[:3]
        share = T / self.num_frames
        moments = torch.tensor([int((index + 0.5) * share) for index in range(self.num_frames)], device=inputs.device)
        frames = inputs.index_select(2, moments).transpose(1, 2).flatten(0, 1)  # (B * frames, C, H, W)
        return self.net(self._shrink(frames)).unflatten(0, (B, self.num_frames)).mean(dim=1)

    def _shrink(self, images: Tensor) -> Tensor:
        if images.shape[-2:] == (self.size, self.size):
            return images
        # In float32: the smoothing kernel does not exist for bfloat16 on a CPU.
        small = F.interpolate(
            images.float(), size=(self.size, self.size), mode="bilinear", align_corners=False, antialias=True
        )
        return small.to(images.dtype)


def batch_at(grid: TokenGrid, longest: TokenGrid, max_batch: int) -> int:
    """Return how many inputs run together at `grid`: more than `max_batch` by as much as it has fewer tokens than the longest
    grid, to the nearest number (rounded down, two clips of 10x10 would run alone where one of 14x14 does)."""
    return max(1, int(max_batch * longest.num_positions / grid.num_positions + 0.5))


@dataclass(frozen=True)
class AdaptiveOutput:
    """Answers of an adaptive pass to B inputs, in their order."""

    prediction: Tensor
    """Logits (B, K)."""
    grid_index: Tensor
    """Position of each input's grid in the model's list, (B,) long; 0 is the longest."""
    groups: tuple[tuple[Tensor, Reduction | None], ...] = ()
    """Inputs that ran together, (n,) long, and what a reducer did to theirs."""

    def reductions(self) -> list[Reduction | None]:
        """Return what a reducer did to each of the B inputs, or to its frames where they were decided about one by one."""
        found: list[Reduction | None] = [None] * len(self.grid_index)
        for rows, reduction in self.groups:
            if reduction is not None:
                each = len(reduction.token_source_map) // len(rows)
                for place, row in enumerate(rows.tolist()):
                    found[row] = reduction.of_samples(slice(place * each, (place + 1) * each))
        return found


class AdaptiveClassifier(nn.Module):
    """Assign, group by grid, run every group dense, answer in input order (ReViT Figure 2, right).

    The inputs of one batch may get different grids. Each group runs as one batch, cut into pieces of at most
    `max_batch` (the longest grid's limit; shorter grids take as many inputs more as their token count is smaller), so
    memory stays bounded whatever the assignment.

    `confidence`: None takes the assigner's most probable grid, as the paper does; a number gives every input the
    shortest grid that suffices with at least this probability by the assigner's softmax (a grid suffices where the
    label is it or a shorter one). With two grids 0.5 is the paper's rule; more is more cautious. "auto" is for a `policy`
    that a calibration found.

    `policy` takes the place of both where lengths are chosen for a mean cost, see `LengthPolicy`.
    """

    def __init__(
        self,
        model: GridModel,
        assigner: nn.Module | None = None,
        max_batch: int = 32,
        confidence: float | Literal["auto"] | None = None,
        grids: Sequence[TokenGrid] | None = None,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        """Take `grids`, longest first, instead of the model's own, and `facts` that a checkpoint keeps beside the weights."""
        super().__init__()
        self.model = model
        self.grids = model.grids if grids is None else tuple(grids)
        self.assigner = assigner
        self.max_batch = max_batch
        self.confidence = confidence
        self.policy: LengthPolicy | None = None
        self.facts: Mapping[str, Any] = facts or {}

    def served_by(self, model: GridModel) -> AdaptiveClassifier:
        """Make the same in evaluation mode with another implementation of the model, and an assigner of its own."""
        served = AdaptiveClassifier(
            model, copy.deepcopy(self.assigner), self.max_batch, self.confidence, self.grids, self.facts
        )
        served.policy = self.policy
        return served.eval()

    def assign(self, inputs: Tensor) -> Tensor:
        """Choose the grid index (B,) of inputs (B, C, ...). Without an assigner and a policy, the longest grid for all.

        UserError for a confidence that no calibration has found yet.
        """
        if self.policy is not None:
            return self.policy(inputs, self.assigner)
        if self.assigner is None:
            return torch.zeros(len(inputs), dtype=torch.long, device=inputs.device)
        if self.confidence == "auto":
            raise UserError(
                "assigner.confidence is auto, and this checkpoint is not calibrated so; train_net --stage calibrate does it, or "
                "give a grid or a number for assigner.confidence"
            )
        return confident_grids(self.assigner(inputs), self.confidence)

    def forward(self, inputs: Tensor, grid_index: Tensor | None = None) -> AdaptiveOutput:
        """Classify normalised inputs (B, C, ...), each at its grid (B,): the assigner's choice, or those given instead."""
        grid_index = self.assign(inputs) if grid_index is None else grid_index
        prediction = inputs.new_empty(len(inputs), self.model.num_classes)
        groups: list[tuple[Tensor, Reduction | None]] = []
        for index, grid in enumerate(self.grids):
            group = (grid_index == index).nonzero().squeeze(1)
            if not len(group):
                continue
            for rows in group.split(batch_at(grid, self.grids[0], self.max_batch)):
                # A group of the whole batch needs no copy; index_select makes others contiguous.
                chosen = inputs if len(rows) == len(inputs) else inputs.index_select(0, rows)
                output = self.model(chosen, grid)
                prediction[rows] = output.prediction.to(prediction.dtype)
                groups.append((rows, output.reduction))
        return AdaptiveOutput(prediction, grid_index, tuple(groups))
