"""Pictures by the same commands as clips: a whole recipe, its test, its cost and its speed."""

from __future__ import annotations

import json

import flops
import pytest
import test_net as tool_test_net
import throughput
import timm
import torch
import train_net

from revit.common.weights.checkpoint import load_checkpoint

CONFIG = """
kind: image
data:
  demo: {train_pictures: 64, val_pictures: 20, test_pictures: 20, num_workers: 1}
  pixels: {img_size: 48, crop_pct: 1.0}
  augment: {scale: [0.7, 1.0], flip_probability: 0, erase_probability: 0.2, repeats: 2}
  mix: {mixup: 0.2, cutmix: 0.2}
  loading: {num_workers: 0}
model: {name: NAME, grids: [6x6, 3x3], embed_dim: 32, depth: 2, num_heads: 2}
train:
  batch_size: 16
  ema: {decay: 0.9, use: true}
  optim: {name: adamw, lr: 1e-3, betas: [0.9, 0.99], decay_one_dimensional: false}
  schedule: {name: cosine, epochs: 2, cooldown_epochs: 1}
assigner: {size: 32, width: 0.25, train: {batch_size: 16, schedule: {name: cosine, epochs: 1}}}
run: {dir: RUN}
"""


@pytest.fixture(scope="module", params=["deit_small", "lvvit_s"])
def finished(request, tmp_path_factory):
    """A folder with config.yaml and the run made from it."""
    folder = tmp_path_factory.mktemp("image")
    path = folder / "config.yaml"
    path.write_text(CONFIG.replace("NAME", request.param).replace("RUN", str(folder / "run")))
    assert train_net.main(["--cfg", str(path)]) == 0
    return folder


only_deit = pytest.mark.parametrize("finished", ["deit_small"], indirect=True)


def test_the_recipe_ends_in_a_report(finished):
    report = json.loads((finished / "run" / "report.json").read_text())
    assert [row["grid"] for row in report["fixed"]] == ["6x6", "3x3"]
    assert report["samples"] == {"evaluated": 20, "failed": 0}
    assert report["protocol"]["num_views"] == 1
    assert set(report["seconds"]) == {"data", "model", "lengths", "assigner", "calibrate", "evaluate"}
    log = [json.loads(line) for line in (finished / "run" / "log.jsonl").read_text().splitlines()]
    assert sum(line["event"] == "epoch" and line["stage"] == "model" for line in log) == 3  # cool-down too


def test_the_average_and_the_trained_weights_are_both_kept(finished):
    checkpoint = load_checkpoint(finished / "run" / "checkpoint.safetensors")
    assert set(checkpoint.parts) == {"model", "raw", "assigner"}
    assert checkpoint.kind == "image"
    model, raw = checkpoint.parts["model"], checkpoint.parts["raw"]
    assert set(model) == set(raw)
    assert not torch.equal(model["head.weight"], raw["head.weight"])


def test_test_net_finds_the_same(finished):
    out = finished / "again.json"
    checkpoint = finished / "run" / "checkpoint.safetensors"
    arguments = ["--cfg", str(finished / "config.yaml"), "--checkpoint", str(checkpoint), "--json", str(out)]
    assert tool_test_net.main(arguments) == 0
    again, first = (json.loads(path.read_text()) for path in (out, finished / "run" / "report.json"))
    assert [row["top1"] for row in again["fixed"]] == [row["top1"] for row in first["fixed"]]
    assert again["adaptive"]["top1"] == first["adaptive"]["top1"]


@only_deit
def test_flops_has_the_adaptive_row_of_the_run(finished):
    out = finished / "flops.json"
    assert flops.main(["--cfg", str(finished / "config.yaml"), "--json", str(out)]) == 0
    assert [row["grid"] for row in json.loads(out.read_text())] == ["6x6", "3x3", "assigner", "adaptive"]


@only_deit
def test_test_net_takes_weights_made_elsewhere(finished):
    """Those of a plain timm model, for the longest grid."""
    port = timm.create_model(
        "deit_small_patch16_224",
        **{"img_size": 48, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 10},
    )
    torch.save(port.state_dict(), finished / "timm.pth")
    arguments = ["--cfg", str(finished / "config.yaml"), "--checkpoint", str(finished / "timm.pth")]
    out = finished / "foreign.json"
    assert tool_test_net.main([*arguments, "--json", str(out), "model.grids=[6x6]"]) == 0
    assert [row["grid"] for row in json.loads(out.read_text())["fixed"]] == ["6x6"]


@only_deit
def test_throughput_names_the_peer(finished):
    out = finished / "speed.json"
    arguments = ["--cfg", str(finished / "config.yaml"), "--peers", "--dtypes", "float32", "--batches", "2"]
    status = throughput.main([*arguments, "--rounds", "1", "--json", str(out)])
    assert status == 0
    rows = json.loads(out.read_text())
    assert [(row["name"], row["grid"]) for row in rows] == [
        ("timm", "6x6"),
        *((name, grid) for name in ("ours", "ours, served") for grid in ("6x6", "3x3", "adaptive")),
    ]
