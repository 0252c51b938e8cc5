"""The ledger of broken samples: once each, counted, and a limit."""

from __future__ import annotations

import logging

import pytest

from revit.common.data.broken import BrokenFiles, BrokenSample, Failure
from revit.common.system.errors import UserError


def failure(id_: int) -> Failure:
    return Failure(id_, f"clip{id_}.mp4", "is empty")


def test_a_path_is_logged_and_counted_once(caplog):
    ledger = BrokenFiles(100)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            ledger.record([1, 2], [failure(5), failure(6)])
    assert [record.message for record in caplog.records] == [
        "data: cannot read clip5.mp4: is empty",
        "data: cannot read clip6.mp4: is empty",
    ]
    assert (ledger.num_broken, ledger.num_seen) == (2, 4)
    assert ledger.failures == [failure(5), failure(6)]


def test_more_than_the_share_stops_with_the_list():
    ledger = BrokenFiles(1000, max_share=0.1, min_samples=20)
    ledger.record(range(90), [failure(id_) for id_ in range(90, 100)])  # exactly a tenth
    with pytest.raises(UserError, match=r"11 of the 101 samples(.|\n)*share of 0.1(.|\n)*clip90.mp4: is empty"):
        ledger.record([], [failure(100)])


def test_the_share_is_not_judged_before_enough_samples():
    ledger = BrokenFiles(1000, max_share=0.1, min_samples=20)
    ledger.record([], [failure(id_) for id_ in range(19)])
    with pytest.raises(UserError, match="19 of the 20"):
        ledger.record([500], [])


def test_a_short_list_is_judged_when_all_of_it_was_seen():
    ledger = BrokenFiles(3, max_share=0.5)
    ledger.record([0], [failure(1)])
    with pytest.raises(UserError, match="2 of the 3"):
        ledger.record([], [failure(2)])


def test_without_a_limit_everything_may_fail():
    ledger = BrokenFiles(60)
    ledger.record([], [failure(id_) for id_ in range(60)])
    assert ledger.num_broken == 60
    assert ledger.report(limit=2).endswith("clip1.mp4: is empty\n  ... and 58 more")


def test_the_count_goes_on_after_a_resume():
    first, second = BrokenFiles(100, 0.5), BrokenFiles(100, 0.5)
    first.record([1, 2], [failure(3)])
    second.load_state_dict(first.state_dict())
    second.record([2, 4], [failure(3)])
    assert (second.num_broken, second.num_seen) == (1, 4)
    with pytest.raises(UserError, match="had 100 samples, the list now has 50"):
        BrokenFiles(50).load_state_dict(first.state_dict())


def test_broken_samples_read_as_one_line():
    assert str(BrokenSample("a.mp4", "is empty")) == "a.mp4: is empty"
