"""Checkpoints and run folders that the first build left still load, answer as they did, and go on.

`first_build/` holds runs of the demo configurations, made very small, as version 0.1.0 wrote them: two finished runs, one that
was stopped after seven updates, and a checkpoint of each method. `expected.json` is what that version answered. The data
sets are not kept: equal options make equal files.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import predict
import pytest
import report
import test_net
import torch
import train_net
import yaml
from safetensors.torch import load_file

FIRST_BUILD = Path(__file__).with_name("first_build")
EXPECTED = json.loads((FIRST_BUILD / "expected.json").read_text())


def run_again(name: str, folder: Path) -> Path:
    """Copy a run of the first build beside the data that its configuration makes. Return its configuration file."""
    settings = yaml.safe_load((FIRST_BUILD / name / "config.yaml").read_text())
    settings["run"]["dir"] = str(folder / name)
    config = folder / f"{name}.yaml"
    config.write_text(yaml.safe_dump(settings))
    assert train_net.main(["--cfg", str(config), "--stage", "data"]) == 0
    shutil.copytree(FIRST_BUILD / name, folder / name, dirs_exist_ok=True)
    return config


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    for name in ("pictures", "clips"):
        run_again(name, folder)
    return folder


@pytest.mark.parametrize("name", ["pictures", "clips"])
def test_a_finished_run_is_evaluated_as_before(name: str, runs: Path):
    out = runs / f"{name}.json"
    arguments = ["--cfg", str(runs / f"{name}.yaml"), "--checkpoint", str(runs / name), "--json", str(out)]
    assert test_net.main(arguments) == 0
    before, now = (json.loads(path.read_text()) for path in (FIRST_BUILD / name / "report.json", out))
    for row, old in zip(now["fixed"], before["fixed"], strict=True):
        assert {key: row[key] for key in ("grid", "top1", "gmacs", "params")} == {
            key: old[key] for key in ("grid", "top1", "gmacs", "params")
        }
    assert now["adaptive"]["share"] == before["adaptive"]["share"]
    assert now["adaptive"]["gmacs"] == pytest.approx(before["adaptive"]["gmacs"], rel=1e-9)


@pytest.mark.parametrize("name", ["pictures", "clips"])
def test_nothing_of_a_finished_run_is_done_again(name: str, runs: Path):
    files = {path: path.stat().st_mtime_ns for path in (runs / name).glob("*.safetensors")}
    assert train_net.main(["--cfg", str(runs / f"{name}.yaml")]) == 0
    assert files == {path: path.stat().st_mtime_ns for path in (runs / name).glob("*.safetensors")}


def test_its_report_is_drawn(runs: Path):
    assert report.main([str(runs / "pictures"), "--html", str(runs / "report.html")]) == 0
    assert "6x6" in (runs / "report.html").read_text()


@pytest.mark.parametrize("name", sorted(EXPECTED["predictions"]))
def test_a_checkpoint_answers_as_before(name: str, runs: Path, tmp_path: Path):
    checkpoint = (
        FIRST_BUILD / name if (FIRST_BUILD / name).is_dir() else FIRST_BUILD / "methods" / f"{name}.safetensors"
    )
    data = runs / ("clips" if name == "clips" else "pictures") / "data" / "test"
    files = sorted(str(path) for path in data.glob("*/*.*"))
    out = tmp_path / "answers.json"
    fixed = ["--dtype", "float32", "--compile", "eager"]  # what is left open is measured
    assert predict.main(["--checkpoint", str(checkpoint), *files, *fixed, "--json", str(out)]) == 0
    for answer, (grid, probabilities) in zip(json.loads(out.read_text()), EXPECTED["predictions"][name], strict=True):
        assert answer["grid"] == grid
        now = {str(guess["class"]): guess["probability"] for guess in answer["top"]}
        assert now == pytest.approx(probabilities, abs=1e-5)


def test_a_stopped_run_goes_on(tmp_path: Path):
    """From its state: with another start, or from none, the weights would be others."""
    config = run_again("stopped", tmp_path)
    assert train_net.main(["--cfg", str(config)]) == 0
    weights = load_file(tmp_path / "stopped" / "model.safetensors")
    total = sum(float(tensor.double().abs().sum()) for tensor in weights.values() if torch.is_floating_point(tensor))
    assert total == pytest.approx(EXPECTED["resumed"], rel=1e-5)
    log = [json.loads(line) for line in (tmp_path / "stopped" / "log.jsonl").read_text().splitlines()]
    assert [event["stage"] for event in log if event["event"] == "stage"].count("data") == 1
    (resumed,) = [event for event in log if event["event"] == "resumed"]
    assert resumed["changed"] == []  # nor is the section that is called parallel now
