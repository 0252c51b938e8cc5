"""The loss of the labels: one class of a sample, or several."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class LabelLoss:
    """Cross entropy with class numbers (B,) or soft targets (B, K); where a sample may have several labels, the mean over
    classes of the binary cross entropies with targets (B, K) between 0 and 1. All are means over the batch.

    With class weights a batch's weighted losses are divided by its number of samples, not by the sum of their weights as
    torch does for class numbers: so the mean over many batches does not depend on how samples fall together.
    """

    smoothing: float = 0.0
    """Share of the target that goes to all classes alike; with several labels to yes and no alike."""
    weights: Tensor | None = None
    """Weight (K,) of every class; with several labels, of its own samples against the others (`pos_weight`)."""
    several: bool = False

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Compare logits (B, K) with targets -> scalar."""
        weights = self.weights if self.weights is None else self.weights.to(logits.device, non_blocking=True)
        if self.several:
            smooth = targets * (1 - self.smoothing) + self.smoothing / 2
            return F.binary_cross_entropy_with_logits(logits, smooth.to(logits.dtype), pos_weight=weights)
        if weights is None:
            return F.cross_entropy(logits, targets, label_smoothing=self.smoothing)
        loss = F.cross_entropy(logits, targets, weights, label_smoothing=self.smoothing, reduction="sum")
        return loss / len(logits)

    def divergence(self, logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> Tensor:
        """Compute tau^2 KL(teacher || student) of logits (B, K) at temperature tau -> scalar; with several labels the mean over
        classes of that of yes and no. Batch mean; no gradient reaches the teacher."""
        student, teacher = logits / temperature, teacher_logits.detach() / temperature
        if self.several:
            answers = torch.stack([F.logsigmoid(student), F.logsigmoid(-student)])
            taught = torch.stack([F.logsigmoid(teacher), F.logsigmoid(-teacher)])
            total = F.kl_div(answers, taught, reduction="sum", log_target=True)
            return temperature**2 * total / logits.numel()
        student, teacher = F.log_softmax(student, dim=1), F.log_softmax(teacher, dim=1)
        return temperature**2 * F.kl_div(student, teacher, reduction="batchmean", log_target=True)

    def decided(self, logits: Tensor, teacher_logits: Tensor) -> Tensor:
        """Compare logits (B, K) with what the teacher decides -> scalar: its best class, or yes and no of every class."""
        if self.several:
            return F.binary_cross_entropy_with_logits(logits, (teacher_logits.detach() > 0).to(logits.dtype))
        return F.cross_entropy(logits, teacher_logits.detach().argmax(dim=1))
