"""What one batch means for a method. The training loop knows only the protocol."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from revit.common.data.batch import Batch
from revit.common.methods.distill import SelfDistillation
from revit.common.methods.exchange import LengthExchange, OneProcess
from revit.common.models.base import GridModel

BatchAugment = Callable[[Tensor, Batch], tuple[Tensor, Batch]]
"""What is done to a training batch as a whole, on the device: normalised inputs and their batch -> the same, changed."""


@dataclass(frozen=True)
class Progress:
    """How far a training has come, the same on every process and after a resume."""

    update: int
    """Updates of the weights made so far."""
    fraction: float
    """Share of the whole training's samples that were trained on, from 0 to 1."""
    after: float | None = None
    """t / T, where this is update t, from 1, of T that the training is planned to make (those skipped for gradients that
    overflowed count); None: not known."""


class Task(Protocol):
    """A method's losses."""

    def begin(self, progress: Progress) -> None:
        """Called before every batch; all batches of an update hear the same. Most need nothing of it."""
        return

    def losses(self, model: nn.Module, inputs: Tensor, batch: Batch) -> Iterator[tuple[str, Tensor]]:
        """Yield (name, scalar) one after the other; the loop runs each backward before it asks for the next.

        inputs (B, C, ...) normalised, in place of the batch's own; of `batch` the rest: targets (B,) class numbers or
        (B, K) soft, ids (B,) positions in the list, extras. The gradients of all of them add up to one step.
        """
        ...


@dataclass
class ResizableTask(Task):
    """Algorithm 1 of ReViT: every grid sees the batch, longest first, and all gradients make one step.

    The longest grid learns from the labels and its logits, from this same pass in training mode, teach the others;
    the losses are summed, not averaged (the paper accumulates gradients). The algorithm's `R[i] == 16` is read as
    "the first of the list", and its loop to len(R) - 1 as all entries. One grid is plain training.
    """

    distill: SelfDistillation = field(default_factory=SelfDistillation)
    exchange: LengthExchange = field(default_factory=OneProcess, compare=False)
    """Where the grids run: here, or shared out among processes (ReViT figure 4)."""

    def losses(self, model: nn.Module, inputs: Tensor, batch: Batch) -> Iterator[tuple[str, Tensor]]:
        grids = cast(GridModel, model).grids
        for grid in self.exchange.begin(grids):
            with self.exchange.passing(grid):
                output = model(inputs, grid)
            if grid == grids[0]:
                self.exchange.teach(output.logits.detach())
                yield grid.name, self.distill.supervised(output, batch.targets)
            else:
                teacher = self.exchange.taught(like=output.logits.detach())
                yield grid.name, self.distill(output, teacher, batch.targets)


@dataclass
class AssignerTask(Task):
    """Cross entropy of the Token-Length Assigner on token-length labels (ReViT section 3.1)."""

    labels: Tensor
    """(size of the list,) grid positions by sample id; -1 where a sample has no label."""
    weights: Tensor | None = None
    """(k,) per grid, for labels that lean to one grid."""
    mirror: bool = False
    """Show half of the inputs left-right mirrored."""

    def losses(self, model: nn.Module, inputs: Tensor, batch: Batch) -> Iterator[tuple[str, Tensor]]:
        if self.mirror:
            chosen = torch.rand(len(inputs), device=inputs.device) < 0.5
            inputs = torch.where(chosen.view(-1, *[1] * (inputs.ndim - 1)), inputs.flip(-1), inputs)
        # Brought to the device once, and nothing below asks it for a number, which would be to wait for it.
        self.labels = self.labels.to(inputs.device)
        labels = self.labels[batch.ids]
        labelled = labels >= 0
        if self.weights is None:
            mass = labelled.sum()
        else:
            self.weights = self.weights.to(inputs.device)
            mass = (self.weights[labels.clamp(min=0)] * labelled).sum()
        # A batch without any label gives 0, not 0 / 0.
        total = F.cross_entropy(model(inputs), labels, self.weights, ignore_index=-1, reduction="sum")
        yield "assigner", total / mass.clamp(min=1e-6)
