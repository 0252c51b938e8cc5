"""What every classifier of this project returns, in training and in evaluation alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from revit.common.models.decision import Decision, Weighted, kept_positions, token_source_maps

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
