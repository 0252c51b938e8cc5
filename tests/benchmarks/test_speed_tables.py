"""Tables of speed and of what was to be reached: from what was written, with the machine of the measurement."""

from __future__ import annotations

import json

import lists
import pytest
from made_tables.speed import dynamicvit_speed, speed
from made_tables.targets import targets
from tables import main

from revit.common.system.errors import UserError
from revit.common.timing.cases import OTHER_ARCHITECTURE

ROW = {
    "name": "ours",
    "config": "deit_small",
    "grid": "14x14",
    "dtype": "bfloat16",
    "compiled": True,
    "batch": 4,
    "device": "cpu (Some Processor, 2 threads)",
    "per_second": 20.0,
    "ms_p50": 50.0,
    "ms_p95": 55.0,
    "peak_memory_mb": 100.0,
    "fraction_of_peak": 0.7,
    "rounds": 5,
    "spread": 0.03,
    "instructions": "avx2 amx",
    "versions": {"python": "3.12", "torch": "2.0", "timm": "1.0"},
    "kind": "image",
    "command": "python tools/throughput.py --peers timm",
}
TARGET = {
    "work": "DeiT-S against timm",
    "target": "1.15 times",
    "measured": "1.2 times",
    "spread": "1.18 to 1.22",
    "runs": 5,
    "command": "python x.py",
    "machine": "Some Processor",
}


def cells_of(made):
    """Of every table, its lines, headings first."""
    lines = [line for line in made.splitlines() if line.startswith("|") and not line.startswith("| ---")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def written(folder, rows):
    folder.mkdir(exist_ok=True)
    (folder / "a.json").write_text(json.dumps(rows))
    return folder


def test_speed_names_the_machine_of_the_measurement(tmp_path):
    timm = {**ROW, "name": "timm", "compiled": False, "per_second": 10.0, "fraction_of_peak": None}
    folder = written(tmp_path / "speed", [timm, ROW, {**ROW, "kind": "video"}])
    made = speed("image", folder)
    assert made is not None
    assert made.startswith(
        "**deit_small, 14x14, batch 4, cpu (Some Processor, 2 threads), avx2 amx**\n\n| model | dtype |"
    )
    assert cells_of(made)[1:] == [
        ["ours", "bfloat16, compiled", "20", "100%", "50 / 55", "3%", "100", "70%"],
        ["timm", "bfloat16", "10", "50%", "50 / 55", "3%", "100", "-"],
    ]
    assert "By `python tools/throughput.py --peers timm`; 5 rounds" in made
    assert "python 3.12, torch 2.0, timm 1.0." in made
    assert "`timm`: our weights, and the same logits" in made
    readme = tmp_path / "README.md"
    readme.write_text("<!-- table: speed-video -->\n<!-- end -->\n")
    for _ in range(2):
        assert main(["--readme", str(readme), "--runs", str(tmp_path)]) == 0
        assert readme.read_text().count("| ours |") == 1
    (folder / "broken.json").write_text("{")
    with pytest.raises(UserError, match="not what a command here writes"):
        speed("image", folder)


def test_what_differs_between_rows_has_a_column_and_each_file_a_table(tmp_path):
    mvit, x3d = (
        {**ROW, "name": name, "config": OTHER_ARCHITECTURE, "grid": "16x224", "per_second": rate}
        for name, rate in (("mvit", 1234.5), ("x3d", 2.0))
    )
    served = {**ROW, "name": "ours, served", "per_second": 40.0, "round_ms": [49.0, 51.0]}
    folder = written(tmp_path, [ROW, mvit, x3d, served, {**ROW, "batch": 1}])
    (folder / "b.json").write_text(json.dumps([{**ROW, "device": "NVIDIA H200"}]))
    made = speed("image", folder)
    assert made is not None
    first, second = made.split("**deit_small, 14x14, batch 4, NVIDIA H200**")
    headings, *rows = cells_of(first)
    assert headings[:4] == ["model", "grid or input", "batch", "dtype"]
    # Of one work the fastest first; other architectures are compared with nothing.
    assert [(row[0], row[2], row[5]) for row in rows] == [
        ("ours, served", "4", "100%"),
        ("ours", "4", "50%"),
        ("mvit", "4", "100%"),
        ("x3d", "4", "100%"),
        ("ours", "1", "100%"),
    ]
    assert rows[2][4] == "1,234"
    assert first.startswith("**deit_small, cpu")
    assert (
        "`ours, served`: as the inference engine runs it, with packed weights, compared with the plain model"
        in first
    )
    assert "Other architectures have random weights" in first
    assert len(cells_of(second)) == 2
    assert "served" not in second
    assert "our weights" not in made


def test_targets_say_what_was_reached(tmp_path):
    path = tmp_path / "targets.json"
    short = {**TARGET, "measured": "1.1 times"}
    limited = {**TARGET, "target": "at most 1.05 times", "measured": "1.04 times", "machine": "Another"}
    path.write_text(json.dumps([TARGET, short, limited]))
    made = targets(path)
    assert made is not None
    assert "| 1.15 times | 1.2 times (1.18 to 1.22 in 5 runs) | yes | 1 |" in made
    assert [row[3] for row in cells_of(made)[1:]] == ["yes", "no", "yes"]
    assert [row[4] for row in cells_of(made)[1:]] == ["1", "1", "2"]
    assert made.endswith("\n\n1. `python x.py` on Some Processor\n2. `python x.py` on Another\n")
    path.write_text(json.dumps([{key: value for key, value in TARGET.items() if key != "machine"}]))
    with pytest.raises(UserError, match="row 1: no machine"):
        targets(path)
    path.write_text(json.dumps([{**TARGET, "measured": "much"}]))
    with pytest.raises(UserError, match="row 1, measured: found 'much'"):
        targets(path)


@pytest.mark.parametrize(
    ("changes", "measured", "reached"),
    [
        (
            {"measured": 1.01649, "spread": [0.98765, 1.1], "runs": [1.0, 1.1, 0.98765]},
            "1.02 (0.988 to 1.1 in 3 runs)",
            "no",
        ),
        ({"measured": 160, "spread": None, "runs": 1, "target": "at most 300 MB"}, "160 (1 run)", "yes"),
        ({"measured": None, "why": "no such GPU"}, "not measured: no such GPU", "-"),
        ({"measured": "not measured: no GPU", "spread": None, "runs": 0}, "not measured: no GPU", "-"),
        ({"measured": None, "command": None, "machine": None}, "not measured", "-"),
    ],
)
def test_a_figure_and_the_lack_of_one(tmp_path, changes, measured, reached):
    path = tmp_path / "targets.json"
    path.write_text(json.dumps([{**TARGET, **changes}]))
    made = targets(path)
    assert made is not None
    assert cells_of(made)[1][2:4] == [measured, reached]
    assert ("1. to be measured by `python x.py` on" in made) == (reached == "-" and "command" not in changes)
    assert "What was missed" not in made


def test_why_a_target_was_missed_stands_below(tmp_path):
    path = tmp_path / "targets.json"
    missed = {**TARGET, "work": "DeiT-S against timm, ours, eager", "measured": "1.1 times"}
    rows = [
        {**TARGET, "why": "reached, so it is not told"},
        {**missed, "why": "DeiT-S against timm: it is fast too"},
        {**missed, "why": "a reason: of its own"},
    ]
    path.write_text(json.dumps(rows))
    made = targets(path)
    assert made is not None
    assert made.endswith(
        "What was missed, and why:\n\n- DeiT-S against timm, ours, eager: it is fast too\n"
        "- DeiT-S against timm, ours, eager: a reason: of its own\n"
    )


def test_targets_of_long_lists(tmp_path):
    found = [
        {"seconds": {"first batch": seconds}, "worker 0": {"PSS": pss}, "worker 1": {"PSS": 100.0}}
        for seconds, pss in ((1.4, 160.0), (1.5, 170.0), (6.0, 90.0))
    ]
    path = tmp_path / "targets.json"
    path.write_text(json.dumps(lists.target_rows(found, 1_000_000, "python benchmarks/lists.py --runs 3")))
    made = targets(path)
    assert made is not None
    first, second = cells_of(made)[1:]
    assert first[0] == "an epoch over a list of 1,000,000 clips: first batch"
    assert first[1:4] == ["at most 5 s", "1.5 s (1.4 to 6.0 in 3 runs)", "yes"]
    assert second[1:4] == ["at most 300 MB", "160 MB (100 to 170 in 3 runs)", "yes"]


def test_speed_of_dynamicvit(tmp_path):
    path = tmp_path / "speed.json"
    one = {
        "dtype": "float32",
        "batch": 1,
        "speed_up_processor": 1.39,
        "speed_up_processor_range": [1.34, 1.49],
    }
    path.write_text(json.dumps({"device": "cpu (Some Processor)", "torch": "2.0", "dynamicvit": [one]}))
    made = dynamicvit_speed(path)
    assert made is not None
    assert "| batch 1 | 1.39 (1.34 to 1.49) |" in made
    assert "cpu (Some Processor), torch 2.0" in made
