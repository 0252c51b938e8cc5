"""The Token-Length Assigner, and adaptive inference: every input at the token grid that the assigner chose for it."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from timm.models._efficientnet_builder import decode_arch_def, round_channels
from timm.models.efficientnet import EfficientNet
from torch import Tensor, nn

from revit.common.methods.revit.policy import LengthPolicy
from revit.common.models.base import GridModel, Reduction
from revit.common.models.grid import TokenGrid

# EfficientNet-B0 in timm's notation: r repeats, k kernel, s stride, e expansion, c channels, se squeeze ratio.
EFFICIENTNET_B0 = (
    ("ds_r1_k3_s1_e1_c16_se0.25",),
    ("ir_r2_k3_s2_e6_c24_se0.25",),
    ("ir_r2_k5_s2_e6_c40_se0.25",),
    ("ir_r3_k3_s2_e6_c80_se0.25",),
    ("ir_r3_k5_s1_e6_c112_se0.25",),
    ("ir_r4_k5_s2_e6_c192_se0.25",),
    ("ir_r1_k3_s1_e6_c320_se0.25",),
)


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
        self.net = EfficientNet(
            block_args=decode_arch_def([list(stage) for stage in EFFICIENTNET_B0], depth_multiplier=depth),
            num_classes=num_grids,
            num_features=round_channels(1280, width),
            stem_size=32,
            in_chans=in_chans,
            round_chs_fn=partial(round_channels, multiplier=width),
            act_layer=nn.SiLU,
            drop_rate=dropout,
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
