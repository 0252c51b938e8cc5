"""Whole runs over two processes, under every launcher; stopped, gone on with, and gone on with by one process."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import several_processes
import torch
import train_net

from revit.common.weights.checkpoint import load_checkpoint

TOOLS = Path(__file__).parents[2] / "tools"
CONFIG = """
kind: image
data:
  demo: {train_pictures: 44, val_pictures: 21, test_pictures: 21, num_workers: 1}
  pixels: {img_size: 48, crop_pct: 1.0}
  augment: {scale: [0.7, 1.0], flip_probability: 0, erase_probability: 0.2}
  mix: {mixup: 0.2, cutmix: 0.2}
  loading: {num_workers: 0}
model: {name: deit_small, grids: [6x6, 3x3], embed_dim: 16, depth: 1, num_heads: 2, drop_path_rate: 0.1}
train:
  batch_size: 4
  effective_batch: 8
  ema: {decay: 0.9, use: true}
  optim: {name: adamw, lr: 1e-3, decay_one_dimensional: false}
  schedule: {name: cosine, epochs: 2}
assigner: {size: 32, width: 0.25, depth: 0.34, train: {batch_size: 8, schedule: {name: cosine, epochs: 1, warmup_epochs: 0}}}
test: {batch_size: 4}
run: {dir: RUN, log_every: 2, dtype: float32}
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """A configuration whose data is made already."""
    folder = tmp_path_factory.mktemp("processes")
    path = folder / "config.yaml"
    path.write_text(CONFIG.replace("RUN", str(folder / "run")))
    assert train_net.main(["--cfg", str(path), "--stage", "data"]) == 0
    return path


def with_data(config: Path, name: str) -> Path:
    """A folder for another run on the same data."""
    folder = config.parent / name
    shutil.copytree(config.parent / "run" / "data", folder / "data")
    return folder


def environment(**more: str) -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "MASTER_"))}
    path = os.pathsep.join([str(TOOLS), *filter(None, [own.get("PYTHONPATH")])])
    return {**own, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": path, **more}


@pytest.fixture(scope="module")
def found(config):
    """What two processes found that were started with Slurm's variables alone."""
    for name in ("deepspeed", "deepspeed_parts", "replicas", "replicas_parts", "broken", "retokenized"):
        with_data(config, name)
    out = config.parent / "found.json"
    command = [sys.executable, Path(several_processes.__file__), config, config.parent, out]
    slurm = {"SLURM_NTASKS": "2", "SLURM_JOB_NODELIST": "localhost", "SLURM_JOB_ID": str(os.getpid())}
    processes = [
        subprocess.Popen(
            list(map(str, command)),
            env=environment(**slurm, SLURM_PROCID=str(rank), SLURM_LOCALID=str(rank)),
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    said = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    return json.loads(out.read_text()) | {"said": said}


@pytest.mark.parametrize("backend", ["deepspeed", "replicas"])
def test_stopped_on_one_process_all_save_and_go_on_bit_for_bit(found, backend):
    one, other = found[backend]["stopped"]
    assert one.startswith("stopped by another process: model is saved in epoch 1, after sample ")
    assert other.startswith("stopped by SIGTERM: model is saved in epoch 1, after sample ")
    assert found[backend]["same"]


@pytest.mark.parametrize("backend", ["deepspeed", "replicas"])
def test_every_sample_is_evaluated_once(config, found, backend):
    folder = config.parent / backend
    report = json.loads((folder / "report.json").read_text())
    assert report["samples"] == {"evaluated": 21, "failed": 0}
    labels = (folder / "lengths.csv").read_text().splitlines()[1:]
    assert [int(line.split(",")[0]) for line in labels] == list(range(44))
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    epochs = [line for line in log if line["event"] == "epoch" and line["stage"] == "model"]
    assert [line["epoch"] for line in epochs] == [1, 2]
    assert set(epochs[0]["loss"]) == {"6x6", "3x3"}  # whoever trained them
    assert {line["epoch"] for line in log if line["event"] == "val"} == {1, 2}
    assert load_checkpoint(folder / "best.safetensors").extra["val"]["epoch"] in (1, 2)


def test_rank_0_alone_speaks(found):
    main, other = found["said"]
    assert "model: epoch 2/2" in main
    assert "epoch" not in other


def test_a_loss_that_is_not_finite_on_one_process_stops_all(found):
    one, other = found["broken"]
    assert one == other
    assert "loss is not finite at update" in one
    assert "rank 1: {" in one
    assert "sample ids of the batch: [" in one


def test_every_training_says_what_it_runs_on(config, found):
    main, _ = found["said"]
    update = "an update is 8 samples"
    assert f"model: 2 processes on 1 machine, cpu, DeepSpeed ZeRO 2, float32; {update} = 4 x 2 processes x 1\n" in main
    groups = "1 group of 2 with token grids 6x6; 3x3"
    assert f"model: 2 processes on 1 machine, cpu, replicas ({groups}), float32; {update} = 4 x 1 group x 2\n" in main
    assert "assigner: 2 processes on 1 machine, cpu, replicas, float32; " in main
    log = [json.loads(line) for line in (config.parent / "deepspeed" / "log.jsonl").read_text().splitlines()]
    (start,) = (line for line in log if line["event"] == "start" and line["stage"] == "model")
    assert (start["processes"], start["backend"], start["effective_batch"]) == (2, "deepspeed", 8)


def test_replicas_train_with_coarse_tokens(config, found):
    log = [json.loads(line) for line in (config.parent / "retokenized" / "log.jsonl").read_text().splitlines()]
    epochs = [line for line in log if line["event"] == "epoch" and line["stage"] == "model"]
    assert [set(line["loss"]) for line in epochs] == [{"6x6", "3x3"}] * 2
    assert json.loads((config.parent / "retokenized" / "report.json").read_text())["samples"]["evaluated"] == 21


def test_processes_that_do_not_belong_together_are_told_so(config, found):
    runs = config.parent
    settings, folder = found["other settings"], found["other folder"]
    assert settings[0] == settings[1]
    assert f"first of all run.dir: {runs / 'rank0'} for rank 0" in settings[0]
    assert f"{runs / 'rank1'} for rank 1" in settings[0]
    assert "is not the same folder on all machines" in folder[0]
    assert list((runs / "rank0").iterdir()) == []  # nothing was begun there
    assert not (runs / "rank1").exists()


@pytest.mark.parametrize("backend", ["deepspeed", "replicas"])
def test_one_process_goes_on_where_two_stopped(config, found, capfd, backend):
    folder = config.parent / f"{backend}_elsewhere"
    assert train_net.main(["--cfg", str(config), f"run.dir={folder}"]) == 0
    said = capfd.readouterr().err
    assert "going on in epoch 1, after sample " in said
    assert "processes: 2 -> 1" in said
    assert f"parallel.backend: {backend} -> local" in said
    assert json.loads((folder / "report.json").read_text())["samples"]["evaluated"] == 21


LAUNCHERS = {
    "torchrun": ["torch.distributed.run", "--nproc-per-node", "2", "--master-port"],
    "deepspeed": ["deepspeed.launcher.runner", "--num_gpus", "2", "--master_port"],
}


@pytest.mark.parametrize("launcher", list(LAUNCHERS))
def test_launchers_start_the_same_command(config, launcher):
    """DeepSpeed, the default for several processes, in bfloat16; by torchrun with ZeRO 1 and labels on held-out folds, by its own
    launcher with ZeRO 3."""
    folder = with_data(config, f"by_{launcher}")
    arguments = ["--cfg", str(config), f"run.dir={folder}", "run.dtype=auto", "run.tensorboard=true"]
    arguments.append(f"lengths.folds={2 if launcher == 'torchrun' else 0}")
    stage = 1 if launcher == "torchrun" else 3
    port = str(20000 + os.getpid() % 10000)
    command = [sys.executable, "-m", *LAUNCHERS[launcher], port, str(TOOLS / "train_net.py"), *arguments]
    result = subprocess.run(
        [*command, f"parallel.zero_stage={stage}"],
        env=environment(DS_ACCELERATOR="cpu"),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    assert json.loads((folder / "report.json").read_text())["samples"] == {"evaluated": 21, "failed": 0}
    assert list((folder / "tensorboard").iterdir())
    labels = (folder / "lengths.csv").read_text().splitlines()[1:]
    assert [int(line.split(",")[0]) for line in labels] == list(range(44))
    weights = load_checkpoint(folder / "checkpoint.safetensors").parts["raw"]
    assert {tensor.dtype for tensor in weights.values() if tensor.is_floating_point()} == {torch.float32}
