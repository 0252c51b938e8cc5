"""Adaptive inference: every input at the token grid the assigner chose for it."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from revit.common.methods.revit.policy import LengthPolicy
from revit.common.models.base import GridModel, Reduction
from revit.common.models.grid import TokenGrid


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
    label is it or a shorter one). With two grids 0.5 is the paper's rule; more is more cautious.

    `policy` takes the place of both where lengths are chosen for a mean cost, see `LengthPolicy`.
    """

    def __init__(
        self,
        model: GridModel,
        assigner: nn.Module | None = None,
        max_batch: int = 32,
        confidence: float | None = None,
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
        """Choose the grid index (B,) of inputs (B, C, ...). Without an assigner and a policy, the longest grid for all."""
        if self.policy is not None:
            return self.policy(inputs, self.assigner)
        if self.assigner is None:
            return torch.zeros(len(inputs), dtype=torch.long, device=inputs.device)
        logits = self.assigner(inputs)
        if self.confidence is None:
            return logits.argmax(dim=1)
        suffices = logits.float().softmax(dim=1).flip(1).cumsum(dim=1).flip(1)  # (B, k), falling from 1
        return (suffices[:, 1:] >= self.confidence).sum(dim=1)

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
