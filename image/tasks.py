"""Losses of pictures that `common` does not know: LV-ViT's token labels, and DeiT's distillation from another network.

Token labels are targets for every patch, from stored maps of a large network's logits: Jiang et al., "All Tokens Matter:
Token Labeling for Training Better Vision Transformers", section 3.2, and its published code; region alignment as in
"Re-labeling ImageNet" (Yun et al.). B pictures, k stored classes per cell, K classes, map of H x W cells, S patches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import roi_align

from revit.common.data.batch import Batch
from revit.common.methods.label_loss import LabelLoss
from revit.common.methods.revit.task import SelfDistillation
from revit.common.methods.task import LengthExchange, OneProcess, Task
from revit.common.models.base import GridModel, ModelOutput
from revit.common.models.grid import TokenGrid
from revit.image.data.options import AxisOrder, TokenLabelOptions
from revit.image.models.transformers import LVViT, MixDraw


def on_and_off(smoothing: float, num_classes: int) -> tuple[float, float]:
    """Return the targets of a sure class and of an impossible one: 1 - s + s / K and s / K (published rule)."""
    off = smoothing / num_classes
    return 1.0 - smoothing + off, off


def densify(label_maps: Tensor, num_classes: int) -> Tensor:
    """Return float32 logits (B, K, H, W) of stored maps (B, 2, k, H, W), [:, 0] logits and [:, 1] class numbers.

    Classes that a cell does not name have logit 0, as published; so do entries with a negative number, which mark
    classes left out of a subset. Raises ValueError for a shape that is no batch of label maps.

    Memory: 4 B K H W bytes, 166 MB for 128 pictures, 1000 classes and the published 18 x 18 cells.
    """
    if label_maps.ndim != 5 or label_maps.shape[1] != 2:
        raise ValueError(
            f"label maps have shape (B, 2, k, H, W): logits and class numbers, not {tuple(label_maps.shape)}"
        )
    values, numbers = label_maps.float().unbind(1)
    batch, _, rows, cols = values.shape
    dense = values.new_zeros(batch, num_classes, rows, cols)
    # Adding instead of writing: entries left out and cells emptied by a rotation add 0 to class 0, in any order.
    return dense.scatter_add_(1, numbers.clamp(min=0).long(), values.masked_fill(numbers < 0, 0.0))


def region_align(dense: Tensor, crop: Tensor, rows: int, cols: int, axis_order: AxisOrder = "corrected") -> Tensor:
    """Return the part of dense maps (B, K, H, W) under the crops (B, 4), resampled to (B, K, rows, cols).

    crop: (top, left, height, width) of the random-resized crop as fractions of the map. Every output cell is the mean
    of bilinear samples, as many as it covers map cells (at least one); beyond the map they are 0. A crop narrower than
    one map cell is taken as one cell wide (published: the operator's own rule).

    axis_order: "official" reproduces the published code, which hands the corners over as (top, left, bottom, right)
    where the operator expects (left, top, right, bottom): it looks at the transposed place. It also scales rows by the
    number of columns. Difference from the published code: the default is corrected.
    """
    top, left, height, width = crop.to(dense).unbind(1)
    bottom, right = top + height, left + width
    num_rows, num_cols = dense.shape[-2:]
    if axis_order == "official":
        corners = torch.stack([top, left, bottom, right], dim=1) * num_cols
    else:
        scale = dense.new_tensor([num_cols, num_rows, num_cols, num_rows])
        corners = torch.stack([left, top, right, bottom], dim=1) * scale
    # A fraction times the number of cells counts from the first cell's edge, the operator from its centre.
    owner = torch.arange(len(dense), device=dense.device, dtype=dense.dtype)
    boxes = torch.cat([owner[:, None], corners - 0.5], dim=1)
    return roi_align(dense, boxes, (rows, cols), spatial_scale=1.0, sampling_ratio=-1, aligned=False)


@dataclass(frozen=True)
class RegionTargets:
    """Targets of one batch of crops, read from its dense maps at any size of token grid.

    Each target is the softmax of the region's logits, times `on` plus `off`: as published it sums to on + K off, which
    is 1 + smoothing / K and not 1, because the published rule uses the values of a one-hot label on a distribution.
    """

    dense: Tensor
    """Logits (B, K, H, W) from `densify`."""
    crop: Tensor
    """Top, left, height, width (B, 4) as fractions of the map."""
    on: float
    off: float
    axis_order: AxisOrder = "corrected"

    def patches(self, rows: int, cols: int) -> Tensor:
        """Return the targets (B, rows * cols, K) of all patches in row order."""
        return self._targets(rows, cols).flatten(2).transpose(1, 2)

    def whole(self) -> Tensor:
        """Return the target (B, K) of the class token: the same region as a single cell."""
        return self._targets(1, 1).flatten(1)

    def _targets(self, rows: int, cols: int) -> Tensor:
        # The published helper squeezes here and so fails for one picture; nothing needs squeezing.
        aligned = region_align(self.dense, self.crop, rows, cols, self.axis_order)
        return aligned.softmax(dim=1) * self.on + self.off


def soft_labels(targets: Tensor, num_classes: int, on: float = 1.0, off: float = 0.0) -> Tensor:
    """Return targets (B, K) of class numbers (B,), `on` at the class and `off` elsewhere; soft targets likewise between."""
    if targets.ndim == 1:
        targets = F.one_hot(targets, num_classes).float()
    return targets * (on - off) + off


def correct_by_label(whole: Tensor, label: Tensor) -> Tensor:
    """Return region targets (B, K) corrected by labels (B, K): the published "ground truth" option.

    Half and half where both agree on the class, 0.9 region and 0.1 label where they do not (the crop may show
    something else than the picture is named after).
    """
    agree = whole.argmax(dim=1, keepdim=True) == label.argmax(dim=1, keepdim=True)
    share = torch.where(agree, 0.5, 0.9).to(whole)
    return share * whole + (1 - share) * label


def mix_with_partner(targets: Tensor, keep_share: float) -> Tensor:
    """Return class targets (B, K) of a batch mixed by MixToken: `keep_share` of a picture's tokens are its own, the others
    those of its partner, element B - 1 - i. Patch targets stay unmixed, because the model puts the patches back."""
    if keep_share == 1.0:
        return targets
    return keep_share * targets + (1 - keep_share) * targets.flip(0)


def soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the mean over everything but K, for logits (..., K) and targets that broadcast to them.

    Not divided by the targets' sum, which is not quite 1 here.
    """
    return -(targets * logits.float().log_softmax(dim=-1)).sum(dim=-1).mean()


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
