"""DynamicViT's training: its losses beside the cross entropy with the labels, and how they are put together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from revit.common.data.batch import Batch
from revit.common.methods.revit.task import SelfDistillation
from revit.common.methods.task import Task
from revit.common.models.base import GridModel
from revit.common.models.outputs import ModelOutput


def ratio_loss(decisions: Sequence[Tensor], rates: Sequence[float]) -> Tensor:
    """Square how far each sample's share of kept tokens is from its stage's rate; the mean over stages and batch -> scalar.

    decisions: per stage (B, S), 1 or 0, gradients pass; rates: per stage, of the original S.
    """
    errors = [(decided.float().mean(dim=1) - rate).square().mean() for decided, rate in zip(decisions, rates)]
    return sum(errors[1:], errors[0]) / len(errors)


def token_error(tokens: Tensor, teacher_tokens: Tensor, keep: Tensor) -> Tensor:
    """Average the squared error (B, N, D) over the channels of the tokens that `keep` (B, N) has at 1 -> scalar, 0 for none."""
    errors = (tokens.float() - teacher_tokens.detach().float()).square().mean(dim=-1)
    return _mean_over_kept(errors, keep)


def token_divergence(logits: Tensor, teacher_logits: Tensor, keep: Tensor) -> Tensor:
    """Average KL(teacher || student) of logits (B, N, K) over the tokens that `keep` (B, N) has at 1 -> scalar, 0 for none."""
    student, teacher = (F.log_softmax(one.float(), dim=-1) for one in (logits, teacher_logits.detach()))
    divergences = F.kl_div(student, teacher, reduction="none", log_target=True).sum(dim=-1)
    return _mean_over_kept(divergences, keep)


def _mean_over_kept(values: Tensor, keep: Tensor) -> Tensor:
    # Which tokens count is no matter of gradients: otherwise the loss would fall by dropping those that differ.
    kept = (keep.detach() > 0.5).to(values.dtype)
    return (values * kept).sum() / kept.sum().clamp(min=1)


@dataclass
class DynamicViTTask(Task):
    """Cross entropy + ratio_weight * ratio loss + distill_weight * (class divergence + token term), one backward pass.

    The token term looks at the tokens that are kept in the end: the mean squared error of the features after the final
    norm (DeiT, TimeSformer), or, where patches have a head of their own, the divergence of its logits (LV-ViT). As
    published, LV-ViT is trained by its class head alone: no MixToken and no token labels.
    """

    supervised: SelfDistillation
    """Losses of the labels, and of what the teacher says of the classes."""
    rates: tuple[float, ...]
    ratio_weight: float = 2.0
    distill_weight: float = 0.5
    teacher: nn.Module | None = None
    """Sees the same normalised batch; frozen, in evaluation mode."""
    parts: dict[str, Tensor] = field(default_factory=dict, compare=False)
    """Losses of the last batch, without their weights."""

    def losses(self, model: nn.Module, inputs: Tensor, batch: Batch) -> Iterator[tuple[str, Tensor]]:
        output: ModelOutput = model(inputs)
        taught: ModelOutput | None = None
        if self.teacher is not None:
            with torch.no_grad():
                taught = self.teacher.to(inputs.device)(inputs)
        grid = cast(GridModel, model).grids[0]
        yield grid.name, self.total(output, taught, batch.targets)

    def total(self, output: ModelOutput, taught: ModelOutput | None, targets: Tensor) -> Tensor:
        """Sum the losses for outputs of student and teacher, targets (B,) or (B, K) -> scalar."""
        assert output.reduction is not None, "the model has no reducer"
        decisions = output.reduction.weights
        labels = self.supervised.supervised(output, targets)
        parts = {"labels": labels, "ratio": ratio_loss(decisions, self.rates)}
        loss = labels + self.ratio_weight * parts["ratio"]
        if taught is not None:
            parts["classes"] = self.supervised.labels.divergence(output.logits.float(), taught.logits.float())
            parts["tokens"] = self.token_term(output, taught, decisions[-1])
            loss = loss + self.distill_weight * (parts["classes"] + parts["tokens"])
        self.parts = {name: part.detach() for name, part in parts.items()}
        return loss

    @staticmethod
    def token_term(output: ModelOutput, taught: ModelOutput, keep: Tensor) -> Tensor:
        """Compare the tokens of student and teacher at the positions kept in the end (B, S) -> scalar."""
        assert output.patch_features is not None
        assert taught.patch_features is not None
        if output.patch_logits is not None and taught.patch_logits is not None:
            return token_divergence(output.patch_logits, taught.patch_logits, keep)
        B, N = output.patch_features.shape[:2]
        if len(keep) > B:
            # Frames that ran as samples were averaged position by position: what any of them keeps counts.
            keep = keep.unflatten(0, (B, -1)).amax(dim=1)
        keep = keep.repeat_interleave(N // keep.shape[1], dim=1)  # time is the fastest axis
        return token_error(output.patch_features, taught.patch_features, keep)
