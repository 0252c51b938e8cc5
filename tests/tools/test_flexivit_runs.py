"""FlexiViT by the commands: trained, tested at sizes it never saw, stopped and gone on with, over two processes."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import predict
import pytest
import test_net as tool_test_net
import torch
import train_net
from noted_sizes import train_noting_sizes
from ranks import run_ranks

from revit.common.methods.flexivit import FlexiTask
from revit.common.weights.checkpoint import load_checkpoint

PICTURES = """
kind: image
data:
  demo: {train_pictures: 640, val_pictures: 20, test_pictures: 100, num_workers: 1, picture_pixels: 32,
         hard_share: 0, easy_pixels: [28, 32], spread: 0, turns: 0, texture: 5}
  pixels: {img_size: 32, crop_pct: 1.0}
  augment: {scale: [0.9, 1.0], ratio: [0.95, 1.05], flip_probability: 0}
  loading: {num_workers: 0}
model: {name: deit_small, embed_dim: 32, depth: 2, num_heads: 2, drop_path_rate: 0, pos_std: 1.0, linear_std: 0.18}
methods: {flexivit: {grids: [4, 3, 2], kernel_size: 8, position_grid: 4}}
train:
  batch_size: 16
  clip_grad_norm: 5
  optim: {name: adamw, lr: 3e-3, weight_decay: 0.05, decay_one_dimensional: false}
  schedule: {name: cosine, epochs: 8, warmup_epochs: 0.5}
test: {batch_size: 50}
run: {dir: RUN, evaluate_every: null, dtype: float32}
"""
CLIPS = """
kind: video
data:
  demo: {train_clips: 24, val_clips: 4, test_clips: 8, num_workers: 1, frames: 6}
  frames: {num_frames: 2, sampling_rate: 2, target_fps: 12}
  pixels: {crop_size: 48, jitter_min: 48, jitter_max: 48, flip_probability: 0}
  test_views: {num_crops: 1}
  loading: {num_workers: 0, decode_timeout_seconds: 0}
model: {embed_dim: 32, depth: 1, num_heads: 2}
methods: {flexivit: {grids: [4, 3], kernel_size: 12, position_grid: 4}}
train: {batch_size: 8, schedule: {name: cosine, epochs: 1}}
run: {dir: RUN, evaluate_every: null, dtype: float32}
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "config.yaml"
    path.write_text(text.replace("RUN", str(folder / "run")))
    return path


def top1_of(report: Path) -> dict[str, float]:
    return {row["grid"]: row["top1"] for row in json.loads(report.read_text())["fixed"]}


def weights(run: Path) -> dict[str, torch.Tensor]:
    return dict(load_checkpoint(run / "model.safetensors").parts["model"])


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """The folder of a configuration that was trained from scratch."""
    folder = tmp_path_factory.mktemp("pictures")
    assert train_net.main(["--cfg", str(write(folder, PICTURES))]) == 0
    return folder


def test_every_size_is_above_chance(pictures):
    top1 = top1_of(pictures / "run" / "report.json")
    assert list(top1) == ["4x4", "3x3", "2x2"]
    assert min(top1.values()) > 25  # chance is 10
    assert max(top1.values()) > 40


def test_a_checkpoint_is_evaluated_at_a_size_it_was_not_trained_at(pictures):
    config, checkpoint = str(pictures / "config.yaml"), str(pictures / "run")
    out = pictures / "run" / "evaluation_sizes.json"
    arguments = ["--cfg", config, "--checkpoint", checkpoint, "--json", str(out)]
    assert tool_test_net.main([*arguments, "methods.flexivit.evaluate_at=[5,4]"]) == 0
    top1 = top1_of(out)
    assert top1["4x4"] == top1_of(pictures / "run" / "report.json")["4x4"]
    assert top1["5x5"] > 20
    file = next((pictures / "run" / "data" / "test").rglob("*.png"))
    arguments = ["--checkpoint", checkpoint, str(file), "--grid", "6x3", "--json", str(out)]
    assert predict.main(arguments) == 0
    assert json.loads(out.read_text())[0]["grid"] == "6x3"


SHORT = ("train.schedule.epochs=2", "data.demo.train_pictures=100", "data.demo.test_pictures=20")


def short_run(pictures: Path, name: str) -> list[str]:
    """Arguments of a run from the first one's result, with a teacher, on a small data set of its own, made once."""
    made, run, source = pictures / "small" / "data", pictures / name, pictures / "run" / "model.safetensors"
    arguments = ["--cfg", str(pictures / "config.yaml"), *SHORT, f"methods.flexivit.teacher.source={source}"]
    if not made.exists():
        assert train_net.main([*arguments, f"run.dir={made.parent}", "--stage", "data"]) == 0
    shutil.copytree(made, run / "data")
    return [*arguments, f"run.dir={run}"]


@pytest.fixture(scope="module")
def whole(pictures) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Weights of a training, and the sizes it ran at."""
    sizes: list[str] = []
    with watched(sizes):
        assert train_net.main(short_run(pictures, "whole")) == 0
    return weights(pictures / "whole"), sizes


class watched:
    """Notes the size of every batch; `at` asks the process to end in the middle of that batch."""

    def __init__(self, sizes: list[str], at: int | None = None) -> None:
        self.sizes, self.at = sizes, at

    def __enter__(self) -> None:
        self.losses = losses = FlexiTask.losses
        sizes, at = self.sizes, self.at

        def noted(task, model, inputs, batch):
            sizes.append(task.grid.name)
            if len(sizes) == at:
                os.kill(os.getpid(), signal.SIGTERM)
            yield from losses(task, model, inputs, batch)

        FlexiTask.losses = noted  # type: ignore[method-assign]

    def __exit__(self, *_: object) -> None:
        FlexiTask.losses = self.losses  # type: ignore[method-assign]


def test_a_run_that_was_stopped_goes_on_bit_for_bit(pictures, whole):
    arguments = short_run(pictures, "parts")
    sizes: list[str] = []
    with watched(sizes, at=8):  # in the second epoch, of 6 batches
        assert train_net.main(arguments) != 0
        torch.manual_seed(99)
        assert train_net.main(arguments) == 0
    gone_on = weights(pictures / "parts")
    assert sizes == whole[1]
    assert len(set(sizes)) > 1
    assert all(torch.equal(tensor, gone_on[name]) for name, tensor in whole[0].items())


def test_two_processes_run_at_the_same_sizes_as_one(pictures, whole):
    """Under ZeRO 3, where the kernel lies in pieces; each loads its own samples, so losses differ and sizes do not."""
    arguments = short_run(pictures, "two")
    out = str(pictures / "sizes")
    arguments += ["train.batch_size=8", "parallel.zero_stage=3"]
    run_ranks(2, train_noting_sizes, out, arguments, folder=pictures)
    first, second = (json.loads(Path(out + rank).read_text()) for rank in "01")
    assert first == second == whole[1]
    assert set(top1_of(pictures / "two" / "report.json")) == {"4x4", "3x3", "2x2"}


def test_clips_train_and_end_in_a_report(tmp_path):
    assert train_net.main(["--cfg", str(write(tmp_path, CLIPS))]) == 0
    assert list(top1_of(tmp_path / "run" / "report.json")) == ["4x4", "3x3"]
