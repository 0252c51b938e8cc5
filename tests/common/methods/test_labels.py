from __future__ import annotations

import itertools

import pytest
import torch

from revit.common.methods.revit.labels import DROPPED, LengthLabels, class_balanced_weights, smallest_correct
from revit.common.models.grid import longest_first
from revit.common.system.errors import UserError

EVERY_CASE = torch.tensor(list(itertools.product([False, True], repeat=3)))


@pytest.mark.parametrize(("none_correct", "expected"), [("longest", 0), ("shortest", 2), ("drop", DROPPED)])
def test_labels_against_the_definition(none_correct, expected):
    labels = smallest_correct(EVERY_CASE, none_correct)
    for correct, label in zip(EVERY_CASE.tolist(), labels.tolist()):
        right = [index for index, flag in enumerate(correct) if flag]
        assert label == (max(right) if right else expected)  # the largest index is the smallest grid


def test_balanced_weights_give_every_label_the_same_mass():
    labels = torch.tensor([0] * 2 + [1] * 8 + [DROPPED] * 3)
    weights = class_balanced_weights(labels, 3)
    mass = [float(weights[label]) * int((labels == label).sum()) for label in (0, 1)]
    assert mass[0] == pytest.approx(mass[1])
    assert weights[2] == 0
    assert float(weights[labels[labels >= 0]].mean()) == pytest.approx(1)


def test_what_is_saved_is_read_back(tmp_path):
    labels = LengthLabels(
        grids=longest_first([6, 3]),
        ids=torch.tensor([4, 0, 2]),
        paths=["a clip, with comma.mp4", 'quote".mp4', "ü.mp4"],
        targets=["1", "0", "2;5"],
        correct=torch.tensor([[True, True], [True, False], [False, False]]),
        none_correct="drop",
    )
    labels.save(tmp_path / "lengths.csv")
    again = LengthLabels.load(tmp_path / "lengths.csv", "drop")
    assert again.grids == labels.grids
    assert list(again.paths) == list(labels.paths)
    assert again.labels.tolist() == [1, 0, DROPPED]
    assert list(again.targets) == list(labels.targets)
    for name in ("ids", "correct"):
        assert torch.equal(getattr(again, name), getattr(labels, name))
    assert labels.shares() == {"6x6": 0.5, "3x3": 0.5}


def test_parts_are_joined_in_the_lists_order():
    def part(ids, right):
        return LengthLabels(
            grids=longest_first([6, 3]),
            ids=torch.tensor(ids),
            paths=[f"{id}.mp4" for id in ids],
            targets=[f"{id % 2};7" for id in ids],
            correct=torch.tensor([[True, right]] * len(ids)),
        )

    joined = LengthLabels.joined([part([1, 4], True), part([0, 2, 5], False)])
    assert joined.ids.tolist() == [0, 1, 2, 4, 5]
    assert list(joined.paths) == ["0.mp4", "1.mp4", "2.mp4", "4.mp4", "5.mp4"]
    assert list(joined.targets) == ["0;7", "1;7", "0;7", "0;7", "1;7"]
    assert joined.labels.tolist() == [0, 1, 0, 1, 0]


@pytest.mark.parametrize("text", ["", "id,path\n1,a\n", "id,path,target,length,correct_6x6\nx,a,0,6x6,1\n"])
def test_a_foreign_file_is_refused(tmp_path, text):
    (tmp_path / "lengths.csv").write_text(text)
    with pytest.raises(UserError, match="lengths"):
        LengthLabels.load(tmp_path / "lengths.csv")


def test_paths_that_are_not_text_survive(tmp_path):
    labels = LengthLabels(
        grids=longest_first([6, 3]),
        ids=torch.tensor([0]),
        paths=["bad\udcff.mp4"],
        targets=["1"],
        correct=torch.tensor([[True, False]]),
    )
    labels.save(tmp_path / "lengths.csv")
    assert list(LengthLabels.load(tmp_path / "lengths.csv").paths) == ["bad\udcff.mp4"]
