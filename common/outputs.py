"""What every classifier of this project returns, in training and in evaluation alike."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

PATCH_SHARE = 0.5
"""Weight of the best patch beside the class token (LV-ViT's published evaluation)."""


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
