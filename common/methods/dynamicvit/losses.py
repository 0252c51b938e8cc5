"""The losses of DynamicViT's training, beside the cross entropy with the labels."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor


def ratio_loss(decisions: Sequence[Tensor], rates: Sequence[float]) -> Tensor:
    """How far each sample's share of kept tokens is from what its stage shall keep, squared; the mean over stages and batch.

    decisions: per stage (B, S), 1 or 0, gradients pass; rates: per stage, of the original S -> scalar.
    """
    errors = [(decided.float().mean(dim=1) - rate).square().mean() for decided, rate in zip(decisions, rates)]
    return sum(errors[1:], errors[0]) / len(errors)


def class_divergence(logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """KL(teacher || student) of class logits (B, K), temperature 1, mean over the batch -> scalar."""
    student, teacher = (F.log_softmax(one.float(), dim=-1) for one in (logits, teacher_logits.detach()))
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True)


def token_error(tokens: Tensor, teacher_tokens: Tensor, keep: Tensor) -> Tensor:
    """Mean squared error (B, N, D) over the channels of the tokens that `keep` (B, N) has at 1; 0 where none is -> scalar."""
    errors = (tokens.float() - teacher_tokens.detach().float()).square().mean(dim=-1)
    return _mean_over_kept(errors, keep)


def token_divergence(logits: Tensor, teacher_logits: Tensor, keep: Tensor) -> Tensor:
    """KL(teacher || student) of every token's class logits (B, N, K), mean over the tokens that `keep` (B, N) has at 1; 0
    where none is -> scalar."""
    student, teacher = (F.log_softmax(one.float(), dim=-1) for one in (logits, teacher_logits.detach()))
    divergences = F.kl_div(student, teacher, reduction="none", log_target=True).sum(dim=-1)
    return _mean_over_kept(divergences, keep)


def _mean_over_kept(values: Tensor, keep: Tensor) -> Tensor:
    """Which tokens count is no matter of gradients: otherwise the loss would fall by dropping those that differ."""
    kept = (keep.detach() > 0.5).to(values.dtype)
    return (values * kept).sum() / kept.sum().clamp(min=1)
