"""DeiT's distillation: the formulas, what the teacher sees, and which settings make sense."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from revit.common.data.batch import Batch
from revit.common.modality.load import Teacher
from revit.common.models.base import ModelOutput, Normalizer
from revit.common.system.errors import UserError
from revit.image.modality import load_teacher
from revit.image.models.variants import VARIANTS
from revit.image.options import ImageRun
from revit.image.tasks import TeacherDistillation, TeacherTask


@pytest.fixture
def logits():
    """Class head, distillation head, teacher: each (B, K) in double precision."""
    return torch.randn(3, 4, 5, dtype=torch.float64)


def test_hard_distillation_by_formula(logits):
    cls, dist, teacher = logits
    targets = torch.softmax(torch.randn(4, 5, dtype=torch.float64), dim=1)
    loss = TeacherDistillation("hard", 0.3)(ModelOutput(cls, dist), teacher, targets)
    supervised = -(targets * cls.log_softmax(1)).sum(1).mean()
    decisions = teacher.argmax(1)
    distilled = -dist.log_softmax(1)[torch.arange(4), decisions].mean()
    assert loss == pytest.approx(float(0.7 * supervised + 0.3 * distilled))


def test_soft_distillation_is_divided_by_the_number_of_logits(logits):
    cls, dist, teacher = logits
    targets = torch.tensor([0, 1, 2, 3])
    loss = TeacherDistillation("soft", 0.3, tau=2.0)(ModelOutput(cls, dist), teacher, targets)
    p, q = (teacher / 2).softmax(1), (dist / 2).softmax(1)
    divergence = (p * (p.log() - q.log())).sum() * 4 / 20
    supervised = nn.functional.cross_entropy(cls, targets)
    assert loss == pytest.approx(float(0.7 * supervised + 0.3 * divergence))


def test_the_teacher_sees_its_own_normalisation_and_gets_no_gradient():
    own, given = Normalizer((0.5,) * 3, (0.25,) * 3), Normalizer((0.4,) * 3, (0.2,) * 3)
    pixels = torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8)
    teacher = Teacher(nn.Flatten(), own, given)
    torch.testing.assert_close(teacher(given(pixels)), own(pixels).flatten(1), atol=1e-5, rtol=1e-5)


def test_every_grid_learns_from_labels_and_teacher():
    model = VARIANTS["deit_tiny_distilled"].build(
        img_size=32, grids=["4x4", "2x2"], num_classes=3, embed_dim=16, depth=1, num_heads=2
    )
    norm = Normalizer((0.5,) * 3, (0.5,) * 3)
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 3))
    task = TeacherTask(TeacherDistillation(), Teacher(network, norm, norm))
    targets = torch.tensor([0, 2])
    batch = Batch(torch.empty(0, dtype=torch.uint8), targets, targets)
    names = []
    for name, loss in task.losses(model, torch.randn(2, 3, 32, 32), batch):
        names.append(name)
        loss.backward()
    assert names == ["4x4", "2x2"]
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert all(parameter.grad is None for parameter in network.parameters())


def test_a_teacher_with_other_classes_is_refused(monkeypatch):
    network = nn.Linear(2, 2)
    network.num_classes = 7
    monkeypatch.setattr("timm.create_model", lambda name, pretrained: network)
    with pytest.raises(UserError, match=r"timm:somebody.* 7 .* 2\b"):
        load_teacher("timm:somebody", ["a", "b"], Normalizer((0.5,) * 3, (0.5,) * 3), "key", False)


def test_an_unknown_teacher_is_one_message():
    with pytest.raises(UserError, match=r"key timm:no_such_net"):
        load_teacher("timm:no_such_net", ["a", "b"], Normalizer((0.5,) * 3, (0.5,) * 3), "key", False)


def test_a_teacher_wants_a_distillation_token():
    settings = {"kind": "image", "data": {}, "run": {"dir": "x"}, "distill": {"teacher": {"source": "timm:x"}}}
    with pytest.raises(ValidationError, match=r"distill\.teacher"):
        ImageRun.model_validate(settings)
    for model in ({"name": "deit_small_distilled"}, {"distillation": "every_grid"}):
        assert ImageRun.model_validate(settings | {"model": model}).distill.teacher is not None
