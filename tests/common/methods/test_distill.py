from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from revit.common.methods.revit.task import SelfDistillation
from revit.common.models.base import ModelOutput


def random_case():
    student = ModelOutput(torch.randn(4, 6, requires_grad=True), torch.randn(4, 6, requires_grad=True))
    return student, torch.randn(4, 6, requires_grad=True), torch.randint(0, 6, (4,))


@pytest.mark.parametrize("tau", [1.0, 3.0])
def test_equation_1(tau):
    student, teacher, targets = random_case()
    p, q = (teacher / tau).softmax(1), (student.distill_logits / tau).softmax(1)
    divergence = (p * (p / q).log()).sum(1).mean()
    expected = 0.1 * F.cross_entropy(student.logits, targets) + 0.9 * tau**2 * divergence
    assert torch.allclose(SelfDistillation(0.9, tau)(student, teacher, targets), expected, atol=1e-6)


def test_teacher_gets_no_gradient_and_both_heads_do():
    student, teacher, targets = random_case()
    SelfDistillation(0.5)(student, teacher, targets).backward()
    assert teacher.grad is None
    assert student.logits.grad.abs().sum() > 0
    assert student.distill_logits.grad.abs().sum() > 0


def test_a_student_equal_to_its_teacher_has_only_the_label_term():
    _, teacher, targets = random_case()
    loss = SelfDistillation(0.9)(ModelOutput(teacher), teacher, targets)
    assert torch.allclose(loss, 0.1 * F.cross_entropy(teacher, targets), atol=1e-6)


def test_hard_reading_learns_the_teachers_label():
    student, teacher, targets = random_case()
    expected = 0.5 * F.cross_entropy(student.logits, targets) + 0.5 * F.cross_entropy(
        student.distill_logits, teacher.argmax(1)
    )
    assert torch.allclose(SelfDistillation(0.5, hard=True)(student, teacher, targets), expected)


def test_without_distillation_the_labels_teach_both_heads():
    student, teacher, targets = random_case()
    loss = SelfDistillation(0.0)(student, teacher, targets)
    both = (F.cross_entropy(student.logits, targets) + F.cross_entropy(student.distill_logits, targets)) / 2
    assert torch.allclose(loss, both)


def test_soft_targets_of_mixup_are_accepted():
    student, teacher, targets = random_case()
    one_hot = F.one_hot(targets, 6).float()
    loss = SelfDistillation(0.9)
    assert torch.allclose(loss(student, teacher, one_hot), loss(student, teacher, targets), atol=1e-6)
