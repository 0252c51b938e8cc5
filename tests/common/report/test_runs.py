"""Reports of runs are found, judged and shown."""

from __future__ import annotations

import copy
import json
import re

import pytest
import report

from revit.common.report.runs import RunReport, read_runs, unfinished
from revit.common.report.tables import print_table, shown
from revit.common.system.errors import UserError

CONTENT = {
    "fixed": [
        {"grid": "14x14", "top1": 95.0, "top5": 99.0, "gmacs": 196.0, "params": 10, "per_second": 4.0},
        {"grid": "7x7", "top1": 70.0, "top5": 90.0, "gmacs": 49.0, "params": 10, "per_second": 16.0},
    ],
    "adaptive": {"top1": 94.5, "gmacs": 120.0, "share": {"14x14": 0.48, "7x7": 0.52}, "per_second": 7.0},
    "random": {"top1": 82.0, "gmacs": 119.9},
    "oracle": {"top1": 96.0, "gmacs": 90.0},
    "samples": {"evaluated": 1000, "failed": 2},
    "failures": [{"path": "clips/<b>odd</b>.mp4", "reason": "empty file"}],
    "seconds": {"model": 100.5},
    "versions": {"torch": "2.11"},
}


def save(folder, content):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(json.dumps(content))


def test_rows_in_order():
    rows = RunReport("runs/a", CONTENT).rows()
    assert [row["length"] for row in rows] == ["14x14", "7x7", "adaptive", "random", "oracle"]
    assert [row["share"] for row in rows] == [0.48, 0.52, None, None, None]
    assert {row["failed"] for row in rows} == {2}


def test_the_verdict_of_a_run_without_an_assigner_is_its_accuracy():
    plain = {"fixed": CONTENT["fixed"][:1], "samples": CONTENT["samples"]}
    run = RunReport("runs/plain", plain)
    assert len(run.rows()) == 1
    assert run.judged.text.startswith("top-1 95.00 %")
    assert run.judged.good


def test_a_useful_assigner_and_a_useless_one():
    verdict = RunReport("a", CONTENT).judged.text
    assert verdict.startswith("The assigner pays: 94.5 % right at 61 % of the cost of 14x14 (-0.5 points)")
    assert "dealt out at random get 82.0 % (+12.5 points" in verdict
    useless = copy.deepcopy(CONTENT)
    useless["random"]["top1"] = 94.0
    judged = RunReport("a", useless).judged
    assert not judged.good
    assert judged.text.startswith("The assigner cannot be told from chance on 1,000 samples")
    assert "--grid 14x14 (95.0 % at 100 %) or --grid 7x7 (70.0 % at 25 %)" in judged.text


def test_a_run_that_knows_its_verdict_is_quoted():
    """It knows the answers sample by sample; the figures alone are a cautious yardstick."""
    own = {"verdict": "No better, by a paired test", "good": False}
    assert RunReport("a", {**CONTENT, **own}).judged == (own["verdict"], False)
    older = RunReport("a", {**CONTENT, "verdict": "IN OTHER WORDS"})
    assert older.judged == RunReport("a", CONTENT).judged


def test_rows_say_operations_intervals_and_the_assigners_part():
    content = copy.deepcopy(CONTENT)
    content["adaptive"]["assigner_gmacs"] = 0.5
    content["cascade"] = {"top1": 94.0, "gmacs": 130.0, "share": {"14x14": 0.5, "7x7": 0.5}, "curve": []}
    rows = RunReport("runs/a", content).rows()
    assert [row["length"] for row in rows[2:]] == ["adaptive", "random", "oracle", "cascade"]
    assert [row["assigner_gmacs"] for row in rows] == [None, None, 0.5, None, None, None]
    for row in rows:
        assert row["gflops"] == 2 * row["gmacs"]
        assert row["low"] < row["top1"] < row["high"]


def test_the_interval_shrinks_with_samples():
    small, large = copy.deepcopy(CONTENT), copy.deepcopy(CONTENT)
    large["samples"]["evaluated"] = 100_000
    (many, *_), (few, *_) = RunReport("a", large).rows(), RunReport("a", small).rows()
    assert many["high"] - many["low"] == pytest.approx((few["high"] - few["low"]) / 10, rel=0.01)
    for content in (large, small):
        content["random"]["top1"] = 94.0  # half a point below
    assert RunReport("a", large).judged.good
    assert not RunReport("a", small).judged.good


def test_runs_are_found_at_any_depth_once(tmp_path):
    save(tmp_path / "seeds" / "1", CONTENT)
    save(tmp_path / "seeds" / "0", CONTENT)
    runs = read_runs([tmp_path, tmp_path / "seeds" / "1"])
    assert [run.name for run in runs] == [str(tmp_path / "seeds" / "0"), str(tmp_path / "seeds" / "1")]


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"fixed": [], "samples": 3}', "null"])
def test_foreign_files(tmp_path, text):
    (tmp_path / "report.json").write_text(text)
    with pytest.raises(UserError, match=r"report\.json: not the report of a run"):
        read_runs([tmp_path])


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("fixed", []),
        ("fixed.0.top1", None),
        ("fixed.0.top1", "95"),
        ("fixed.1.top1", float("nan")),
        ("fixed.0.gmacs", 0),
        ("fixed.0.grid", 14),
        ("adaptive.top1", None),
        ("adaptive.gmacs", None),
        ("adaptive.share", {"14x14": "half"}),
        ("adaptive.share", None),
        ("random.top1", float("inf")),
        ("samples.evaluated", -1),
        ("seconds", {"model": "long"}),
        ("seconds", 3),
        ("versions", ["torch"]),
        ("protocol", "three crops"),
        ("failures", [{"path": "a.mp4"}]),
        ("failures", 2),
        ("fixed.1.grid", "14x14"),
        ("fixed.1.grid", "adaptive"),
        ("fixed.1.grid", ""),
        ("adaptive.share", {"9x9": 1.0}),
        ("random.share", {"9x9": 1.0}),
        ("samples.evaluated", 10**400),
        ("protocol", {"deep": [1, {"in": float("nan")}]}),
        ("cascade", {"top1": 1.0, "gmacs": 1.0, "curve": [{"top1": float("inf")}]}),
        ("of_a_later_version", {"x": float("-inf")}),
    ],
)
def test_what_no_run_writes_is_refused_with_its_place(tmp_path, place, value):
    content = copy.deepcopy(CONTENT)
    *way, last = [int(step) if step.isdigit() else step for step in place.split(".")]
    holder = content
    for step in way:
        holder = holder[step]
    holder[last] = value
    save(tmp_path, content)
    with pytest.raises(UserError, match=rf"not the report of a run: {re.escape(place)}"):
        read_runs([tmp_path])


def test_null_is_absent(tmp_path):
    save(tmp_path, {**CONTENT, "adaptive": None, "random": None})
    (run,) = read_runs([tmp_path])
    assert [row["length"] for row in run.rows()] == ["14x14", "7x7", "oracle"]
    assert run.judged.text.startswith("top-1 95.00 %")


def test_folders_without_a_report(tmp_path):
    with pytest.raises(UserError, match=r"no report\.json in it or below"):
        read_runs([tmp_path])
    with pytest.raises(UserError, match="no such folder"):
        read_runs([tmp_path / "none"])
    save(tmp_path, CONTENT)
    with pytest.raises(UserError, match=rf"report\.json: a file; give its folder, {tmp_path}"):
        read_runs([tmp_path / "report.json"])


def test_runs_that_are_not_finished_are_told(tmp_path, capsys):
    run = tmp_path / "a run"
    run.mkdir()
    (run / "stages.json").write_text("{}")
    with pytest.raises(UserError, match=r"a run: no report\.json, its run is not finished; go on with python tools/"):
        read_runs([run])
    save(tmp_path / "done", CONTENT)
    (tmp_path / "done" / "stages.json").write_text("{}")
    assert report.main([str(tmp_path)]) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"not shown: {run}: ")
    assert f"--cfg '{run}/config.yaml' 'run.dir={run}'" in line
    assert unfinished([tmp_path, run]) == unfinished([tmp_path])


def test_table_cells(capsys):
    assert [shown(value) for value in (None, True, 1234567, 196.0535, 0.02124, 0.0, "x")] == [
        *("-", "yes", "1,234,567", "196.05", "0.0212", "0.00", "x")
    ]
    print_table("T", {"a": "A", "b": "B"}, [{"a": "[red]", "b": 1.5}, {"a": "y"}])
    assert "[red]" in capsys.readouterr().out
