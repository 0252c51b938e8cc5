"""Weights of classes, and how often an epoch meets their samples."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError
from sklearn.utils.class_weight import compute_class_weight

from revit.common.config.sections import BalanceOptions
from revit.common.data.balance import class_weights, sample_shares
from revit.common.data.flat import FlatNumbers, FlatStrings
from revit.common.data.lists import SampleList
from revit.common.data.sampler import EpochSampler
from revit.common.system.errors import UserError

COUNTS = (50, 10, 3)
LABELS = [label for label, count in enumerate(COUNTS) for _ in range(count)]
NAMES = ("many", "some", "few", "none")


def listed(sets: list[tuple[int, ...]] | None = None) -> SampleList:
    num = len(LABELS) if sets is None else len(sets)
    paths = FlatStrings.of(f"{place}.png" for place in range(num))
    if sets is None:
        return SampleList(paths, np.array(LABELS), NAMES, "list")
    first = np.array([one[0] if one else -1 for one in sets])
    return SampleList(paths, first, NAMES, "list", label_sets=FlatNumbers.of(sets))


def test_balanced_weights_are_scikit_learns():
    found = class_weights(BalanceOptions(weights="balanced"), listed(), NAMES)
    theirs = compute_class_weight("balanced", classes=np.arange(3), y=LABELS)
    assert found[:3] == pytest.approx(theirs)
    assert found[3] == 1


def test_inverse_root_weights_have_a_mean_of_one():
    found = class_weights(BalanceOptions(weights="inverse_sqrt"), listed(), NAMES)
    assert found[:3] / found[0] == pytest.approx(np.sqrt(50 / np.array(COUNTS)))
    assert found[LABELS].mean() == pytest.approx(1)


@pytest.mark.parametrize(("rule", "power"), [("balanced", 1.0), ("inverse_sqrt", 0.5)])
def test_weights_of_several_labels_balance_yes_and_no(rule: str, power: float):
    samples = listed([(0, 1), (0,), (), (0, 2), (3,), (0, 3)])
    found = class_weights(BalanceOptions(weights=rule), samples, NAMES)
    own = np.array([4, 1, 1, 2])
    assert found == pytest.approx(((6 - own) / own) ** power)


def test_given_weights():
    assert class_weights(BalanceOptions(weights=(1, 2, 3, 0)), listed(), NAMES).tolist() == [1, 2, 3, 0]
    assert class_weights(BalanceOptions(weights={"few": 4, 1: 2}), listed(), NAMES).tolist() == [1, 2, 4, 1]
    assert class_weights(BalanceOptions(), listed(), NAMES) is None
    for weights, said in (((1, 2), "2 numbers, the data has 4"), ({"fwe": 1}, "'fwe'"), ({7: 1}, "outside 0..3")):
        with pytest.raises(UserError, match=said):
            class_weights(BalanceOptions(weights=weights), listed(), NAMES)


def test_two_corrections_are_refused():
    with pytest.raises(ValidationError, match="more than once"):
        BalanceOptions(weights="balanced", sampler="balanced")
    BalanceOptions(weights=(1, 2), sampler="balanced")


def epoch(samples: SampleList, rule: str, number: int = 0, **ranks) -> list[int]:
    sampler = EpochSampler(
        len(samples), seed=3, shuffle=True, shares=sample_shares(BalanceOptions(sampler=rule), samples), **ranks
    )
    sampler.set_position(number)
    return [index for _, index, _ in sampler]


def test_a_balanced_epoch_meets_all_classes_equally_often():
    for number in range(5):
        order = epoch(listed(), "balanced", number)
        assert len(order) == len(LABELS)
        assert np.bincount(np.array(LABELS)[order]) == pytest.approx(np.full(3, 21), abs=1)
        times = np.bincount(order, minlength=63)
        assert times[60:].tolist() == [7, 7, 7]  # 21 of three samples
        assert set(times[50:60]) <= {2, 3}
        assert set(times[:50]) <= {0, 1}


def test_by_the_root():
    counts = np.mean(
        [np.bincount(np.array(LABELS)[epoch(listed(), "inverse_sqrt", number)]) for number in range(20)], 0
    )
    expected = np.sqrt(COUNTS)
    assert counts == pytest.approx(expected * 63 / expected.sum(), abs=0.6)


def test_other_samples_of_large_classes_in_every_epoch():
    met = {index for number in range(40) for index in epoch(listed(), "balanced", number)}
    assert met == set(range(63))
    assert epoch(listed(), "balanced", 1) == epoch(listed(), "balanced", 1)
    assert epoch(listed(), "balanced", 1) != epoch(listed(), "balanced", 2)


def test_ranks_share_one_order():
    whole = epoch(listed(), "balanced")
    parts = [epoch(listed(), "balanced", rank=rank, num_ranks=2) for rank in range(2)]
    assert [index for pair in zip(*parts) for index in pair] == whole[:62]


def test_samples_of_several_labels_have_the_mean_of_their_shares():
    samples = listed([(0,), (0,), (0, 1), ()])
    found = sample_shares(BalanceOptions(sampler="balanced"), samples)
    # class 0 comes three times, class 1 once, no label once: in proportion 1/3, 1, 1
    assert found / found[0] == pytest.approx([1, 1, (1 / 3 + 1) / 2 * 3, 3])
    assert found.mean() == pytest.approx(1)
