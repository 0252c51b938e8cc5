"""throughput.py --training: processes are started and timed for what was asked; no test looks at the time itself."""

from __future__ import annotations

import json

import pytest
import throughput
import torch
from modalities import load_run
from ranks import start_server

from revit.common.methods.task import Progress
from revit.common.methods.toe import TokenExpansion
from revit.common.speed import training_speed
from revit.common.speed.training_speed import training_cases
from revit.common.speed.training_step import random_batch, training_step
from revit.common.system.errors import UserError

TINY = """
kind: image
data: {pixels: {img_size: 32}}
model: {name: deit_small, grids: [4x4, 3x3, 2x2], num_classes: 5, embed_dim: 16, depth: 1, num_heads: 2}
run: {dir: RUN_DIR, device: cpu}
"""
CPU = torch.device("cpu")


@pytest.fixture
def forked(monkeypatch):
    """Processes have their libraries from the start. The first test starts them as a user does."""
    start_server()
    start = training_speed.mp.start_processes
    monkeypatch.setattr(
        training_speed.mp,
        "start_processes",
        lambda *given, **settings: start(*given, **settings | {"start_method": "forkserver"}),
    )


@pytest.fixture
def tiny(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY.replace("RUN_DIR", str(tmp_path / "run")))
    return path


def test_rows_of_one_process_and_of_replicas(tiny, tmp_path, capfd, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)  # a parallel test run sets it, and headings would be folded
    out = tmp_path / "out.json"
    arguments = ["--training", "--lengths", "3", "--dtypes", "float32", "--batches", "2", "--rounds", "1"]
    assert throughput.main(["--cfg", str(tiny), *arguments, "--json", str(out)]) == 0
    rows = json.loads(out.read_text())
    assert [(row["name"], row["devices"], row["lengths"]) for row in rows] == [
        ("one process", 1, 3),
        ("replicas", 2, 3),
    ]
    for row in rows:
        assert list(row)[:12] == [
            *("name", "config", "grid", "dtype", "compiled", "batch", "device"),
            *("per_second", "ms_p50", "ms_p95", "peak_memory_mb", "fraction_of_peak"),
        ]
        assert row["grid"] == "4x4+3x3+2x2"
        assert row["grids_per_rank"] == [["4x4"], ["3x3", "2x2"]]
        assert row["per_second"] == pytest.approx(1000 * row["batch"] / row["ms_p50"])
        assert min(row[key] for key in ("relative", "cpu_relative", "cpu_ms", "fraction_of_peak")) > 0
        assert (row["sum_relative"] is None) == (row["name"] == "replicas")
    printed = capfd.readouterr().out
    assert "x longest" in printed
    assert "x sum of plain" in printed
    low, high = rows[0]["sum_relative_spread"]
    assert low <= rows[0]["sum_relative"] <= high


def test_a_method_is_measured_beside_the_plain_model_and_its_replicas(forked, tiny, tmp_path):
    out = tmp_path / "out.json"
    arguments = ["--training", "--lengths", "2", "--dtypes", "float32", "--batches", "2", "--rounds", "3"]
    assert throughput.main(["--cfg", str(tiny), *arguments, "model.depth=2", "methods.toe={}", "--json", str(out)]) == 0
    rows = json.loads(out.read_text())
    assert [(row["name"], row["method"], row["grid"]) for row in rows] == [
        ("one process", "revit + toe", "4x4+3x3"),
        ("replicas", "revit + toe", "4x4+3x3"),
    ]
    for row in rows:
        assert row["relative"] > 0
        assert row["fraction_of_peak"] is row["sum_relative"] is None


def test_a_method_that_refuses_replicas_is_measured_without(forked, tiny, tmp_path, capfd):
    out = tmp_path / "out.json"
    flexible = ["methods.flexivit={grids: [4x4, 2x2], position_grid: 2x2}", "model.grids=[4x4]"]
    arguments = ["--cfg", str(tiny), "--training", "--dtypes", "float32", "--batches", "2", "--rounds", "2"]
    assert throughput.main([*arguments, *flexible, "--json", str(out)]) == 0
    (row,) = json.loads(out.read_text())
    assert (row["name"], row["devices"], row["grid"]) == ("one process", 1, "4x4+2x2")
    said = capfd.readouterr().err
    assert "tiny: no replicas: methods.flexivit trains one token grid per update" in said
    assert throughput.main([*arguments, *flexible, "--lengths", "1"]) == 2
    assert "the run's methods choose its 2 token grids" in capfd.readouterr().err


def test_a_method_is_trained_at_its_progress(tiny, monkeypatch):
    seen, plan = [], TokenExpansion.plan

    def noted(self, *arguments):
        seen.append(self.stage)
        return plan(self, *arguments)

    monkeypatch.setattr(TokenExpansion, "plan", noted)
    options, modality = load_run(tiny, ["model.depth=2", "methods.toe={}"])
    step = training_step(options, modality, random_batch(options, modality, 2, CPU), CPU, "float32")
    for share in (0.1, 0.5, 1.0):
        step(Progress(0, 0.0, share))
    assert list(dict.fromkeys(seen)) == [1, 2, 3]


def test_cases_are_those_asked_for(tiny):
    def cases(lengths, *overrides):
        options, modality = load_run(tiny, overrides)
        found = training_cases(options, modality, CPU, lengths, ["float32"], [2, 4])
        return [(len(case.options.grids), case.batch, case.placement.size) for case in found]

    assert cases([1, 3]) == [(1, 2, 1), (1, 4, 1), (3, 2, 2), (3, 4, 2)]
    one_each = "parallel.replicas.ranks_per_group=3"
    assert [size for _, _, size in cases([1, 2, 3], one_each)] == [1, 1, 2, 2, 3, 3]
    listed = "parallel.replicas.grids_per_rank=[[4x4, 2x2], [3x3]]"
    assert [size for _, _, size in cases([2, 3], listed)] == [2, 2, 2, 2]
    with pytest.raises(UserError, match="--lengths 4: the model has 3 token grids"):
        cases([4])


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--training", "--peers"], "leave out --peers"),
        (["--lengths", "2"], "belongs to --training"),
        (["--training", "--lengths", "0"], "whole numbers from 1"),
    ],
)
def test_contradicting_arguments_end_with_status_two(tiny, capsys, arguments, part):
    with pytest.raises(SystemExit) as stopped:
        throughput.main(["--cfg", str(tiny), *arguments])
    assert stopped.value.code == 2
    assert part in capsys.readouterr().err
