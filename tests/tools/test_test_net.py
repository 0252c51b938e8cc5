"""`test_net` on a checkpoint of ours and on a published file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from test_net import main

from revit.common.config.load import load
from revit.common.training.recipe import Recipe
from revit.video.demo import DemoOptions
from revit.video.modality import VideoModality
from revit.video.models.timesformer import TimeSformer
from revit.video.options import VideoRun

CONFIG = """
kind: video
data:
  demo: {train_clips: 8, val_clips: 4, test_clips: 8, num_workers: 1}
  frames: {num_frames: 2, sampling_rate: 8}
  pixels: {crop_size: 48, jitter_min: 48, jitter_max: 48, flip_probability: 0}
  test_views: {num_crops: 3}
  loading: {num_workers: 0, decode_timeout_seconds: 0}
model: {grids: [6x6], embed_dim: 128, depth: 1, num_heads: 2}
train: {batch_size: 4, optim: {name: adamw, lr: 1e-3}, schedule: {name: constant, epochs: 1}}
run: {dir: RUN}
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("test_net")
    path = folder / "config.yaml"
    path.write_text(CONFIG.replace("RUN", str(folder / "run")))
    Recipe(load(VideoRun, path, []), VideoModality()).run()
    return folder


def figures(folder: Path, checkpoint: Path, *more: str) -> int:
    """The tool's exit status; its figures are in `out.json`."""
    arguments = ["--cfg", folder / "config.yaml", "--checkpoint", checkpoint, "--json", folder / "out.json"]
    return main([str(argument) for argument in (*arguments, *more)])


def test_our_checkpoint_gives_the_runs_own_figures(run, capfd):
    assert figures(run, run / "run" / "checkpoint.safetensors") == 0
    again, first = (json.loads((run / name).read_text()) for name in ("out.json", "run/report.json"))
    assert again["fixed"][0]["top1"] == first["fixed"][0]["top1"]
    assert again["protocol"]["num_views"] == 3
    assert again["model"] == first["model"] == "timesformer"
    assert "6x6" in capfd.readouterr().out


def test_clips_of_several_views_as_they_are_served(run):
    assert figures(run, run / "run", "--dtype", "bfloat16", "--compile", "eager") == 0
    served, first = (json.loads((run / name).read_text()) for name in ("out.json", "run/report.json"))
    assert served["protocol"]["served"] == "bfloat16, eager, batches of up to 8"
    assert served["protocol"]["num_views"] == 3
    assert served["fixed"][0]["gmacs"] == first["fixed"][0]["gmacs"]
    assert served["samples"] == first["samples"]


def test_a_published_file_is_tested_with_the_configs_views(run):
    model = TimeSformer(48, [6], 2, len(DemoOptions().motions), 128, 1, 2)
    state = {f"model.{name}": weight for name, weight in model.state_dict().items()}
    torch.save({"model_state": state, "epoch": 1}, run / "published.pyth")
    assert figures(run, run / "published.pyth") == 0
    assert json.loads((run / "out.json").read_text())["samples"]["evaluated"] == 8


def test_a_head_for_other_classes_is_refused(run, capfd):
    model = TimeSformer(48, [6], 2, 5, 128, 1, 2)
    torch.save({"model_state": {f"model.{name}": w for name, w in model.state_dict().items()}}, run / "five.pyth")
    capfd.readouterr()
    assert figures(run, run / "five.pyth") == 2
    said = capfd.readouterr().err
    assert "other classes" in said
    assert "Traceback" not in said


def test_the_folder_of_a_run_means_its_result(run):
    assert figures(run, run / "run") == 0
    assert json.loads((run / "out.json").read_text())["samples"]["evaluated"] == 8


def test_a_missing_checkpoint_is_one_message(run, capfd):
    assert figures(run, run / "nowhere.safetensors") == 2
    assert capfd.readouterr().err.count("\n") == 1
