"""What everything outside the models needs of one: token grids to run at, classes to tell apart, what a pass returns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from revit.common.models.grid import TokenGrid
from revit.common.models.reducer import Decision, Reducer, Weighted, kept_positions, token_source_maps

PATCH_SHARE = 0.5
"""Weight of the best patch beside the class token (LV-ViT's published evaluation)."""


class Reduction(NamedTuple):
    """The work of a reducer on the S positions of B samples in one forward pass."""

    token_source_maps: tuple[Tensor, ...] = ()
    """Position (B, S), long, whose token stands for each, after every decision; itself: kept, -1: dropped."""
    kept: tuple[Tensor, ...] = ()
    """Positions (B, K) that went on, in the order of their tokens, for every time the sequence became shorter."""
    weights: tuple[Tensor, ...] = ()
    """Weights (B, S), 1 or 0, for every time positions were weighed instead; gradients pass."""

    @property
    def token_source_map(self) -> Tensor:
        """The map (B, S) after all decisions."""
        return self.token_source_maps[-1]

    @classmethod
    def of(cls, decisions: Sequence[Decision]) -> Reduction | None:
        """Sum decisions up; None where nothing was decided."""
        if not decisions:
            return None
        weights = tuple(decision.keep for decision in decisions if isinstance(decision, Weighted))
        return cls(tuple(token_source_maps(decisions)), tuple(kept_positions(decisions)), weights)

    def of_samples(self, chosen: slice) -> Reduction:
        """Return the part of these samples."""
        return Reduction(*(tuple(tensor[chosen] for tensor in part) for part in self))


class ModelOutput(NamedTuple):
    """Logits of one forward pass at one token grid, B samples, K classes.

    A tuple, because what hangs hooks on a module's output (DeepSpeed's ZeRO 3) looks for tensors in tuples only.
    """

    logits: Tensor
    """Logits (B, K) of the class token."""
    distill_logits: Tensor | None = None
    """Logits (B, K) of the distillation token; None where the grid has none (the teacher, a plain model)."""
    patch_logits: Tensor | None = None
    """Logits (B, S, K) of the patch tokens in row order; None where the model classifies no patches (all but LV-ViT)."""
    patch_features: Tensor | None = None
    """Patch tokens (B, S * T, D) that are left, after the final norm."""
    reduction: Reduction | None = None
    """Fate of the positions, where the model has a reducer that did something."""

    @property
    def prediction(self) -> Tensor:
        """Logits (B, K) to decide by: the mean of both heads where there are two (DeiT's rule, on logits), and half of
        the largest logit of each class over the patches where they have logits (LV-ViT's rule)."""
        prediction = self.logits
        if self.distill_logits is not None:
            prediction = (prediction + self.distill_logits) / 2
        if self.patch_logits is not None:
            prediction = prediction + PATCH_SHARE * self.patch_logits.amax(dim=1)
        return prediction


def merge_views(logits: Tensor, how: str) -> Tensor:
    """Merge logits per view (N, V, K) into scores (N, K): their sum ("logits", as the published TimeSformer does, whatever
    its documentation says) or the mean of the views' softmax ("probabilities")."""
    return logits.sum(dim=1) if how == "logits" else logits.softmax(dim=2).mean(dim=1)


def view_probabilities(logits: Tensor, how: str, several: bool = False) -> Tensor:
    """Turn logits per view (N, V, K) into probabilities (N, K): those of the views' mean logits ("logits", which order classes
    as their sum does) or the mean of the views' own. several: a yes for every class by itself, instead of one class of all."""
    if how == "logits":
        mean = logits.sum(dim=1) / logits.shape[1]
        return mean.sigmoid() if several else mean.softmax(dim=1)
    return logits.sigmoid().mean(dim=1) if several else merge_views(logits, how)


class GridModel(nn.Module, ABC):
    """A classifier of pictures or clips that runs at one token grid or several."""

    grids: tuple[TokenGrid, ...]
    """Token grids, longest first; the first is the one that counts where none is named."""
    num_classes: int
    embed_dim: int
    """Width of the features that are classified."""
    asks_reducer: ClassVar[bool] = False
    """Has one sequence that a reducer can shorten, and asks it before every block."""

    def __init__(self) -> None:
        super().__init__()
        self.reducer: Reducer | None = None
        """Shortens the sequence between blocks."""

    @abstractmethod
    def check_grid(self, grid: TokenGrid | None) -> TokenGrid:
        """Return the grid to run, the longest where none is named. Raise KeyError or ValueError for an impossible one."""

    @abstractmethod
    def forward(self, inputs: Tensor, grid: TokenGrid | None = None) -> ModelOutput:
        """Classify normalised inputs (B, C, ...) -> logits (B, K), at `grid` (default: the longest)."""

    @abstractmethod
    def no_weight_decay(self) -> set[str]:
        """Return the names of parameters that are not decayed (timm's optimiser factory asks for them)."""

    @abstractmethod
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keep in training only what enters each block and compute the block again in the backward pass (timm's name)."""


class Normalizer(nn.Module):
    """(pixel / 255 - mean) / std per channel, for pictures (B, C, H, W) and clips (B, C, T, H, W).

    Bytes travel to the device and become floats there: a quarter of the traffic of normalising in the loader.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("scale", 1.0 / (255.0 * torch.tensor(std)), persistent=False)
        self.register_buffer("shift", -torch.tensor(mean) / torch.tensor(std), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Normalise uint8 (B, C, ...) to float (B, C, ...)."""
        per_channel = (1, -1, *[1] * (pixels.ndim - 2))
        return torch.addcmul(self.shift.view(per_channel), pixels.to(self.scale.dtype), self.scale.view(per_channel))

    def undo(self, inputs: Tensor) -> Tensor:
        """Turn normalised (B, C, ...) back to uint8, cut to what bytes hold."""
        per_channel = (1, -1, *[1] * (inputs.ndim - 2))
        pixels = (inputs.float() - self.shift.view(per_channel)) / self.scale.view(per_channel)
        return pixels.round().clamp(0, 255).to(torch.uint8)
