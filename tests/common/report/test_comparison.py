"""Runs side by side: intervals of their accuracies, and which of them were tested alike."""

from __future__ import annotations

import copy
import json
import math

import pytest
import report

from revit.common.evaluation.intervals import Z95, wilson
from revit.common.report.comparison import comparison_columns, comparison_rows, comparison_warnings, protocol_letters
from revit.common.report.page import render
from revit.common.report.runs import RunReport
from revit.common.report.summary import summarize

PROTOCOL = {"data": "made, 1234", "split": "test", "num_views": 1, "merge": "logits", "seed": 0}
PLAIN = {
    "fixed": [{"grid": "6x6", "top1": 90.0, "gmacs": 0.5, "params": 1000}],
    "samples": {"evaluated": 400, "failed": 0},
    "seconds": {"data": 3.0, "model": 60.4, "evaluate": 2.0},
    "method": "plain",
    "model": "deit_small",
    "protocol": PROTOCOL,
}
REVIT = {
    **copy.deepcopy(PLAIN),
    "fixed": [
        {"grid": "6x6", "top1": 91.0, "gmacs": 0.5, "params": 1100},
        {"grid": "3x3", "top1": 70.0, "gmacs": 0.1, "params": 1100},
    ],
    "adaptive": {"top1": 90.5, "gmacs": 0.3, "share": {"6x6": 0.5, "3x3": 0.5}, "assigner_params": 10},
    "random": {"top1": 80.0, "gmacs": 0.3},
    "method": "revit",
}


def test_wilson_is_where_the_score_test_ends():
    """At either limit p, the share found lies exactly z standard errors of p away from p."""
    for share, num in ((0.9, 400), (0.5, 10), (1.0, 30), (0.003, 1500)):
        low, high = wilson(share, num)
        assert 0 <= low <= share <= high <= 1
        for limit in (low, high):
            if 0 < limit < 1:
                assert abs(share - limit) == pytest.approx(Z95 * math.sqrt(limit * (1 - limit) / num), rel=1e-9)
    assert wilson(0.3, 0) == (0.0, 1.0)
    with pytest.raises(ValueError, match=r"1\.5 is no share"):
        wilson(1.5, 10)


def test_one_table_of_all_runs():
    runs = [RunReport("a", PLAIN), RunReport("b", REVIT)]
    rows = comparison_rows(runs)
    assert [(row["run"], row["method"], row["length"]) for row in rows] == [
        *(("a", "plain", "6x6"), ("b", "revit", "6x6"), ("b", "revit", "3x3")),
        *(("b", "revit", "adaptive"), ("b", "revit", "random")),
    ]
    assert [row["params"] for row in rows] == [1000, 1100, 1100, 1110, 1100]
    assert [row["seconds"] for row in rows] == ["model 60, evaluate 2"] * 2 + [None] * 3
    assert rows[0]["interval"] == "86.7 to 92.6"
    assert comparison_warnings(runs) == []
    assert "protocol" not in comparison_columns(runs)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("data", "made, 5678", "A: data made, 1234; B: data made, 5678"),
        ("split", "val", "A: split test; B: split val"),
        ("num_views", 3, "A: num_views 1; B: num_views 3"),
        ("merge", None, "A: merge logits; B: merge not recorded"),
        ("evaluated", 399, "A: samples 400; B: samples 399"),
        ("failed", 1, "A: failed 0; B: failed 1"),
    ],
)
def test_what_was_tested_otherwise_is_marked(tmp_path, capsys, key, value, said):
    other = copy.deepcopy(PLAIN)
    other["samples" if key in PLAIN["samples"] else "protocol"][key] = value
    runs = [RunReport("a", PLAIN), RunReport("b", other), RunReport("c", REVIT)]
    assert protocol_letters(runs) == ["A", "B", "A"]
    assert [row["protocol"] for row in comparison_rows(runs)] == ["A", "B", "A", "A", "A", "A"]
    (warning,) = comparison_warnings(runs)
    assert warning.startswith("NOT COMPARABLE: ")
    assert warning.endswith(said)
    for run in runs:
        (tmp_path / run.name).mkdir()
        (tmp_path / run.name / "report.json").write_text(json.dumps(run.content))
    assert report.main([str(tmp_path), "--html", str(tmp_path / "page.html")]) == 0
    assert said in capsys.readouterr().out
    assert "NOT COMPARABLE" in (tmp_path / "page.html").read_text()


def test_seeds_and_devices_may_differ():
    other = copy.deepcopy(PLAIN)
    other["protocol"] |= {"seed": 1, "device": "cuda", "dtype": "bfloat16"}
    assert comparison_warnings([RunReport("a", PLAIN), RunReport("b", other)]) == []


def test_a_report_of_before_has_a_method_too():
    old = {key: value for key, value in REVIT.items() if key not in ("method", "model", "protocol")}
    run = RunReport("old", old)
    assert {row["method"] for row in comparison_rows([run])} == {"revit"}
    assert render([summarize(run)]).count("<table>") == 1


def test_letters_do_not_run_out():
    runs = []
    for number in range(30):
        other = copy.deepcopy(PLAIN)
        other["samples"]["evaluated"] += number
        runs.append(RunReport(str(number), other))
    assert protocol_letters(runs)[24:] == ["Y", "Z", "AA", "AB", "AC", "AD"]
