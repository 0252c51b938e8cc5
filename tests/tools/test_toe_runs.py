"""Whole runs with Token Expansion: they learn, go on bit for bit inside a stage, and run in two processes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import train_net
from ranks import run_ranks

from revit.common.methods.toe import ToETask, TokenExpansion
from revit.common.weights.checkpoint import load_checkpoint

DIGITS = """
kind: image
data:
  demo: {train_pictures: 640, val_pictures: 20, test_pictures: 200, hard_share: 0, num_workers: 1}
  pixels: {img_size: 48, crop_pct: 1.0}
  augment: {scale: [0.9, 1.0], flip_probability: 0}
  loading: {num_workers: 0}
model: {name: deit_small, grids: [6x6], embed_dim: 48, depth: 3, num_heads: 4, drop_path_rate: 0, patch_embed: stem,
  stem_widths: [16, 32, 64], pos_std: 1.0, linear_std: 0.15}
methods: {toe: {first_rate: 0.5}}
train:
  batch_size: 16
  clip_grad_norm: 5
  optim: {name: adamw, lr: 2e-3, weight_decay: 0.05, decay_one_dimensional: false}
  schedule: {name: cosine, epochs: 6, warmup_epochs: 0.5}
test: {batch_size: 50}
run: {dir: RUN, evaluate_every: null}
"""
CLIPS = """
kind: video
data:
  demo: {train_clips: 96, val_clips: 4, test_clips: 40, frames: 13, hard_share: 0, num_workers: 1, motions: [left, right]}
  frames: {num_frames: 4, sampling_rate: 3, target_fps: 12}
  pixels: {crop_size: 48, jitter_min: 48, jitter_max: 48, flip_probability: 0}
  test_views: {num_crops: 1}
  loading: {num_workers: 0, decode_timeout_seconds: 0}
model: {grids: [6x6], embed_dim: 48, depth: 3, num_heads: 4, drop_path_rate: 0, patch_embed: stem, stem_widths: [16, 32, 48],
  pos_std: 1.0, time_std: 1.0, linear_std: 0.25, temporal_fc_std: 0.25}
methods: {toe: {first_rate: 0.5}}
train:
  batch_size: 8
  clip_grad_norm: 5
  optim: {name: adamw, lr: 2e-3, weight_decay: 0.05, decay_one_dimensional: false}
  schedule: {name: cosine, epochs: 6, warmup_epochs: 0.5}
test: {batch_size: 50}
run: {dir: RUN, evaluate_every: null}
"""
SHORT = """
kind: image
data:
  demo: {train_pictures: 64, val_pictures: 10, test_pictures: 10, num_workers: 1}
  pixels: {img_size: 48, crop_pct: 1.0}
  augment: {scale: [0.7, 1.0], flip_probability: 0}
  loading: {num_workers: 0}
model: {name: MODEL, grids: [6x6, 3x3], embed_dim: 16, depth: 3, num_heads: 2, drop_path_rate: 0}
methods: {toe: {keep_rates: [0.5, 0.75, 0.9]}}
train:
  batch_size: 8
  effective_batch: 16
  ema: {decay: 0.9, use: true}
  optim: {name: adamw, lr: 1e-3, eps: 1e-3, decay_one_dimensional: false}
  schedule: {name: cosine, epochs: 3}
assigner: {size: 32, width: 0.25, depth: 0.34, train: {batch_size: 16, schedule: {name: cosine, epochs: 1, warmup_epochs: 0}}}
test: {batch_size: 10}
run: {dir: RUN, save_every: 1}
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "config.yaml"
    path.write_text(text.replace("RUN", str(folder / "run")))
    return path


def report_of(folder: Path) -> dict:
    return json.loads((folder / "run" / "report.json").read_text())


def stages_of(monkeypatch) -> list[int]:
    """The stage of every batch that is trained on from now."""
    seen: list[int] = []
    losses = ToETask.losses

    def heard(self, model, inputs, batch):
        assert isinstance(model.reducer, TokenExpansion)
        assert model.reducer.training
        seen.append(model.reducer.stage)
        return losses(self, model, inputs, batch)

    monkeypatch.setattr(ToETask, "losses", heard)
    return seen


def test_digits_are_learned(tmp_path, monkeypatch):
    seen = stages_of(monkeypatch)
    assert train_net.main(["--cfg", str(write(tmp_path, DIGITS))]) == 0
    assert seen == [1] * 80 + [2] * 80 + [3] * 80
    assert report_of(tmp_path)["fixed"][0]["top1"] > 10 + 15


def test_motions_are_learned(tmp_path):
    assert train_net.main(["--cfg", str(write(tmp_path, CLIPS))]) == 0
    assert report_of(tmp_path)["fixed"][0]["top1"] > 70  # chance is 50


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """A configuration with data, trained to the end."""
    folder = tmp_path_factory.mktemp("short")
    path = write(folder, SHORT.replace("MODEL", "deit_small"))
    assert train_net.main(["--cfg", str(path)]) == 0
    return folder


def on_the_same_data(short: Path, folder: Path, *overrides: str) -> list[str]:
    """Arguments of another run, whose data is there."""
    shutil.copytree(short / "run" / "data", folder / "run" / "data")
    arguments = ["--cfg", str(short / "config.yaml"), f"run.dir={folder / 'run'}", *overrides]
    assert train_net.main([*arguments, "--stage", "data"]) == 0
    return arguments


def weights(folder: Path) -> dict[str, torch.Tensor]:
    parts = load_checkpoint(folder / "run" / "checkpoint.safetensors").parts
    return {f"{part}.{name}": tensor for part, state in parts.items() for name, tensor in state.items()}


@pytest.mark.parametrize("at", [5, 14])
def test_a_run_goes_on_bit_for_bit_inside_a_stage(short, tmp_path, monkeypatch, at):
    """Two batches an update, four updates an epoch and stage; it breaks off in batch `at`."""
    arguments = on_the_same_data(short, tmp_path)
    losses = ToETask.losses

    def broken(self, model, inputs, batch):
        if len(seen) == at:
            raise RuntimeError("the power went off")
        return losses(self, model, inputs, batch)

    with monkeypatch.context() as patch:
        patch.setattr(ToETask, "losses", broken)
        seen = stages_of(patch)
        assert train_net.main(arguments) == 1
    resumed = stages_of(monkeypatch)
    assert train_net.main(arguments) == 0
    expected = [1] * 8 + [2] * 8 + [3] * 8
    assert resumed == expected[(at - 1) // 2 * 2 :]
    first, second = weights(short), weights(tmp_path)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("stage", [3])
def test_two_processes_end_where_one_does(short, tmp_path, stage):
    """DeepSpeed with ZeRO, blocks recomputed; the same 16 pictures an update."""
    parallel = (f"parallel.zero_stage={stage}", "parallel.activation_checkpointing=true")
    arguments = on_the_same_data(short, tmp_path, "run.dtype=float32", *parallel)
    run_ranks(2, train_net.main, [*arguments, "--stage", "model"], folder=tmp_path)
    ours = load_checkpoint(tmp_path / "run" / "model.safetensors").parts["raw"]
    alone = load_checkpoint(short / "run" / "model.safetensors").parts["raw"]
    assert ours.keys() == alone.keys()
    assert max(float((ours[name] - alone[name]).abs().max()) for name in alone) < 1e-4


def test_lvvit_runs(short, tmp_path):
    arguments = on_the_same_data(short, tmp_path, "model.name=lvvit_s")
    assert train_net.main([*arguments, "--stage", "model"]) == 0


def test_it_is_refused_beside_another_reducer(short, tmp_path, capsys):
    arguments = on_the_same_data(short, tmp_path)
    extra = ["model.grids=[6x6]", "methods.dynamicvit.keep_rate=0.7"]
    assert train_net.main([*arguments, *extra]) == 2
    assert "name one of the two" in capsys.readouterr().err


@pytest.mark.parametrize("order", ["toe, flexivit", "flexivit, toe"])
def test_it_goes_with_flexivit_in_either_order(short, tmp_path, monkeypatch, order):
    """One grid is drawn for every update, and its positions are reduced as the stage says."""
    settings = {"toe": "toe: {first_rate: 0.5}", "flexivit": "flexivit: {grids: [8, 6], kernel_size: 8}"}
    methods = ", ".join(settings[name] for name in order.split(", "))
    toe = "{toe: {keep_rates: [0.5, 0.75, 0.9]}}"
    text = SHORT.replace("MODEL", "deit_small").replace(toe, f"{{{methods}}}")
    path = write(tmp_path, text.replace(" grids: [6x6, 3x3],", ""))
    seen: list[tuple[int, int, int]] = []
    plan = TokenExpansion.plan

    def noted(self, number, patches, layout):
        decision = plan(self, number, patches, layout)
        if number == 1 and self.training:
            kept = layout.num_positions if decision is None else decision.kept.shape[1]
            seen.append((self.stage, layout.num_positions, kept))
        return decision

    monkeypatch.setattr(TokenExpansion, "plan", noted)
    arguments = on_the_same_data(short, tmp_path)
    assert train_net.main(["--cfg", str(path), *arguments[2:], "--stage", "data"]) == 0
    assert train_net.main(["--cfg", str(path), *arguments[2:], "--stage", "model"]) == 0
    assert [stage for stage, _, _ in seen] == [1] * 8 + [2] * 8 + [3] * 8
    assert {S for _, S, _ in seen} == {64, 36}
    assert all(kept == S * (1 + stage) // 4 for stage, S, kept in seen)
