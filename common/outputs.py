"""What every classifier of this project returns, in training and in evaluation alike."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class ModelOutput:
    """Logits of one forward pass at one token grid, B samples, K classes."""

    logits: Tensor
    """(B, K) of the class token."""
    distill_logits: Tensor | None = None
    """(B, K) of the distillation token; None where the grid has none (the teacher, a plain model)."""

    @property
    def prediction(self) -> Tensor:
        """(B, K) logits to decide by: the mean of both heads where there are two (DeiT's rule, on logits)."""
        if self.distill_logits is None:
            return self.logits
        return (self.logits + self.distill_logits) / 2
