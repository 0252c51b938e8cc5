"""What the Token-Length Assigner learns from."""

from __future__ import annotations

import torch
from torch import nn

from revit.common.data.batch import Batch
from revit.common.methods.revit.task import AssignerTask


def batch_of(numbers: torch.Tensor) -> Batch:
    """A batch with these targets, and the same for ids."""
    return Batch(torch.empty(0, dtype=torch.uint8), numbers, numbers)


def test_assigner_learns_only_from_labelled_samples():
    labels, weights = torch.tensor([0, -1, 1, 1]), torch.tensor([2.0, 0.5])
    model = nn.Linear(3, 2)
    inputs, ids = torch.randn(4, 3), torch.tensor([3, 1, 0, 2])
    ((_, loss),) = AssignerTask(labels, weights).losses(model, inputs, batch_of(ids))
    chosen = labels[ids]
    expected = nn.functional.cross_entropy(model(inputs)[chosen >= 0], chosen[chosen >= 0], weights)
    assert torch.allclose(loss, expected)
    ((_, nothing),) = AssignerTask(torch.full((4,), -1)).losses(model, inputs, batch_of(ids))
    assert float(nothing.detach()) == 0


def test_assigner_sees_mirrored_inputs_with_the_same_labels():
    seen = []

    class Spy(nn.Linear):
        def forward(self, inputs):
            seen.append(inputs)
            return super().forward(inputs.flatten(1))

    inputs, ids = torch.arange(4.0).expand(64, 1, 4).contiguous(), torch.arange(64)
    ((_, loss),) = AssignerTask(torch.zeros(64).long(), mirror=True).losses(Spy(4, 2), inputs, batch_of(ids))
    mirrored = (seen[0][:, 0, 0] == 3).float().mean()
    assert 0.2 < float(mirrored) < 0.8
    assert set(map(tuple, seen[0][:, 0].tolist())) == {(0.0, 1.0, 2.0, 3.0), (3.0, 2.0, 1.0, 0.0)}
    assert loss.isfinite()
