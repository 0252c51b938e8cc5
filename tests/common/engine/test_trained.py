from __future__ import annotations

import pytest

from revit.common.engine.trained import check_same_classes
from revit.common.errors import UserError

NUMBERS = ["0", "1", "2"]


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (["a", "b"], ["a", "b"]),
        (NUMBERS, NUMBERS),
        (["a", "b", "c"], NUMBERS),
        (["a", "b", "c"], NUMBERS[:2]),
    ],
)
def test_equal_classes_pass(theirs, ours):
    check_same_classes("file", theirs, ours)


@pytest.mark.parametrize(
    ("theirs", "ours", "message"),
    [
        (["a", "b"], ["b", "a"], "class 0 is 'a' there and 'b' here"),
        (["a", "b"], ["a"], "class 1 is 'b' there and 'nothing' here"),
        (NUMBERS, ["a", "b"], "knows 3 classes, the data has 2"),
        (["a"], NUMBERS, "knows 1 classes, the data has 3"),
    ],
)
def test_other_classes_or_another_order_are_refused(theirs, ours, message):
    with pytest.raises(UserError, match=message):
        check_same_classes("file", theirs, ours)
