"""DeiT's distillation from another network, for models with a distillation token at every grid."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import timm
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from revit.common.config.options import Options
from revit.common.config.sections import DistillOptions
from revit.common.data.batch import Batch
from revit.common.methods.task import LengthExchange, OneProcess, Task
from revit.common.modality.teacher import Teacher, teacher_from
from revit.common.models.layers.normalizer import Normalizer
from revit.common.models.outputs import ModelOutput
from revit.common.models.vit import ResizableTransformer
from revit.common.system.errors import UserError
from revit.common.weights.read import cache_if_offline


class TeacherOptions(Options):
    """The network that teaches the distillation token, in place of the longest grid."""

    source: str
    """timm:NAME of any classifier (DeiT: timm:regnety_160.deit_in1k), or a checkpoint or weight file of an image model."""
    kind: Literal["hard", "soft"] = "hard"
    """Learn the teacher's decision, or its distribution."""
    alpha: float = Field(default=0.5, ge=0, le=1)
    """Weight of the teacher; 1 - alpha is that of the labels."""
    tau: float = Field(default=1.0, gt=0)
    """Temperature of the distribution."""


class PictureDistillOptions(DistillOptions):
    """Self-distillation of the shorter grids, or another network for all grids."""

    teacher: TeacherOptions | None = None
    """Null: the longest grid teaches the others."""


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

    def __call__(self, student: ModelOutput, teacher_logits: Tensor, targets: Tensor) -> Tensor:
        """Student output and teacher logits (B, K), targets (B,) or (B, K) -> scalar"""
        supervised = F.cross_entropy(student.logits, targets, label_smoothing=self.label_smoothing)
        taught = student.distill_logits
        assert taught is not None, "the model has no distillation head"
        teacher_logits = teacher_logits.detach()
        if self.kind == "hard":
            distilled = F.cross_entropy(taught, teacher_logits.argmax(dim=1))
        else:
            student_log, teacher_log = (
                F.log_softmax(logits / self.tau, dim=1) for logits in (taught, teacher_logits)
            )
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
    """Normalised pictures -> logits (B, K); in eval mode."""
    exchange: LengthExchange = field(default_factory=OneProcess, compare=False)
    """Where the grids run: here, or shared out among processes, each with a teacher of its own."""

    def losses(self, model: nn.Module, inputs: Tensor, batch: Batch) -> Iterator[tuple[str, Tensor]]:
        with torch.no_grad():
            taught = self.teacher.to(inputs.device)(inputs)
        for grid in self.exchange.begin(cast(ResizableTransformer, model).grids):
            with self.exchange.forwarding(grid):
                output = model(inputs, grid)
            yield grid.name, self.distill(output, taught, batch.targets)


def load_teacher(
    source: str,
    label_names: Sequence[str],
    given: Normalizer,
    own_size: bool = False,
    key: str = "distill.teacher.source",
) -> Teacher:
    """The network at `source`, whatever timm has or `open_classifier` opens, for pictures that are normalised as `given`;
    resized to what it was trained at where `own_size`.

    Raises UserError if there is none, or it knows other classes than `label_names`; `key`: the setting to name.
    """
    if source.startswith("timm:"):
        return _from_timm(source, len(label_names), given, own_size, key)
    # Here, as opening a classifier needs the modality, and the package this module.
    from revit.image.modality import open_classifier

    return teacher_from(open_classifier(source), source, label_names, given, own_size)


def _from_timm(source: str, num_classes: int, given: Normalizer, own_size: bool, key: str) -> Teacher:
    try:
        with cache_if_offline():
            network: Any = timm.create_model(source.removeprefix("timm:"), pretrained=True)
    except Exception as error:  # an unknown name, no network, a damaged file: timm has no error of its own
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{key} {source}: timm cannot load it ({reason}); check the name and the connection, or give a checkpoint file"
        ) from error
    if network.num_classes != num_classes:
        raise UserError(
            f"{key} {source} knows {network.num_classes} classes, the data has {num_classes}; a teacher must know the same "
            "classes: fine-tune it on this data first, or choose another"
        )
    facts = network.pretrained_cfg
    sides = (facts["input_size"][1], facts["input_size"][2]) if own_size else None
    return Teacher(network, Normalizer(facts["mean"], facts["std"]), given, sides)
