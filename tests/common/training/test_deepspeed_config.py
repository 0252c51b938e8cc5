"""A DeepSpeed file of the user's is merged with what the run says, and every contradiction is named."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from torch import nn

from revit.common.config.sections import OptimOptions, ParallelOptions
from revit.common.system.errors import UserError
from revit.common.training.optim import build_optimizer
from revit.common.training.parallel.backend import DEFAULT
from revit.common.training.parallel.deepspeed_backend import DeepSpeedBackend
from revit.common.training.parallel.deepspeed_config import merge, our_settings, read_config

ADAMW = OptimOptions(name="adamw", lr=1e-3, weight_decay=0.05, decay_one_dimensional=False)


def merged(tmp_path, theirs: dict, dtype: str = "bfloat16", clip: float | None = None, **parallel):
    path = tmp_path / "ds.json"
    path.write_text(json.dumps(theirs))
    ours = our_settings(
        ParallelOptions(**parallel), batch_size=4, accumulate=2, world_size=3, clip_grad_norm=clip, dtype=dtype
    )
    return merge(ours, read_config(path), path, build_optimizer(nn.Linear(2, 2), ADAMW), "cpu")


def test_what_only_the_file_says_is_taken_and_auto_is_ours(tmp_path):
    theirs = {
        "train_batch_size": "auto",
        "gradient_clipping": "auto",
        "zero_optimization": {"stage": 2, "reduce_bucket_size": 1000, "overlap_comm": True},
        "bf16": {"enabled": True},
        "optimizer": {"type": "AdamW", "params": {"lr": 1e-3, "betas": [0.9, 0.999], "weight_decay": 0.05}},
        "wall_clock_breakdown": True,
    }
    settings, _ = merged(tmp_path, theirs, zero_stage=2, clip=0.5)
    assert settings["train_batch_size"] == 24
    assert settings["gradient_clipping"] == 0.5
    assert settings["zero_optimization"] == {"stage": 2, "reduce_bucket_size": 1000, "overlap_comm": True}
    assert settings["wall_clock_breakdown"]
    assert settings["torch_autocast"]["enabled"]
    assert not {"bf16", "fp16", "optimizer"} & set(settings)


def test_without_clipping_it_is_written_down(tmp_path):
    assert merged(tmp_path, {})[0]["gradient_clipping"] == 0.0  # DeepSpeed's own default is 1


def test_every_contradiction_is_named_with_key_theirs_and_ours(tmp_path):
    theirs = {
        "train_micro_batch_size_per_gpu": 8,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": 1.0,
        "zero_optimization": {"stage": 3, "offload_optimizer": {"device": "cpu"}},
        "fp16": {"enabled": True},
        "bf16": {"enabled": False},
        "optimizer": {"type": "Adam", "params": {"lr": 0.1, "betas": [0.9, 0.95]}},
        "scheduler": {"type": "WarmupLR"},
    }
    with pytest.raises(UserError) as raised:
        merged(tmp_path, theirs)
    for expected in (
        "train_micro_batch_size_per_gpu: 8 in the file, 4 here by train.batch_size",
        "gradient_accumulation_steps: 1 in the file, 2 here by train.effective_batch",
        "gradient_clipping: 1.0 in the file, 0.0 here by train.clip_grad_norm",
        "zero_optimization.stage: 3 in the file, 1 here by parallel.zero_stage",
        'zero_optimization.offload_optimizer.device: "cpu" in the file, "none" here by parallel.offload',
        "fp16.enabled: true in the file, false here by run.dtype",
        "bf16.enabled: false in the file, true here by run.dtype",
        'optimizer.type: "Adam" in the file, "AdamW" here by train.optim',
        "optimizer.params.lr: 0.1 in the file, 0.001 here by train.optim",
        "optimizer.params.betas: [0.9, 0.95] in the file, [0.9, 0.999] here by train.optim",
        "scheduler: the learning rate follows train.schedule",
    ):
        assert expected in str(raised.value)


def test_the_loss_scale_of_float16_can_be_set(tmp_path):
    fp16 = {"enabled": True, "loss_scale": 0, "initial_scale_power": 10, "loss_scale_window": 50}
    _, scaling = merged(tmp_path, {"fp16": fp16}, dtype="float16")
    assert (scaling["init_scale"], scaling["scale_window"]) == (1024, 50)
    with pytest.raises(UserError, match=r"fp16\.loss_scale: 128 in the file, 0 here by run\.dtype"):
        merged(tmp_path, {"fp16": {"enabled": True, "loss_scale": 128}}, dtype="float16")


@pytest.mark.parametrize("text", ["{", "[]", '{"zero_optimization": {"stage": 1, "stage": 2}}'])
def test_a_file_that_is_no_json_object_is_refused(tmp_path, text):
    path = tmp_path / "ds.json"
    path.write_text(text)
    with pytest.raises(UserError, match=r"ds\.json"):
        read_config(path)


def test_without_deepspeed_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    with pytest.raises(UserError, match=r'pip install "revit-video\[train\]".*parallel\.backend=local'):
        DeepSpeedBackend(torch.device("cpu"), options=DEFAULT, batch_size=1)


@pytest.mark.parametrize(("stage", "offload"), [(0, "optimizer"), (2, "parameters")])
def test_offloading_what_is_not_split_is_refused(stage, offload):
    with pytest.raises(ValueError, match="zero_stage"):
        ParallelOptions(zero_stage=stage, offload=offload)


def test_compiling_split_weights_is_refused():
    with pytest.raises(ValueError, match="compile and zero_stage 3"):
        ParallelOptions(compile=True, zero_stage=3)
