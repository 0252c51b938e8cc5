"""DynamicViT by the commands: from scratch, from a trained model, stopped and gone on with, over two processes."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import flops
import pytest
import test_net as tool_test_net
import torch
import train_net
from ranks import run_ranks

from revit.common.methods.dynamicvit.method import DynamicViTTask
from revit.common.weights.checkpoint import load_checkpoint

PICTURES = """
kind: image
data:
  demo: {train_pictures: 480, val_pictures: 20, test_pictures: 100, num_workers: 1, picture_pixels: 32,
         hard_share: 0, easy_pixels: [28, 32], spread: 0, turns: 0, texture: 5}
  pixels: {img_size: 32, crop_pct: 1.0}
  augment: {scale: [0.9, 1.0], ratio: [0.95, 1.05], flip_probability: 0}
  loading: {num_workers: 0}
model: {name: deit_small, grids: [4x4], embed_dim: 32, depth: 3, num_heads: 2, drop_path_rate: 0, pos_std: 1.0, linear_std: 0.18}
methods: {dynamicvit: {keep_rate: 0.7}}
train:
  batch_size: 16
  clip_grad_norm: 5
  optim: {name: adamw, lr: 3e-3, weight_decay: 0.05, decay_one_dimensional: false}
  schedule: {name: cosine, epochs: 5, warmup_epochs: 0.5}
test: {batch_size: 50}
run: {dir: RUN, evaluate_every: null, dtype: float32}
"""
CLIPS = """
kind: video
data:
  demo: {train_clips: 104, val_clips: 4, test_clips: 40, frames: 13, hard_share: 0, num_workers: 1, motions: [left, right]}
  frames: {num_frames: 4, sampling_rate: 3, target_fps: 12}
  pixels: {crop_size: 48, jitter_min: 48, jitter_max: 48, flip_probability: 0}
  test_views: {num_crops: 1}
  loading: {num_workers: 0, decode_timeout_seconds: 0}
model: {grids: [6x6], embed_dim: 48, depth: 3, num_heads: 4, drop_path_rate: 0, patch_embed: stem, stem_widths: [16, 32, 48],
  pos_std: 1.0, time_std: 1.0, linear_std: 0.25, temporal_fc_std: 0.25}
methods: {dynamicvit: {keep_rate: 0.7}}
train:
  batch_size: 8
  clip_grad_norm: 5
  optim: {name: adamw, lr: 2e-3, weight_decay: 0.05, decay_one_dimensional: false}
  schedule: {name: cosine, epochs: 9, warmup_epochs: 0.5}
test: {batch_size: 50}
run: {dir: RUN, evaluate_every: null, dtype: float32}
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "config.yaml"
    path.write_text(text.replace("RUN", str(folder / "run")))
    return path


def report_of(run: Path) -> dict:
    return json.loads((run / "report.json").read_text())


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """The folder of a configuration that was trained from scratch."""
    folder = tmp_path_factory.mktemp("pictures")
    assert train_net.main(["--cfg", str(write(folder, PICTURES))]) == 0
    return folder


def test_pictures_from_scratch_are_told_apart_by_half_of_their_tokens(pictures):
    row = report_of(pictures / "run")["fixed"][0]
    assert row["top1"] > 40  # chance is 10


def test_its_checkpoint_is_tested_again_and_counted(pictures):
    out, config = pictures / "again.json", str(pictures / "config.yaml")
    checkpoint = str(pictures / "run" / "checkpoint.safetensors")
    assert tool_test_net.main(["--cfg", config, "--checkpoint", checkpoint, "--json", str(out)]) == 0
    first = report_of(pictures / "run")["fixed"][0]
    again = json.loads(out.read_text())["fixed"][0]
    assert (again["top1"], again["gmacs"]) == (first["top1"], first["gmacs"])
    assert flops.main(["--cfg", config, "methods={}", "--json", str(out)]) == 0
    assert first["gmacs"] < 0.85 * json.loads(out.read_text())[0]["gmacs"]


def test_clips_from_scratch_are_told_apart(tmp_path):
    config = write(tmp_path, CLIPS)
    assert train_net.main(["--cfg", str(config)]) == 0
    assert report_of(tmp_path / "run")["fixed"][0]["top1"] > 70  # chance is 50


FROM_START = (
    "train.schedule.epochs=2",
    "methods.dynamicvit.frozen_epochs=1",
    "methods.dynamicvit.teacher=start",
    "data.demo.test_pictures=20",
)


def from_start(pictures: Path, name: str) -> list[str]:
    """Arguments of a run that starts from the first one's result, on a small data set of its own, made once."""
    made, run = pictures / "small" / "data", pictures / name
    overrides = [*FROM_START, f"start.source={pictures / 'run' / 'model.safetensors'}"]
    arguments = ["--cfg", str(pictures / "config.yaml"), "data.demo.train_pictures=100", *overrides]
    if not made.exists():
        assert train_net.main([*arguments, f"run.dir={made.parent}", "--stage", "data"]) == 0
    shutil.copytree(made, run / "data")
    return [*arguments, f"run.dir={run}"]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return dict(load_checkpoint(run / "model.safetensors").parts["model"])


@pytest.fixture(scope="module")
def whole(pictures) -> dict[str, torch.Tensor]:
    """The weights of a training from a trained model, with a teacher and a frozen phase."""
    assert train_net.main(from_start(pictures, "whole")) == 0
    return weights(pictures / "whole")


def test_tokens_are_never_trained_and_the_rest_is(pictures, whole):
    before = weights(pictures / "run")
    same = {name for name, tensor in whole.items() if torch.equal(tensor, before[name])}
    assert same == {"cls_token", "pos_embed"}


def test_a_run_that_was_stopped_goes_on_bit_for_bit(pictures, whole, monkeypatch):
    arguments = from_start(pictures, "parts")
    losses, seen = DynamicViTTask.losses, iter(range(1, 1000))

    def interrupted(self, model, inputs, batch):
        if next(seen) == 8:  # in the second epoch, of 6 batches
            os.kill(os.getpid(), signal.SIGTERM)
        yield from losses(self, model, inputs, batch)

    monkeypatch.setattr(DynamicViTTask, "losses", interrupted)
    assert train_net.main(arguments) != 0
    assert not (pictures / "parts" / "model.safetensors").exists()
    torch.manual_seed(99)
    assert train_net.main(arguments) == 0
    gone_on = weights(pictures / "parts")
    assert all(torch.equal(tensor, gone_on[name]) for name, tensor in whole.items())


def test_two_processes_train_and_one_goes_on(pictures):
    arguments = from_start(pictures, "two")
    arguments += ["train.batch_size=8", "parallel.zero_stage=3"]
    run_ranks(2, train_net.main, arguments, folder=pictures)
    before, after = weights(pictures / "run"), weights(pictures / "two")
    same = {name for name, tensor in after.items() if torch.equal(tensor, before[name])}
    assert same == {"cls_token", "pos_embed"}
    assert report_of(pictures / "two")["samples"] == {"evaluated": 20, "failed": 0}
