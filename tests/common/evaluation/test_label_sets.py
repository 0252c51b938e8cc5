"""Measures of several labels a sample, each by a second route; and the thresholds, by brute force."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from revit.common.evaluation.evaluate import Answers, Evaluation
from revit.common.evaluation.label_sets import (
    DEFAULT,
    average_precision,
    best_thresholds,
    class_figures,
    mean_average_precision,
    overlap,
)
from revit.common.methods.label_limits import THRESHOLDS, limits_in
from revit.common.methods.revit.labels import right_grids, smallest_correct
from revit.common.models.grid import TokenGrid


def drawn(num: int = 60, classes: int = 4, seed: int = 0, levels: int = 25):
    """Scores with ties, and targets that follow them more or less; the last class has no samples."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(levels, (num, classes), generator=generator).float() / levels
    targets = (torch.rand(num, classes, generator=generator) < 0.2 + 0.5 * scores).float()
    targets[:, -1] = 0
    return scores, targets


def written_out(scores: list[float], wanted: list[bool]) -> float:
    """Average precision by its definition: over rising recall, the precision of all that score at least so much."""
    total, before = 0.0, 0.0
    for level in sorted(set(scores), reverse=True):
        said = [score >= level for score in scores]
        right = sum(one and own for one, own in zip(said, wanted))
        recall = right / sum(wanted)
        total += (recall - before) * right / sum(said)
        before = recall
    return total


def test_average_precision_is_its_definition():
    scores, targets = drawn()
    found = average_precision(scores, targets)
    for number in range(3):
        wanted = (targets[:, number] > 0).tolist()
        assert float(found[number]) == pytest.approx(written_out(scores[:, number].tolist(), wanted), abs=1e-12)
    assert math.isnan(found[3])
    assert mean_average_precision(scores, targets) == pytest.approx(float(found[:3].mean()))


def test_average_precision_of_one_class_and_of_a_perfect_order():
    targets = torch.tensor([[1.0], [0.0], [1.0], [0.0]])
    assert average_precision(torch.tensor([[0.9], [0.1], [0.8], [0.2]]), targets).tolist() == [1.0]
    assert float(average_precision(torch.zeros(4, 1), targets)) == 0.5  # all alike: the share of the class


def f1(values: np.ndarray, wanted: np.ndarray, threshold: float) -> float:
    said = values >= threshold
    return 2 * (said & wanted).sum() / max(said.sum() + wanted.sum(), 1)


@pytest.mark.parametrize("seed", range(5))
def test_thresholds_are_the_best_there_are(seed: int):
    scores, targets = drawn(seed=seed)
    found = best_thresholds(scores, targets)
    for number in range(3):
        values, wanted = scores[:, number].double().numpy(), targets[:, number].numpy() > 0
        every = [f1(values, wanted, threshold) for threshold in np.linspace(0, 1.01, 4041)]
        assert f1(values, wanted, found[number]) == pytest.approx(max(every), abs=1e-12)
        assert not np.isclose(values, found[number], atol=1e-9).any()  # rounding of a probability changes no answer
    assert found[3] == DEFAULT


def test_of_equally_good_thresholds_the_one_nearest_to_a_half():
    scores, targets = torch.tensor([[0.1], [0.3], [0.8], [0.9]]), torch.tensor([[0.0], [0.0], [1.0], [1.0]])
    assert best_thresholds(scores, targets) == pytest.approx([0.55])


def test_overlap_by_sets():
    rows = list(itertools.product([0.0, 1.0], repeat=3))
    for said, wanted in itertools.product(rows, rows):
        one, two = ({place for place, value in enumerate(row) if value} for row in (said, wanted))
        expected = len(one & two) / len(one | two) if one | two else 1.0
        assert float(overlap(torch.tensor([said]) > 0, torch.tensor([wanted]))) == pytest.approx(expected)


def evaluation(logits: torch.Tensor, targets: torch.Tensor, lengths=None, limits=None) -> Evaluation:
    lengths = torch.zeros(logits.shape[:2], dtype=torch.long) if lengths is None else lengths
    return Evaluation(torch.arange(len(logits)), targets, {"6x6": Answers(logits, lengths, 1.0)}, [], limits=limits)


def test_one_label_each_scores_as_top1_does():
    """Where one class alone is above 0 and every sample has one label, the overlap is top-1."""
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(50, 1, 5, generator=generator)
    labels = torch.randint(5, (50,), generator=generator)
    single = evaluation(logits, labels)
    shifted = logits - logits.topk(2, dim=2).values.mean(dim=2, keepdim=True)  # between the best and the second
    several = evaluation(shifted, torch.nn.functional.one_hot(labels, 5).float())
    assert torch.equal(single.correct(logits, "logits").double(), several.correct(several.decided("6x6"), "logits"))


def test_a_class_is_said_from_its_threshold_at_the_views_grid():
    grids = (TokenGrid(6, 6), TokenGrid(3, 3))
    facts = {THRESHOLDS: {"split": "val", "values": {"6x6": [0.3, 0.8], "3x3": [0.6, 0.2]}}}
    limits = limits_in(facts, grids, 2)
    probabilities = torch.tensor([[[0.4, 0.7]], [[0.4, 0.7]], [[0.25, 0.85]]])
    lengths = torch.tensor([[0], [1], [0]])
    seen = evaluation(probabilities.logit(), torch.tensor([[1.0, 0], [0, 1], [0, 1]]), lengths, limits)
    assert seen.said(seen.decided("6x6")).tolist() == [[True, False], [False, True], [False, True]]
    assert seen.correct(seen.decided("6x6"), "logits").tolist() == [1, 1, 1]


def test_thresholds_of_an_unknown_grid_are_the_nearest_ones():
    facts = {THRESHOLDS: {"values": {"6x6": [0.3], "3x3": [0.6]}}}
    limits = limits_in(facts, (TokenGrid(7, 7), TokenGrid(4, 4)), 1)
    assert limits is not None
    assert limits.sigmoid().flatten().tolist() == pytest.approx([0.3, 0.6])
    assert limits_in(facts, (TokenGrid(6, 6),), 3) is None  # of other classes
    assert limits_in({}, (TokenGrid(6, 6),), 1) is None


def test_right_grids_are_those_as_good_as_any():
    right = torch.rand(30, 3) < 0.4
    assert torch.equal(right_grids(right), right)  # of right and wrong answers, the right ones
    scores = torch.tensor([[0.5, 1.0, 0.5], [0.5, 0.5, 0.25], [0.0, 0.0, 0.0]])
    assert smallest_correct(right_grids(scores)).tolist() == [1, 1, 0]


def test_figures_of_classes_by_hand():
    targets = torch.tensor([[1.0, 0], [1, 0], [0, 0], [0, 0]])
    probabilities = torch.tensor([[0.9, 0.1], [0.2, 0.1], [0.7, 0.1], [0.1, 0.1]])
    worst, other = class_figures(probabilities, probabilities > 0.5, targets, ["a", "b"])
    assert worst["class"] == "a"
    assert worst["samples"] == 2
    assert [worst[key] for key in ("precision", "recall", "f1")] == pytest.approx([50, 50, 50])
    assert worst["ap"] == pytest.approx(100 * (1 / 1 + 2 / 3) / 2)
    assert other == {"class": "b", "samples": 0, "ap": None, "precision": None, "recall": None, "f1": None}
