"""The two trainings of ReViT: the model at all its token grids, and the assigner."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from revit.common.data.batch import Batch
from revit.common.methods.label_loss import LabelLoss
from revit.common.methods.task import LengthExchange, OneProcess, Task
from revit.common.models.base import GridModel, ModelOutput


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
    class_weights: Tensor | None = None
    """Weight (K,) of every class, see `LabelLoss`."""
    several: bool = False
    """Whether a sample may have several labels; cross entropies and KL are then binary, see `LabelLoss`."""

    @property
    def labels(self) -> LabelLoss:
        return LabelLoss(self.label_smoothing, self.class_weights, self.several)

    def cross_entropy(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Compare (B, K) with class numbers (B,) or soft targets (B, K) -> scalar."""
        return self.labels(logits, targets)

    def supervised(self, output: ModelOutput, targets: Tensor) -> Tensor:
        """Learn from the labels alone -> scalar: the mean of both heads' cross entropies where there are two, or the
        distillation head would drag their mean down."""
        loss = self.cross_entropy(output.logits, targets)
        if output.distill_logits is None:
            return loss
        return (loss + self.cross_entropy(output.distill_logits, targets)) / 2

    def __call__(self, student: ModelOutput, teacher_logits: Tensor, targets: Tensor) -> Tensor:
        """Learn from the labels (B,) or (B, K) and the teacher's logits (B, K) -> scalar."""
        if self.weight == 0:
            return self.supervised(student, targets)
        supervised = self.cross_entropy(student.logits, targets)
        taught = student.logits if student.distill_logits is None else student.distill_logits
        if self.hard:
            distilled = self.labels.decided(taught, teacher_logits)
        else:
            distilled = self.labels.divergence(taught, teacher_logits, self.temperature)
        return (1 - self.weight) * supervised + self.weight * distilled


def divergence(logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Compute tau^2 KL(teacher || student) of logits (B, K) at temperature tau, batch mean -> scalar."""
    return LabelLoss().divergence(logits, teacher_logits, temperature)


@dataclass
class ResizableTask(Task):
    """Algorithm 1 of ReViT: every grid sees the batch, longest first, and all gradients make one step.

    The longest grid learns from the labels and its logits, from this same pass in training mode, teach the others;
    the losses are summed, not averaged (the paper accumulates gradients). The algorithm's `R[i] == 16` is read as
    "the first of the list", and its loop to len(R) - 1 as all entries. One grid is plain training.
    """

    distill: SelfDistillation = field(default_factory=SelfDistillation)
    exchange: LengthExchange = field(default_factory=OneProcess, compare=False)
    """The place where the grids run: here, or shared out among processes (ReViT figure 4)."""

    def losses(self, model: nn.Module, inputs: Tensor, batch: Batch) -> Iterator[tuple[str, Tensor]]:
        grids = cast(GridModel, model).grids
        for grid in self.exchange.begin(grids):
            with self.exchange.forwarding(grid):
                output = model(inputs, grid)
            if grid == grids[0]:
                self.exchange.publish(output.logits.detach())
                yield grid.name, self.distill.supervised(output, batch.targets)
            else:
                teacher = self.exchange.teacher_logits(like=output.logits.detach())
                yield grid.name, self.distill(output, teacher, batch.targets)


@dataclass
class AssignerTask(Task):
    """Cross entropy of the Token-Length Assigner on token-length labels (ReViT section 3.1)."""

    labels: Tensor
    """Grid index by sample id, (size of the list,); -1 where a sample has no label."""
    weights: Tensor | None = None
    """Weight of every grid (k,), for labels that lean to one grid."""
    mirror: bool = False
    """Show half of the inputs left-right mirrored."""

    def losses(self, model: nn.Module, inputs: Tensor, batch: Batch) -> Iterator[tuple[str, Tensor]]:
        if self.mirror:
            chosen = torch.rand(len(inputs), device=inputs.device) < 0.5
            inputs = torch.where(chosen.view(-1, *[1] * (inputs.ndim - 1)), inputs.flip(-1), inputs)
        # Brought to the device once, and nothing below asks it for a number, which would be to wait for it.
        self.labels = self.labels.to(inputs.device)
        labels = self.labels[batch.ids]
        mass = (labels >= 0).sum()
        if self.weights is not None:
            self.weights = self.weights.to(inputs.device)
            mass = (self.weights[labels.clamp(min=0)] * (labels >= 0)).sum()
        # A batch without any label gives 0, not 0 / 0.
        total = F.cross_entropy(model(inputs), labels, self.weights, ignore_index=-1, reduction="sum")
        yield "assigner", total / mass.clamp(min=1e-6)
