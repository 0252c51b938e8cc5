"""The methods' bench: every row is under the same protocol, and one command gives one table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from checkerboard import METHOD
from compare_methods import DEPTHS, EPOCHS, Protocol, main, plan

from revit.common.methods.base import added

OWN = Path(__file__).parents[1] / "common" / "methods" / "checkerboard.yaml"
FEW = ["data.demo.train_pictures=32", "data.demo.val_pictures=20", "data.demo.test_pictures=20"]
SHORT = [*FEW, "data.loading.num_workers=0", "train.schedule.epochs=1", "train.schedule.warmup_epochs=0"]


@pytest.mark.parametrize("kind", DEPTHS)
def test_rows_differ_in_their_method_alone(kind, tmp_path):
    protocol = Protocol(kind, tmp_path)
    runs = {row[0]: protocol.run_of(*row, seed=3)[0] for row in plan(kind, [], [])}
    names = {name: run.method_name for name, run in runs.items()}
    assert {name for name in names if names[name] == name} >= {"plain", "revit", "flexivit", "dynamicvit", "toe"}
    assert len({run.data.model_dump_json() for run in runs.values()}) == 1
    assert {run.train.schedule.epochs for run in runs.values()} == {EPOCHS[kind]}
    assert {run.run.seed for run in runs.values()} == {3}
    assert len({run.run.dir for run in runs.values()}) == len(runs)
    for name, run in runs.items():
        model = protocol.modality.build_model(run, 10)
        if name != "asvit":
            assert len(model.blocks) == DEPTHS[kind]


def test_one_command_gives_one_table_and_goes_on_where_it_stood(tmp_path, capfd):
    out = tmp_path / "out.json"
    arguments = ["plain", "--cfg", str(OWN), "--runs", str(tmp_path), "--json", str(out), *SHORT]
    with added("checkerboard", METHOD):
        assert main(arguments) == 0
        models = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("model.safetensors")}
        assert len(models) == 2
        assert main(arguments) == 0
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("model.safetensors")} == models
    plain, own = json.loads(out.read_text())
    assert [row["method"] for row in (plain, own)] == ["plain", "checkerboard"]
    assert plain["evaluated"] == own["evaluated"] == 20
    assert plain["protocol"] == own["protocol"] == "A"
    assert "NOT COMPARABLE" not in capfd.readouterr().out


def test_mistakes_are_told_before_anything_is_trained(tmp_path, capsys):
    assert main(["toes", "--runs", str(tmp_path)]) == 2
    assert "toes: not known; choose from plain" in capsys.readouterr().err
    assert main(["toe", "--cfg", "configs/image/demos/toe.yaml", "--runs", str(tmp_path)]) == 2
    assert "two rows of one name: toe, toe" in capsys.readouterr().err
    assert main(["plain", "train.lr=3", "--runs", str(tmp_path)]) == 2
    assert "train.lr: found 3; unknown key" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
