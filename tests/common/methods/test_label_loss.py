"""The loss of the labels against torch's, and by a second route."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from revit.common.methods.label_loss import LabelLoss
from revit.common.methods.revit.task import SelfDistillation
from revit.common.models.base import ModelOutput

B, K = 12, 5


def made(seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    logits, teacher = torch.randn(2, B, K, generator=generator, dtype=torch.float64)
    labels = torch.randint(K, (B,), generator=generator)
    sets = (torch.rand(B, K, generator=generator) < 0.4).double()
    weights = torch.rand(K, generator=generator, dtype=torch.float64) + 0.2
    return logits, teacher, labels, sets, weights


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_weighted_cross_entropy(smoothing: float):
    logits, _, labels, _, weights = made()
    found = LabelLoss(smoothing, weights)(logits, labels)
    whole = nn.CrossEntropyLoss(weights, reduction="sum", label_smoothing=smoothing)(logits, labels)
    assert torch.allclose(found, whole / B)
    soft = F.one_hot(labels, K).double()
    assert torch.allclose(found, LabelLoss(smoothing, weights)(logits, soft))
    if smoothing == 0:  # torch's own mean divides by the weights of the batch
        theirs = nn.CrossEntropyLoss(weights)(logits, labels)
        assert torch.allclose(found, theirs * weights[labels].sum() / B)


def test_a_mean_over_batches_is_that_over_all():
    logits, _, labels, _, weights = made()
    loss = LabelLoss(weights=weights)
    parts = [loss(*pair) for pair in zip(logits.split(4), labels.split(4))]
    assert torch.allclose(torch.stack(parts).mean(), loss(logits, labels))


def test_without_weights_it_is_torchs():
    logits, _, labels, _, _ = made()
    assert torch.equal(LabelLoss(0.1)(logits, labels), F.cross_entropy(logits, labels, label_smoothing=0.1))


def test_several_labels_are_binary_cross_entropies():
    logits, _, _, sets, weights = made()
    yes = logits.sigmoid()
    by_hand = -(weights * sets * yes.log() + (1 - sets) * (1 - yes).log()).mean()
    assert torch.allclose(LabelLoss(weights=weights, several=True)(logits, sets), by_hand)
    theirs = nn.BCEWithLogitsLoss(pos_weight=weights)(logits, sets)
    assert torch.allclose(LabelLoss(weights=weights, several=True)(logits, sets), theirs)
    smooth = LabelLoss(0.2, several=True)(logits, sets)
    assert torch.allclose(smooth, nn.BCEWithLogitsLoss()(logits, 0.8 * sets + 0.1))


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_divergence_of_several_labels_is_that_of_two_classes(temperature: float):
    """Yes and no as the two classes of a softmax: logits z and 0."""
    logits, teacher, _, _, _ = made()
    found = LabelLoss(several=True).divergence(logits, teacher, temperature)
    two, taught = (torch.stack([one, torch.zeros_like(one)], dim=-1).view(-1, 2) for one in (logits, teacher))
    assert torch.allclose(found, LabelLoss().divergence(two, taught, temperature))
    assert float(LabelLoss(several=True).divergence(teacher, teacher, temperature)) == pytest.approx(0, abs=1e-12)


def test_a_teacher_that_knows_all_labels_is_the_labels():
    logits, _, _, sets, _ = made()
    sure = (sets * 2 - 1) * 60
    loss = SelfDistillation(1.0, several=True)
    assert torch.allclose(loss(ModelOutput(logits), sure, sets), LabelLoss(several=True)(logits, sets))
    hard = SelfDistillation(1.0, hard=True, several=True)
    assert torch.allclose(hard(ModelOutput(logits), sure / 60, sets), LabelLoss(several=True)(logits, sets))
