"""Token-length-aware self-distillation."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from revit.common.models.outputs import ModelOutput


@dataclass(frozen=True)
class SelfDistillation:
    """Equation 1 of ReViT: (1 - lambda) CE(student, y) + lambda tau^2 KL(teacher || student) at temperature tau.

    The cross entropy is on the class head, the KL term on the distillation head (on the class head where a model has
    none); KL is teacher first, batch mean, and the teacher's logits carry no gradient. Readings of what the paper
    leaves open: the 0.5 and 0.9 that its Table 2 calls tau are lambda (a temperature below 1 with tau^2 in front would
    shrink the term); the equation is soft, while its text speaks of the teacher's predicted label: `hard` is that
    reading, a cross entropy with the teacher's argmax. `weight` 0 trains every grid on its own.
    """

    weight: float = 0.9
    """lambda"""
    temperature: float = 1.0
    """tau"""
    hard: bool = False
    label_smoothing: float = 0.0

    def cross_entropy(self, logits: Tensor, targets: Tensor) -> Tensor:
        """(B, K) with class numbers (B,) or soft targets (B, K) -> scalar"""
        return F.cross_entropy(logits, targets, label_smoothing=self.label_smoothing)

    def supervised(self, output: ModelOutput, targets: Tensor) -> Tensor:
        """Learning from the labels alone -> scalar. A distillation head does too, or it would drag the mean of both heads
        down: the mean of both cross entropies."""
        losses = [
            self.cross_entropy(logits, targets)
            for logits in (output.logits, output.distill_logits)
            if logits is not None
        ]
        return sum(losses[1:], losses[0]) / len(losses)

    def __call__(self, student: ModelOutput, teacher_logits: Tensor, targets: Tensor) -> Tensor:
        """Student output and teacher logits (B, K), targets (B,) or (B, K) -> scalar"""
        if self.weight == 0:
            return self.supervised(student, targets)
        supervised = self.cross_entropy(student.logits, targets)
        taught = student.logits if student.distill_logits is None else student.distill_logits
        teacher_logits = teacher_logits.detach()
        if self.hard:
            distilled = F.cross_entropy(taught, teacher_logits.argmax(dim=1))
        else:
            tau = self.temperature
            distilled = tau**2 * F.kl_div(
                F.log_softmax(taught / tau, dim=1),
                F.log_softmax(teacher_logits / tau, dim=1),
                reduction="batchmean",
                log_target=True,
            )
        return (1 - self.weight) * supervised + self.weight * distilled
