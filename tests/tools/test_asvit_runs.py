"""As-ViT through the same commands: trained with fewer tokens first, stopped, resumed, evaluated, asked, fine-tuned."""

from __future__ import annotations

import json

import flops
import predict
import pytest
import test_net as tool_test_net
import torch
import train_net

from revit.common.weights.checkpoint import load_checkpoint

CONFIG = """
kind: image
data:
  demo: {train_pictures: 480, val_pictures: 20, test_pictures: 100, num_workers: 1, hard_share: 0}
  pixels: {img_size: 32, crop_pct: 1.0}
  augment: {scale: [0.9, 1.0], flip_probability: 0}
  loading: {num_workers: 0}
model: {name: asvit_seed, genotype: "8,1,2,1|2,1,2,1|2,1,2,1|2,1,2,1|8,16", linear_std: 0.1}
methods: {retokenize: {phases: [{until: 0.25, coarser: 2}]}}
train:
  batch_size: 16
  clip_grad_norm: 5
  optim: {name: adamw, lr: 2e-3, decay_one_dimensional: false}
  schedule: {name: cosine, epochs: 4, warmup_epochs: 0.5}
run: {dir: RUN, evaluate_every: null}
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("asvit")
    path = folder / "config.yaml"
    path.write_text(CONFIG.replace("RUN", str(folder / "run")))
    assert train_net.main(["--cfg", str(path)]) == 0
    return folder


def report_of(folder):
    return json.loads((folder / "run" / "report.json").read_text())


def test_it_learns_the_digits(finished):
    (row,) = report_of(finished)["fixed"]
    assert row["grid"] == "8x8"
    assert row["top1"] > 20  # chance is 10, give or take 3


def test_test_net_and_predict_give_the_reports_answers(finished):
    out, checkpoint = finished / "again.json", str(finished / "run" / "checkpoint.safetensors")
    assert (
        tool_test_net.main(["--cfg", str(finished / "config.yaml"), "--checkpoint", checkpoint, "--json", str(out)])
        == 0
    )
    assert json.loads(out.read_text())["fixed"][0]["top1"] == report_of(finished)["fixed"][0]["top1"]
    answers = finished / "answers.json"
    assert (
        predict.main(["--checkpoint", checkpoint, str(finished / "run" / "data" / "test"), "--json", str(answers)]) == 0
    )
    told = json.loads(answers.read_text())
    right = sum(str(answer["top"][0]["class"]) in answer["path"].split("/") for answer in told)
    assert 100 * right / len(told) == pytest.approx(report_of(finished)["fixed"][0]["top1"], abs=0.01)


def test_flops_counts_the_phases(finished):
    out = finished / "flops.json"
    assert flops.main(["--cfg", str(finished / "config.yaml"), "--json", str(out)]) == 0
    whole, coarse, *_ = json.loads(out.read_text())
    assert whole["grid"] == "8x8"
    assert coarse["grid"] == "8x8, stride x 2"
    assert coarse["gmacs"] < whole["gmacs"] / 2


def test_other_classes_and_another_size_start_from_it(finished, tmp_path):
    path, source = tmp_path / "other.yaml", finished / "run" / "checkpoint.safetensors"
    path.write_text(CONFIG.replace("RUN", str(tmp_path / "run")).replace("img_size: 32", "img_size: 48"))
    overrides = [
        f"start.source={source}",
        "train.schedule.epochs=1",
        "train.schedule.warmup_epochs=0",
        "train.optim.lr=1e-9",
    ]
    assert train_net.main(["--cfg", str(path), "--stage", "data", *overrides]) == 0
    assert train_net.main(["--cfg", str(path), "--stage", "model", *overrides]) == 0
    before, after = (
        load_checkpoint(folder).parts["model"] for folder in (source, tmp_path / "run" / "model.safetensors")
    )
    assert all(torch.allclose(before[name], after[name], atol=1e-5) for name in before)


def test_another_architecture_is_refused_by_name(finished, tmp_path, capsys):
    path, source = tmp_path / "other.yaml", finished / "run" / "checkpoint.safetensors"
    path.write_text(CONFIG.replace("RUN", str(tmp_path / "run")).replace("8,16", "8,24"))
    assert train_net.main(["--cfg", str(path), "--stage", "data"]) == 0
    assert train_net.main(["--cfg", str(path), "--stage", "model", f"start.source={source}"]) == 2
    assert "have a shape that does not fit" in capsys.readouterr().err


def test_what_works_on_sequences_is_refused(tmp_path, capsys):
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG.replace("RUN", str(tmp_path / "run")))
    for method in ("toe", "dynamicvit", "flexivit"):
        assert train_net.main(["--cfg", str(path), f"methods={{{method}: null}}"]) == 2
        assert method in capsys.readouterr().err
