"""The Markdown table and the JSON file say the same as the runs."""

from __future__ import annotations

import json
import re

from made_runs import content_of, made_record, save_run

from revit.common.report.markdown import markdown
from revit.common.report.summary import as_json, summarize


def cells(line):
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def test_the_table(tmp_path):
    record = made_record()
    content = content_of(record)
    content["model"] = "a|b\n*c*"
    summary = summarize(save_run(tmp_path / "a", record, content))
    text = markdown([summary])
    first = text.splitlines()[0]
    assert first.startswith("**")
    assert summary.run.judged.text.split(" points")[0].replace("_", r"\_") in first
    head, rule, *rows = [cells(line) for line in text.splitlines() if line.startswith("|")]
    assert {len(row) for row in (rule, *rows)} == {len(head)}
    assert set(rule) == {"---", "---:"}
    assert "protocol" not in head
    table = [dict(zip(head, row)) for row in rows]
    assert [row["tokens"] for row in table] == ["6x6", "3x3", "adaptive", "random", "oracle"]
    assert table[0]["model"] == r"a\|b \*c\*"
    assert table[2]["of them assigner"] == "0.01"
    assert (table[0]["/s, batch 1"], table[0]["p50 ms, batch 1"], table[0]["best batch"]) == ("100.00", "10.00", "8")
    assert float(table[0]["GFLOPs"]) == 2 * float(table[0]["GMACs"])
    assert "split test" in text
    assert "torch 2.11" in text


def test_runs_of_other_protocols_are_marked(tmp_path):
    summaries = [summarize(save_run(tmp_path / str(num), made_record(num=num))) for num in (200, 300)]
    text = markdown(summaries)
    assert "**NOT COMPARABLE: " in text
    head, _, *rows = [cells(line) for line in text.splitlines() if line.startswith("|")]
    assert head[-1] == "protocol"
    assert [row[-1] for row in rows] == ["A"] * 5 + ["B"] * 5


def test_json_holds_everything(tmp_path):
    summary = summarize(save_run(tmp_path / "a", made_record(views=2)))
    found = json.loads(json.dumps(as_json([summary]), allow_nan=False))
    assert list(found) == ["verdicts", "warnings", "runs"]
    (run,) = found["runs"]
    assert run["verdict"] == summary.run.judged.text
    assert run["samples"] == {"evaluated": 200, "failed": 1}
    assert [row["length"] for row in run["rows"]] == ["6x6", "3x3", "adaptive", "random", "oracle"]
    assert run["rows"][0]["gmacs_total"] == 3 * run["rows"][0]["gmacs"]
    assert run["rows"][2]["alone"]["ms_p50"] == 8.0
    assert sum(row["inputs"] for row in run["per_length"]) == 400
    assert sum(map(sum, run["assigned_against_needed"].values())) == 400
    assert run["training"]["model"]["val_top1"]["6x6"] == [[1, 50.0], [2, 60.0]]
    assert run["missing"] == []
