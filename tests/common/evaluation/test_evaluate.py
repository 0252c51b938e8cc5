"""What one pass over a split refuses to call a result."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from revit.common.data.batch import Batch
from revit.common.evaluation.evaluate import evaluate
from revit.common.methods.revit.adaptive import AdaptiveOutput


def batches(count: int) -> list[Batch]:
    ids = torch.arange(2)
    return [Batch(torch.zeros(2, 3, 4, 4, dtype=torch.uint8), ids % 2, ids + 2 * number) for number in range(count)]


def answering(value: float):
    def run(inputs: torch.Tensor) -> AdaptiveOutput:
        return AdaptiveOutput(torch.full((len(inputs), 2), value), torch.zeros(len(inputs), dtype=torch.long))

    return run


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_answers_that_are_not_numbers_are_no_accuracy(value: float):
    with pytest.raises(ValueError, match="not all numbers"):
        evaluate({"good": answering(0.0), "bad": answering(value)}, batches(1), nn.Identity(), torch.device("cpu"))


def test_every_sample_is_answered_once_in_order():
    evaluation = evaluate({"good": answering(1.0)}, batches(3), nn.Identity(), torch.device("cpu"))
    assert evaluation.ids.tolist() == list(range(6))
    assert evaluation.answers["good"].logits.shape == (6, 1, 2)
