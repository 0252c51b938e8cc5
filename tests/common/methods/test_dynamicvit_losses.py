"""Ratio loss, class divergence and token terms against sums written out."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from revit.common.methods.dynamicvit.method import ratio_loss, token_divergence, token_error
from revit.common.methods.revit.task import divergence


@pytest.fixture
def tokens():
    torch.manual_seed(0)
    student, teacher = torch.randn(3, 6, 5, dtype=torch.float64), torch.randn(3, 6, 5, dtype=torch.float64)
    return student.float(), teacher.float(), (torch.rand(3, 6) < 0.5).float()


def kl(teacher, student):
    p, q = teacher.softmax(-1), student.softmax(-1)
    return float((p * (p / q).log()).sum())


def test_ratio_loss():
    decisions = [torch.tensor([[1.0, 1, 1, 0], [1, 0, 0, 0]]), torch.tensor([[1.0, 1, 0, 0], [0, 0, 0, 0]])]
    wanted = ((0.75 - 0.7) ** 2 + (0.25 - 0.7) ** 2) / 2 + ((0.5 - 0.49) ** 2 + 0.49**2) / 2
    assert float(ratio_loss(decisions, (0.7, 0.49))) == pytest.approx(wanted / 2)


def test_class_divergence_is_teacher_first_and_the_teacher_learns_nothing(tokens):
    student, teacher = tokens[0][:, 0].requires_grad_(), tokens[1][:, 0].requires_grad_()
    loss = divergence(student, teacher)
    wanted = sum(kl(teacher[b], student[b]) for b in range(3)) / 3
    assert float(loss.detach()) == pytest.approx(wanted, rel=1e-5)
    loss.backward()
    assert teacher.grad is None
    # The gradient of KL(p || q) by the student's logits is q - p.
    wanted = (student.softmax(-1) - teacher.softmax(-1)).detach() / 3
    assert torch.allclose(student.grad, wanted, atol=1e-6)


def test_token_terms_look_at_kept_tokens_only(tokens):
    student, teacher, keep = tokens
    kept = [(b, n) for b in range(3) for n in range(6) if keep[b, n] == 1]
    error = sum(float((student[b, n] - teacher[b, n]).square().mean()) for b, n in kept) / len(kept)
    assert float(token_error(student, teacher, keep)) == pytest.approx(error, rel=1e-5)
    assert float(token_error(student, teacher, keep)) == pytest.approx(
        float(nn.functional.mse_loss(student[keep == 1], teacher[keep == 1])), rel=1e-5
    )
    wanted = sum(kl(teacher[b, n], student[b, n]) for b, n in kept) / len(kept)
    assert float(token_divergence(student, teacher, keep)) == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("term", [token_error, token_divergence])
def test_where_nothing_is_kept_they_are_0_and_so_is_their_gradient(tokens, term):
    student, teacher, keep = tokens
    student.requires_grad_()
    loss = term(student, teacher, torch.zeros_like(keep))
    loss.backward()
    assert float(loss.detach()) == 0
    assert not student.grad.any()


@pytest.mark.parametrize("term", [token_error, token_divergence])
def test_keeping_is_not_taught_by_them(tokens, term):
    """Otherwise they would fall by dropping what differs."""
    student, teacher, keep = tokens
    loss = term(student.requires_grad_(), teacher, keep.requires_grad_())
    loss.backward()
    assert keep.grad is None
