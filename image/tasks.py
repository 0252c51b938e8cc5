"""Losses of pictures that `common` does not know: LV-ViT's token labels, and DeiT's distillation from another network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from revit.common.data.batch import Batch
from revit.common.methods.label_loss import LabelLoss
from revit.common.methods.revit.task import SelfDistillation
from revit.common.methods.task import LengthExchange, OneProcess, Task
from revit.common.models.base import GridModel
from revit.common.models.grid import TokenGrid
from revit.common.models.outputs import ModelOutput
from revit.image.data.options import TokenLabelOptions
from revit.image.models.lvvit import LVViT
from revit.image.models.mix_token import MixDraw
from revit.image.token_labels import (
    RegionTargets,
    correct_by_label,
    densify,
    mix_with_partner,
    on_and_off,
    soft_cross_entropy,
    soft_labels,
)

DEFAULT_LABELS = TokenLabelOptions(folder="")
"""Options of batches without label maps."""


@dataclass
class TokenLabelTask(Task):
    """ReViT's Algorithm 1 with LV-ViT's losses: at every grid a class term and a dense term over the patches.

    Per grid, longest first: cls_weight * class term + dense_weight * cross entropy of all patch logits with the labels
    of their places. The label map of a picture is read at each grid's own size. Readings of what the papers leave open:
    - Students distil class logits only; their dense term is that of the labels, at full weight beside
      (1 - lambda) CE + lambda KL.
    - MixToken is drawn once per batch as fractions of the picture, so the class logits of all grids, teacher and
      students, see the same mixture; every grid rounds the box to its own tokens and mixes its class target by its own
      share, 1 - area / N. Patch targets stay unmixed, since the model puts the patches back.

    A batch carries `label_map` (B, 2, k, H, W) and `crop` (B, 4) among its extras; without them the class target is
    repeated for every patch (published). Raises ValueError for a model without patch logits, or with another number
    of them than the grid has places.
    """

    distill: SelfDistillation = field(default_factory=SelfDistillation)
    """Losses of the class token; the label smoothing is that of batches without label maps."""
    mix_token: bool = True
    labels: TokenLabelOptions = DEFAULT_LABELS
    """Weights of the losses, and how label maps are read."""
    exchange: LengthExchange = field(default_factory=OneProcess, compare=False)
    """Place where the grids run: here, or shared out among processes."""

    def losses(self, model: nn.Module, inputs: Tensor, batch: Batch) -> Iterator[tuple[str, Tensor]]:
        network = cast(LVViT, model)
        mix = MixDraw.draw() if self.mix_token and network.training else None
        whole, patches = self._targets(batch, network.num_classes)
        distill = replace(self.distill, label_smoothing=0.0)  # the targets are smooth already
        for grid in self.exchange.begin(network.grids):
            with self.exchange.forwarding(grid):
                output = network(inputs, grid, mix)
            class_targets = whole if mix is None else mix_with_partner(whole, mix.box(grid).keep_share)
            if grid == network.grids[0]:
                self.exchange.publish(output.logits.detach())
                class_term = distill.cross_entropy(output.logits, class_targets)
            else:
                teacher = self.exchange.teacher_logits(like=output.logits.detach())
                class_term = distill(output, teacher, class_targets)
            dense_term = soft_cross_entropy(_patch_logits(output, grid), patches(grid))
            yield grid.name, self.labels.cls_weight * class_term + self.labels.dense_weight * dense_term

    def _targets(self, batch: Batch, num_classes: int) -> tuple[Tensor, Callable[[TokenGrid], Tensor]]:
        """Return the class target (B, K), and per grid the patch targets (B, S, K), or (B, 1, K) for all patches alike."""
        if "label_map" not in batch.extras:
            smooth = on_and_off(self.distill.label_smoothing, num_classes)
            label = soft_labels(batch.targets, num_classes, *smooth)
            return label, lambda grid: label[:, None]
        smooth = on_and_off(self.labels.smoothing, num_classes)
        dense = densify(batch.extras["label_map"], num_classes)
        regions = RegionTargets(dense, batch.extras["crop"], *smooth, self.labels.axis_order)
        whole = regions.whole()
        if self.labels.ground_truth:
            whole = correct_by_label(whole, soft_labels(batch.targets, num_classes, *smooth))
        return whole, lambda grid: regions.patches(grid.rows, grid.cols)


def _patch_logits(output: ModelOutput, grid: TokenGrid) -> Tensor:
    """Return the patch logits (B, S, K). ValueError unless there is one row for each place of the grid."""
    found = None if output.patch_logits is None else output.patch_logits.shape[1]
    if output.patch_logits is None or found != grid.num_positions:
        raise ValueError(
            f"token labels at {grid} need {grid.num_positions} patch logits, the model gives {found or 'none'}; "
            "train an LV-ViT on pictures of its own img_size"
        )
    return output.patch_logits


@dataclass(frozen=True)
class TeacherDistillation:
    """(1 - alpha) CE(class head, y) + alpha * D(distillation head, teacher), DeiT's section 4.

    hard: D is the cross entropy with the teacher's argmax. soft: D is tau^2 KL(teacher || student) at temperature tau,
    summed and divided by the number of logits (batch times classes) as the published code has it: so much smaller than
    the batch mean that the paper's equation 2 suggests.
    """

    kind: Literal["hard", "soft"] = "hard"
    alpha: float = 0.5
    tau: float = 1.0
    label_smoothing: float = 0.0
    class_weights: Tensor | None = None
    """Weight (K,) of every class in CE, see `LabelLoss`."""

    def __call__(self, student: ModelOutput, teacher_logits: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of a student's output and teacher logits (B, K), with targets (B,) or (B, K)."""
        supervised = LabelLoss(self.label_smoothing, self.class_weights)(student.logits, targets)
        taught = student.distill_logits
        assert taught is not None, "the model has no distillation head"
        teacher_logits = teacher_logits.detach()
        if self.kind == "hard":
            distilled = F.cross_entropy(taught, teacher_logits.argmax(dim=1))
        else:
            student_log, teacher_log = (F.log_softmax(logits / self.tau, dim=1) for logits in (taught, teacher_logits))
            divergence = F.kl_div(student_log, teacher_log, reduction="sum", log_target=True)
            distilled = self.tau**2 * divergence / taught.numel()
        return (1 - self.alpha) * supervised + self.alpha * distilled


@dataclass
class TeacherTask(Task):
    """Every grid, longest first, learns from the labels and from the teacher, who sees the same augmented batch.

    With several grids (the paper of DeiT has one) the losses are summed, as ReViT sums them.
    """

    distill: TeacherDistillation
    teacher: nn.Module
    """Network from normalised pictures to logits (B, K), in evaluation mode."""
    exchange: LengthExchange = field(default_factory=OneProcess, compare=False)
    """Place where the grids run: here, or shared out among processes, each with a teacher of its own."""

    def losses(self, model: nn.Module, inputs: Tensor, batch: Batch) -> Iterator[tuple[str, Tensor]]:
        with torch.no_grad():
            taught = self.teacher.to(inputs.device)(inputs)
        for grid in self.exchange.begin(cast(GridModel, model).grids):
            with self.exchange.forwarding(grid):
                output = model(inputs, grid)
            yield grid.name, self.distill(output, taught, batch.targets)
