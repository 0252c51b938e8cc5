"""Times of the baselines follow from those of the lengths; nothing that was not timed is called measured."""

from __future__ import annotations

import copy

import pytest
from made_runs import content_of, made_record, save_run

from revit.common.report.markdown import markdown
from revit.common.report.page import render
from revit.common.report.runs import RunReport
from revit.common.report.summary import as_json, summarize


@pytest.fixture
def content():
    """Lengths of 10 and 4 ms alone, half of that in batches; the adaptive pass takes 8."""
    found = copy.deepcopy(content_of(made_record()))
    found["random"]["share"] = found["adaptive"]["share"]
    found["oracle"]["share"] = {"6x6": 0.25, "3x3": 0.75}
    found["cascade"] = {"top1": 85.0, "gmacs": 0.8, "share": {"6x6": 0.4, "3x3": 0.6}, "curve": []}
    return found


@pytest.mark.parametrize(("best", "scale"), [(False, 1.0), (True, 0.5)])
def test_the_arithmetic(content, best, scale):
    found = RunReport("a", content).input_times(best)
    long = content["adaptive"]["share"]["6x6"]
    expected = {
        "6x6": 10,
        "3x3": 4,
        "adaptive": 8,
        "random": 10 * long + 4 * (1 - long),
        "oracle": 0.25 * 10 + 0.75 * 4,
        "cascade": 4 + 0.4 * 10,  # all pay for the short one
    }
    assert {name: row["ms"] for name, row in found.items()} == pytest.approx(
        {name: scale * ms for name, ms in expected.items()}
    )
    assert {name for name, row in found.items() if row.get("derived")} == {"random", "oracle", "cascade"}
    for row in found.values():
        assert row["per_second"] == pytest.approx(1000 / row["ms"])
        assert ("ms_p50" in row) == ("derived" not in row)


def test_a_cascade_of_three_pays_for_all_that_ran(content):
    content["fixed"].insert(1, {"grid": "4x4", "top1": 70.0, "gmacs": 0.5})
    content["speed"]["rows"] += [{**row, "grid": "4x4", "per_second": 200.0} for row in content["speed"]["rows"][:1]]
    content["cascade"]["share"] = {"6x6": 0.2, "4x4": 0.3, "3x3": 0.5}
    ms = RunReport("a", content).input_times(best_batch=False)["cascade"]["ms"]
    assert ms == pytest.approx(0.5 * 4 + 0.3 * (4 + 5) + 0.2 * (4 + 5 + 10))


def test_nothing_is_derived_from_what_is_not_known(content):
    del content["oracle"]["share"], content["cascade"]["share"]
    assert set(RunReport("a", content).input_times(best_batch=False)) == {"6x6", "3x3", "adaptive", "random"}
    content["speed"]["rows"] = [row for row in content["speed"]["rows"] if row["grid"] != "3x3"]
    assert set(RunReport("a", content).input_times(best_batch=False)) == {"6x6", "adaptive"}
    del content["speed"]
    assert RunReport("a", content).input_times(best_batch=True) == {}


def test_derived_times_are_marked_everywhere(content, tmp_path):
    summary = summarize(save_run(tmp_path / "a", made_record(), content))
    rows = {row["length"]: row for row in as_json([summary])["runs"][0]["rows"]}
    assert rows["cascade"]["alone"] == {"ms": 8.0, "per_second": 125.0, "derived": True}
    assert "derived" not in rows["adaptive"]["alone"]
    text = markdown([summary])
    (line,) = [line for line in text.splitlines() if "| cascade |" in line]
    assert "| ~125.00 |" in line
    assert "| ~250.00 |" in line
    assert "~ in front of a rate: not measured itself" in text
    page = render([summary])
    assert "<td>~8</td><td>~4</td>" in page
    assert "cascade, derived" in page
    assert "~ in front of a time" in page
    assert "hollow: derived" in page
