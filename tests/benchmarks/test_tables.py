"""README's tables: markers stay, strangers are refused, a second time changes nothing, the machine is the measurement's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from made_tables import runs
from made_tables.speed import dynamicvit_speed, speed, targets
from tables import BLOCK, ROOT, main, makers_of, refreshed

from revit.common.config import dump, load
from revit.common.errors import UserError
from revit.image.options import ImageRun

TEXT = "before\n<!-- table: one -->\nold\n<!-- end -->\nbetween\n<!-- table: two -->\nkept\n<!-- end -->\nafter\n"
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
    "versions": {"python": "3.12", "torch": "2.0"},
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
REPORT = {
    "fixed": [{"grid": "6x6", "top1": 90.0, "gmacs": 2.0}, {"grid": "3x3", "top1": 80.0, "gmacs": 1.0}],
    "adaptive": {"top1": 89.0, "gmacs": 1.5, "share": {"6x6": 0.4, "3x3": 0.6}, "assigner_gmacs": 0.1},
    "random": {"top1": 85.0, "gmacs": 1.4},
    "oracle": {"top1": 92.0, "gmacs": 1.2},
    "samples": {"evaluated": 100, "failed": 0},
    "versions": {"python": "3.12", "machine": "Some Processor", "torch": "2.0"},
}


def test_markers_and_the_rest_stay():
    makers = {"one": lambda: r"| \1 new |" + "\n", "two": lambda: None}
    once = refreshed(TEXT, makers)
    assert once == TEXT.replace("old", r"| \1 new |")
    assert refreshed(once, makers) == once
    assert refreshed(TEXT, makers, ["two"]) == TEXT


def test_unknown_and_open_markers_are_refused():
    with pytest.raises(UserError, match="two: no such table; there are one"):
        refreshed(TEXT, {"one": lambda: "new\n"})
    with pytest.raises(UserError, match="three: no such table here; there are one, two"):
        refreshed(TEXT, {}, ["three"])
    for broken in (TEXT.replace("<!-- end -->", "", 1), TEXT.replace("<!-- end -->", "")):
        with pytest.raises(UserError, match="no <!-- end -->"):
            refreshed(broken, {"one": lambda: "new\n", "two": lambda: None})


def test_every_marker_of_the_readme_has_a_maker():
    names = [name for _, name, _, _ in BLOCK.findall((ROOT / "README.md").read_text(encoding="utf-8"))]
    assert names
    assert set(names) <= set(makers_of(ROOT / "runs"))
    assert len(set(names)) == len(names)


def test_without_measurements_all_that_is_measured_stays(tmp_path, capsys):
    readme = tmp_path / "README.md"
    names = [name for name in makers_of(tmp_path) if not name.startswith("flops-") and "costs" not in name]
    text = "".join(f"<!-- table: {name} -->\nas it was\n<!-- end -->\n" for name in names)
    readme.write_text(text)
    assert main(["--readme", str(readme), "--runs", str(tmp_path / "none")]) == 0
    assert readme.read_text() == text
    said = capsys.readouterr().err
    assert all(f"{name} stays; first: " in said for name in names)


def test_what_is_edited_meanwhile_stays(tmp_path, monkeypatch):
    readme = tmp_path / "README.md"
    readme.write_text(TEXT)
    calls = []

    def slow():
        calls.append(True)
        readme.write_text(TEXT.replace("after", "edited"))
        return "new\n"

    monkeypatch.setattr("tables.makers_of", lambda folder: {"one": slow, "two": lambda: None})
    assert main(["--readme", str(readme)]) == 0
    assert readme.read_text() == TEXT.replace("after", "edited").replace("old", "new")
    assert calls == [True]


def test_speed_names_the_machine_of_the_measurement(tmp_path):
    timm = {**ROW, "name": "timm", "per_second": 10.0, "fraction_of_peak": None}
    clip = {**ROW, "kind": "video"}
    folder = tmp_path / "speed"
    folder.mkdir()
    (folder / "image.json").write_text(json.dumps([timm, ROW, clip]))
    made = speed("image", folder)
    assert made is not None
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in made.splitlines()[2:4]]
    assert [(row[0], row[7], row[-1]) for row in cells] == [("ours", "100%", "70%"), ("timm", "50%", "-")]
    assert (
        "By `python tools/throughput.py --peers timm` on cpu (Some Processor, 2 threads), avx2 amx; " in made
    )
    assert "median of 5 rounds" in made
    assert "python 3.12, torch 2.0" in made
    readme = tmp_path / "README.md"
    readme.write_text("<!-- table: speed-video -->\n<!-- end -->\n")
    for _ in range(2):
        assert main(["--readme", str(readme), "--runs", str(tmp_path)]) == 0
        assert readme.read_text().count("| ours |") == 1
    (folder / "broken.json").write_text("{")
    with pytest.raises(UserError, match="not what a command here writes"):
        speed("image", folder)


def test_targets_say_what_was_reached(tmp_path):
    path = tmp_path / "targets.json"
    short = {**TARGET, "measured": "1.1 times"}
    limited = {**TARGET, "target": "at most 1.05 times", "measured": "1.04 times"}
    path.write_text(json.dumps([TARGET, short, limited]))
    made = targets(path)
    assert made is not None
    assert (
        "| 1.15 times | 1.2 times (1.18 to 1.22 in 5 runs) | yes | `python x.py` | Some Processor |" in made
    )
    assert [line.split("|")[4].strip() for line in made.splitlines()[2:5]] == ["yes", "no", "yes"]
    path.write_text(json.dumps([{key: value for key, value in TARGET.items() if key != "machine"}]))
    with pytest.raises(UserError, match="row 1: no machine"):
        targets(path)
    path.write_text(json.dumps([{**TARGET, "measured": "much"}]))
    with pytest.raises(UserError, match="row 1, measured: found 'much'"):
        targets(path)


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


def test_seeds_of_the_demo_as_it_is_configured_now(tmp_path, capsys):
    config = ROOT / "configs" / "image" / "demo.yaml"
    for seed, changes in ((0, []), (1, ["train.schedule.epochs=1"])):
        folder = tmp_path / f"image_seed{seed}"
        folder.mkdir()
        options = [f"run.dir={folder}", f"run.seed={seed}", f"data.demo.seed={seed}", *changes]
        (folder / "config.yaml").write_text(dump(load(ImageRun, config, options)))
        (folder / "report.json").write_text(json.dumps(REPORT))
    made = runs.seeds("image", tmp_path, "image_seedN")
    assert made is not None
    assert (
        "| 0 | 90.00 | 80.00 | 89.00 (-1.00) | 75% | 85.00 (+4.00 for adaptive) | - | 92.00 | 100 |" in made
    )
    assert "| 1 |" not in made
    assert "on Some Processor, python 3.12, torch 2.0." in made
    assert "image_seed1 is left out: its settings are not those of" in capsys.readouterr().err


def test_ablations(tmp_path):
    path = tmp_path / "ablations.json"
    about = {
        "command": "python benchmarks/ablations.py",
        "machine": "Some Processor",
        "versions": {"torch": "2.0"},
    }
    path.write_text(json.dumps({**about, "rows": {"lambda_0.5": [{"14x14": 88.3}]}}))
    made = runs.ablation(path)
    assert made is not None
    assert "| lambda 0.5 | 88.3 | 79.92 |" in made
    assert made.endswith("By `python benchmarks/ablations.py` on Some Processor; torch 2.0.\n")
    assert runs.ablation(Path(tmp_path / "none.json")) is None
