"""What every classifier of this project returns, in training and in evaluation alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from revit.common.models.decision import Decision, Weighted, kept_positions, trail_of

PATCH_SHARE = 0.5
"""Weight of the best patch beside the class token (LV-ViT's published evaluation)."""


class Reduction(NamedTuple):
    """What a reducer did to the S positions of B samples in one forward pass."""

    fates: Tensor
    """(B, S) long: the position whose token stands for each in the end; itself: kept, another: merged, -1: dropped."""
    kept: tuple[Tensor, ...] = ()
    """For every time the sequence became shorter, (B, K) long: the positions that went on, in the order of their tokens."""
    weights: tuple[Tensor, ...] = ()
    """For every time positions were weighed instead, (B, S), 1 or 0; gradients pass."""
    trail: tuple[Tensor, ...] = ()
    """The fates after every single decision, each (B, S) as `fates`, which is the last."""

    @classmethod
    def of(cls, decisions: Sequence[Decision]) -> Reduction | None:
        """None where nothing was decided."""
        if not decisions:
            return None
        weights = tuple(decision.keep for decision in decisions if isinstance(decision, Weighted))
        trail = tuple(trail_of(decisions))
        return cls(trail[-1], tuple(kept_positions(decisions)), weights, trail)

    def of_samples(self, chosen: slice) -> Reduction:
        """Of these samples alone."""
        return Reduction(
            self.fates[chosen],
            *(tuple(tensor[chosen] for tensor in part) for part in (self.kept, self.weights, self.trail)),
        )


class ModelOutput(NamedTuple):
    """Logits of one forward pass at one token grid, B samples, K classes.

    A tuple, because what hangs hooks on a module's output (DeepSpeed's ZeRO 3) looks for tensors in tuples only.
    """

    logits: Tensor
    """(B, K) of the class token."""
    distill_logits: Tensor | None = None
    """(B, K) of the distillation token; None where the grid has none (the teacher, a plain model)."""
    patch_logits: Tensor | None = None
    """(B, S, K) of the patch tokens, in row order; None where the model classifies no patches (all but LV-ViT)."""
    patch_features: Tensor | None = None
    """(B, S * T, D) of the patch tokens after the final norm, those that are left."""
    reduction: Reduction | None = None
    """What became of the positions, where the model has a reducer that did something."""

    @property
    def prediction(self) -> Tensor:
        """(B, K) logits to decide by: the mean of both heads where there are two (DeiT's rule, on logits), and half of
        the largest logit of each class over the patches where they have logits (LV-ViT's rule)."""
        prediction = self.logits
        if self.distill_logits is not None:
            prediction = (prediction + self.distill_logits) / 2
        if self.patch_logits is not None:
            prediction = prediction + PATCH_SHARE * self.patch_logits.amax(dim=1)
        return prediction


def merge_views(logits: Tensor, how: str) -> Tensor:
    """Logits per view (N, V, K) -> one score per sample and class (N, K).

    "logits" sums raw logits: what the published TimeSformer does, whatever its documentation says. "probabilities" is
    the mean of the views' softmax.
    """
    if how == "logits":
        return logits.sum(dim=1)
    return logits.softmax(dim=2).mean(dim=1)
