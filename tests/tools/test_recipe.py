"""One small run from clips on disk to report.json, and everything that must hold of it."""

from __future__ import annotations

import csv
import json
import os
import shutil
import socket
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
import yaml

from revit.common.config.load import load
from revit.common.system.command_line import tool
from revit.common.system.distributed import DistributedContext
from revit.common.system.files import locked
from revit.common.training.recipe import Recipe, stages_of
from revit.common.training.run_folder import clear
from revit.common.training.stages import Run, keeper
from revit.common.weights.checkpoint import load_checkpoint
from revit.video.modality import VideoModality
from revit.video.options import VideoRun

CONFIG = """
kind: video
data:
  demo: {train_clips: 32, val_clips: 16, test_clips: 16, num_workers: 1}
  frames: {num_frames: 4, sampling_rate: 8}
  pixels: {crop_size: 48, jitter_min: 48, jitter_max: 48, flip_probability: 0}
  test_views: {num_temporal_views: 2, num_crops: 1}
  loading: {num_workers: 0, decode_timeout_seconds: 0}
model:
  grids: [6x6, 3x3]
  embed_dim: 32
  depth: 2
  num_heads: 2
  patch_embed: stem
  stem_widths: [8, 16, 16]
train: {batch_size: 8, optim: {name: adamw, lr: 1e-3}, schedule: {name: cosine, epochs: 2}}
lengths: {split: val}
assigner: {size: 32, num_frames: 2, width: 0.25, train: {batch_size: 8, schedule: {name: cosine, epochs: 1}}}
test: {batch_size: 5}
run: {dir: RUN}
"""


def write_config(folder: Path, text: str = CONFIG) -> Path:
    path = folder / "config.yaml"
    path.write_text(text.replace("RUN", str(folder / "run")))
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recipe")
    path = write_config(folder)
    train(path)
    return folder


def train(path: Path, *overrides: str, stage: str | None = None) -> int:
    @tool
    def main(_argv) -> None:
        Recipe(load(VideoRun, path, overrides), VideoModality()).run(stage)

    return main([])


@pytest.fixture
def copy(finished, tmp_path):
    """A finished run of its own, to spoil."""
    shutil.copytree(finished, tmp_path / "copy")
    return write_config(tmp_path / "copy")


def test_report_has_what_the_contract_says(finished):
    report = json.loads((finished / "run" / "report.json").read_text())
    assert [row["grid"] for row in report["fixed"]] == ["6x6", "3x3"]
    assert set(report["fixed"][0]) >= {"grid", "top1", "gmacs", "params"}
    assert set(report["adaptive"]) >= {"top1", "gmacs", "share", "per_second"}
    assert set(report["random"]) >= {"top1", "gmacs"}
    assert set(report["oracle"]) >= {"top1", "gmacs"}
    assert report["samples"] == {"evaluated": 16, "failed": 0}
    assert set(report["seconds"]) == {"data", "model", "lengths", "assigner", "calibrate", "evaluate"}
    assert report["versions"]["torch"] == version("torch")
    assert report["protocol"]["dtype"] == "float32"  # what auto came to


def test_figures_hang_together(finished):
    report = json.loads((finished / "run" / "report.json").read_text())
    costs = {row["grid"]: row["gmacs"] for row in report["fixed"]}
    share, adaptive = report["adaptive"]["share"], report["adaptive"]
    assert sum(share.values()) == pytest.approx(1)
    assert costs["3x3"] < costs["6x6"]
    expected = sum(costs[grid] * share[grid] for grid in costs)
    assert adaptive["gmacs"] == pytest.approx(expected + adaptive["assigner_gmacs"], rel=1e-5)
    assert report["random"]["gmacs"] == pytest.approx(expected, rel=1e-5)
    assert report["oracle"]["top1"] >= max(row["top1"] for row in report["fixed"])
    assert report["oracle"]["top1"] >= adaptive["top1"]


def test_labels_are_on_disk_with_the_sample_ids(finished):
    rows = list(csv.DictReader((finished / "run" / "lengths.csv").open()))
    assert [int(row["id"]) for row in rows] == list(range(16))
    assert all(Path(row["path"]).exists() and "/val/" in row["path"] for row in rows)
    for row in rows:
        expected = "3x3" if row["correct_3x3"] == "1" else "6x6"
        assert row["length"] == expected


def test_checkpoint_holds_both_networks_and_the_names(finished):
    checkpoint = load_checkpoint(finished / "run" / "checkpoint.safetensors")
    assert set(checkpoint.parts) == {"model", "assigner"}
    assert "grow" in checkpoint.label_names
    assert VideoRun.model_validate(checkpoint.config).model.grids == ("6x6", "3x3")


def test_a_finished_run_is_left_alone(copy):
    before = {path: path.stat().st_mtime_ns for path in copy.parent.rglob("*.safetensors")}
    assert train(copy) == 0
    assert {path: path.stat().st_mtime_ns for path in copy.parent.rglob("*.safetensors")} == before


def test_other_settings_of_the_model_are_refused(copy, capsys):
    assert train(copy, "train.optim.lr=0.5") == 2
    assert "train.optim.lr: 0.001 -> 0.5" in capsys.readouterr().err


def test_the_batch_size_is_a_setting_of_the_result_only_without_an_effective_one(tmp_path):
    path = write_config(tmp_path)

    def settings(*overrides: str) -> dict:
        return dict(stages_of(load(VideoRun, path, overrides), VideoModality())[-1].settings)

    for section in ("train", "assigner.train"):
        smaller, effective = f"{section}.batch_size=4", f"{section}.effective_batch=16"
        assert settings() != settings(smaller)
        assert settings(effective) == settings(effective, smaller)
        assert settings(effective) != settings(effective.replace("16", "32"))


def test_all_contradictions_to_a_deepspeed_file_show_before_anything_is_trained(tmp_path, capsys):
    path = write_config(tmp_path)
    (tmp_path / "ds.json").write_text('{"train_micro_batch_size_per_gpu": 8, "gradient_clipping": 0.5}')
    parallel = ("parallel.backend=deepspeed", f"parallel.deepspeed_config={tmp_path / 'ds.json'}")
    assert train(path, *parallel, "assigner.train.batch_size=4") == 2
    said = capsys.readouterr().err
    assert "gradient_clipping: 0.5 in the file, 0.0 here by train.clip_grad_norm" in said
    assert "gradient_clipping: 0.5 in the file, 0.0 here by assigner.train.clip_grad_norm" in said
    assert "train_micro_batch_size_per_gpu: 8 in the file, 4 here by assigner.train.batch_size" in said
    assert not (tmp_path / "run" / "data").exists()


def test_settings_of_deepspeed_that_one_process_does_not_use_are_said_to_be(tmp_path, capsys):
    path = write_config(tmp_path, CONFIG + "parallel: {zero_stage: 2, offload: none}\n")
    assert train(path, stage="data") == 0  # trains nothing
    assert "no effect" not in capsys.readouterr().err
    assert train(path, stage="model") == 0
    said = capsys.readouterr().err.splitlines()
    assert said[0] == (
        "parallel.zero_stage has no effect: one process trains by plain PyTorch; parallel.backend=deepspeed would use it"
    )
    assert "model: 1 process, cpu, plain PyTorch, float32; an update is 8 samples" in said


def test_a_later_stage_that_is_done_again_is_checked_before_an_earlier_one(copy, capsys):
    """The labels are gone, so that all from them on is done again: not before the assigner's training is known to fit."""
    labels = copy.parent / "run" / "lengths.csv"
    labels.unlink()
    (copy.parent / "ds.json").write_text('{"gradient_clipping": 0.5}')
    parallel = ("parallel.backend=deepspeed", f"parallel.deepspeed_config={copy.parent / 'ds.json'}")
    assert train(copy, *parallel) == 2
    assert "by assigner.train.clip_grad_norm" in capsys.readouterr().err
    assert not labels.exists()
    assert train(copy, *parallel, stage="assigner") == 2
    assert train(copy, *parallel, stage="evaluate") == 0


def test_one_process_where_slurm_has_several_tasks_says_so(copy, monkeypatch, capsys):
    monkeypatch.setenv("SLURM_NTASKS", "8")
    assert train(copy) == 0  # nothing is left to train
    assert "SLURM" not in capsys.readouterr().err
    assert train(copy, stage="assigner") == 0
    said = capsys.readouterr().err
    assert "SLURM_NTASKS says 8, but this is one process that trains by itself; for several start it by srun" in said


def test_other_settings_of_a_later_stage_repeat_it_alone(copy):
    model = (copy.parent / "run" / "model.safetensors").stat().st_mtime_ns
    assert train(copy, "test.merge=probabilities") == 0
    report = json.loads((copy.parent / "run" / "report.json").read_text())
    assert report["protocol"]["merge"] == "probabilities"
    assert (copy.parent / "run" / "model.safetensors").stat().st_mtime_ns == model


def test_starting_over_gives_the_same_report(copy, finished):
    """Same seed, same numbers: two whole runs agree in every figure that is not a time."""
    assert train(copy, "run.resume=never") == 0
    again, first = (json.loads((folder / "run" / "report.json").read_text()) for folder in (copy.parent, finished))
    for report in (again, first):
        for row in [*report["fixed"], report["adaptive"]]:
            del row["per_second"]
        del report["seconds"], report["speed"]
    assert again == first


def test_half_a_stage_with_other_settings_is_not_gone_on_with(copy):
    """An interrupted assigner training must not be resumed once its settings changed."""
    stages = copy.parent / "run" / "stages.json"
    book = json.loads(stages.read_text())
    book["assigner"]["done"] = False
    stages.write_text(json.dumps(book))
    stale = copy.parent / "run" / "states" / "assigner" / "update-00000001.pt"
    stale.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"an older": "training"}, stale)
    assert train(copy, "assigner.train.optim.lr=0.01") == 0
    assert json.loads(stages.read_text())["assigner"]["done"]


def test_one_stage_can_be_done_again(copy):
    (copy.parent / "run" / "report.json").unlink()
    assert train(copy, stage="evaluate") == 0
    assert (copy.parent / "run" / "report.json").exists()


def test_unknown_stages_and_missing_predecessors_are_named(tmp_path, capsys):
    path = write_config(tmp_path)
    assert train(path, stage="bake") == 2
    assert train(path, stage="assigner") == 2
    errors = capsys.readouterr().err
    assert "bake" in errors
    assert "builds on 'data'" in errors


def test_broken_files_are_reported_not_hidden(copy):
    """In evaluation a broken clip is missing from the figures and named; in training it is replaced and counted."""
    folder = copy.parent
    settings = yaml.safe_load(copy.read_text())
    clips = next(folder.rglob("data"))
    (folder / "lists").mkdir()
    for split in ("train", "test"):
        lines = (clips / f"{split}.csv").read_text().splitlines()
        (folder / "lists" / f"{split}.csv").write_text("\n".join(f"{clips}/{line}" for line in lines) + "\n")
        (clips / lines[3].rsplit(" ", 1)[0]).write_text("not a video")
    del settings["data"]["demo"]
    settings["data"]["source"] = {split: str(folder / "lists" / f"{split}.csv") for split in ("train", "test")}
    settings["lengths"]["split"] = "test"
    settings["run"]["dir"] = str(folder / "broken")
    copy.write_text(yaml.safe_dump(settings))
    assert train(copy) == 0
    report = json.loads((folder / "broken" / "report.json").read_text())
    assert report["samples"] == {"evaluated": 15, "failed": 1}
    assert len(report["failures"]) == 1
    log = [json.loads(line) for line in (folder / "broken" / "log.jsonl").read_text().splitlines()]
    assert [line["broken_files"] for line in log if line["event"] == "epoch" and line["stage"] == "model"][-1] == 1
    assert len((folder / "broken" / "lengths.csv").read_text().splitlines()) == 1 + 15


def lists_of(folder: Path) -> tuple[Path, list[str]]:
    """A copy of the finished run's own lists, to be used as somebody's own."""
    data = folder / "run" / "data"
    return data, [f"data.source.{split}={data / split}.csv" for split in ("train", "val", "test")]


def own_lists(folder: Path, into: Path) -> tuple[Path, list[str]]:
    """The configuration on lists instead of the demo, in a run of its own."""
    path = write_config(
        into, CONFIG.replace("  demo: {train_clips: 32, val_clips: 16, test_clips: 16, num_workers: 1}\n", "")
    )
    data, lists = lists_of(folder)
    return path, [*lists, f"data.source.prefix={data}", f"data.source.label_names={data / 'classes.txt'}"]


def test_what_is_missing_is_found_before_anything_is_trained_or_removed(finished, tmp_path):
    path, overrides = own_lists(finished, tmp_path)
    run = tmp_path / "run"
    run.mkdir()
    (run / "stages.json").write_text("{}")
    (run / "notes.txt").write_text("mine")
    for wrong in (
        "data.source.test=/nowhere.csv",
        "data.source.val=/nowhere.csv",
        "model.grids=[50x50]",
        "parallel.backend=replicas",
    ):
        assert train(path, *overrides, wrong, "run.resume=never") == 2
        assert {file.name for file in run.iterdir()} - {".lock"} == {"notes.txt", "stages.json"}


def test_starting_over_leaves_what_is_not_the_runs(tmp_path):
    run = tmp_path / "run"
    (run / "clips").mkdir(parents=True)
    (run / "link").symlink_to(run / "clips")
    for name in ("stages.json", "notes.txt", "model.safetensors"):
        (run / name).write_text("{}")
    clear(run)
    assert sorted(file.name for file in run.iterdir()) == ["clips", "link", "notes.txt"]


def test_a_list_that_changed_is_another_run(finished, tmp_path, capsys):
    path, overrides = own_lists(finished, tmp_path)
    changed = tmp_path / "train.csv"
    lines = (lists_of(finished)[0] / "train.csv").read_text().splitlines()
    changed.write_text("\n".join(lines))
    assert (
        train(path, *overrides, f"data.source.train={changed}", "lengths.split=train", "train.schedule.epochs=1") == 0
    )
    before = {file: file.read_bytes() for file in (tmp_path / "run" / "config.yaml", tmp_path / "run" / "stages.json")}
    changed.write_text("\n".join(reversed(lines)))
    capsys.readouterr()
    again = [f"data.source.train={changed}", "lengths.split=train", "train.schedule.epochs=1"]
    assert train(path, *overrides, *again) == 2
    assert "list: 32 samples" in capsys.readouterr().err
    assert train(path, *overrides, *again, stage="assigner") == 2
    assert "labels of another list" in capsys.readouterr().err
    assert before[tmp_path / "run" / "config.yaml"] == (tmp_path / "run" / "config.yaml").read_bytes()


def test_a_result_that_is_gone_is_made_again(finished, tmp_path):
    shutil.copytree(finished / "run", tmp_path / "run")
    path = write_config(tmp_path)
    (tmp_path / "run" / "report.json").unlink()
    assert train(path) == 0
    assert (tmp_path / "run" / "report.json").exists()


def test_one_run_at_a_time_works_in_a_folder(tmp_path, capsys):
    path = write_config(tmp_path)
    with locked(tmp_path / "run" / ".lock"):
        assert train(path) == 2
    holder = f"process {os.getpid()} on {socket.gethostname()}"
    assert f"another run works in this folder ({holder}); wait for it" in capsys.readouterr().err


def test_the_best_model_of_the_val_list_is_kept(finished):
    best = load_checkpoint(finished / "run" / "best.safetensors")
    log = [json.loads(line) for line in (finished / "run" / "log.jsonl").read_text().splitlines()]
    accuracies = [line["top1"]["6x6"] for line in log if line["event"] == "val"]
    assert best.extra["val"] == {
        "epoch": 1 + accuracies.index(max(accuracies)),  # the first of equals
        "top1": max(accuracies),
    }
    if best.extra["val"]["epoch"] == len(accuracies):
        last = load_checkpoint(finished / "run" / "model.safetensors")
        assert all(torch.equal(weight, last.parts["model"][name]) for name, weight in best.parts["model"].items())


def test_only_a_better_model_replaces_the_best(finished, tmp_path):
    options = load(VideoRun, write_config(tmp_path))
    run = Run(options, VideoModality(), DistributedContext())
    network = torch.nn.Linear(1, 1)
    keep = keeper(run, run.best_file, network, {})
    for epoch, top1 in ((1, 40.0), (2, 60.0), (3, 60.0), (4, 50.0)):
        torch.nn.init.constant_(network.weight, epoch)
        keep(epoch, top1)
    best = load_checkpoint(run.best_file)
    assert best.extra["val"] == {"epoch": 2, "top1": 60.0}
    assert best.parts["model"]["weight"].item() == 2
