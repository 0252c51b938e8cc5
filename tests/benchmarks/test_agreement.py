"""What counts as the same answer, and how much accuracy is lost."""

from __future__ import annotations

import pytest
from agreement import Verdict, main, row_of

PLAIN = [Verdict(0, "4x4"), Verdict(1, "4x4"), Verdict(2, "2x2"), Verdict(0, "2x2")]
LABELS = [0, 1, 2, 1]


def test_classes_and_lengths_are_compared_one_by_one():
    row = row_of("bfloat16", PLAIN, PLAIN, LABELS)
    assert row["measured"] == "100.00 %"
    other = [Verdict(0, "2x2"), Verdict(2, "4x4"), Verdict(2, "2x2"), Verdict(0, "2x2")]
    row = row_of("bfloat16", PLAIN, other, LABELS)
    assert row["measured"] == "75.00 %"
    assert row["spread"] == "75.00 % got the same token length; top-1 50.00 against 75.00 %"
    assert row["runs"] == "4 files"


def test_int8_is_judged_by_the_accuracy_it_loses():
    other = [Verdict(0, "4x4"), Verdict(2, "4x4"), Verdict(2, "2x2"), Verdict(1, "2x2")]  # one worse, one better
    row = row_of("int8", PLAIN, other, LABELS)
    assert (row["target"], row["measured"]) == ("at most 0.5 points", "0.00 points")
    assert row["spread"].startswith("50.00 % got the same class")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--dtypes", "float8"], "float8: not known"), (["--run", "nowhere"], "no data/test in it")],
)
def test_mistakes_are_explained(arguments, message, capsys):
    assert main(arguments) == 2
    assert message in capsys.readouterr().err
