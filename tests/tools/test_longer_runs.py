"""Trainings that end early, go on for more epochs, or keep the best model: the same bits however they are cut."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import train_net
from noted_training import Noted, run, same
from safetensors.torch import load_file
from tiny_run import write_config

from revit.common.training import stages
from revit.common.weights.checkpoint import load_checkpoint

TOOLS = Path(__file__).parents[2] / "tools"
CONSTANT = ["train.schedule.name=constant", "train.schedule.epochs=2"]
VALIDATED = ["run.evaluate_every=1", "train.schedule.epochs=6"]


@pytest.fixture
def config(tmp_path):
    return write_config(tmp_path, 48, 16, 16)


def train(config: Path, *overrides: str) -> int:
    return train_net.main(["--cfg", str(config), *overrides])


def weights(config: Path, name: str = "checkpoint.safetensors", run: str = "run") -> dict[str, torch.Tensor]:
    return load_file(config.parent / run / name)


def epochs_in_log(config: Path, event: str = "epoch") -> list[int]:
    lines = [json.loads(line) for line in (config.parent / "run" / "log.jsonl").read_text().splitlines()]
    return [line["epoch"] for line in lines if line["event"] == event and line.get("stage", "model") == "model"]


def schedule(name: str, epochs: int) -> dict:
    return {"train": {"schedule": {"name": name, "epochs": epochs}}}


def test_more_epochs_of_a_constant_rate_are_the_epochs_of_one_long_training(tmp_path):
    straight = run(tmp_path / "straight", **schedule("constant", 5))
    short = run(tmp_path / "short", **schedule("constant", 2))
    task = Noted()
    longer = run(tmp_path / "short", task, **schedule("constant", 5))
    assert not same(short, straight)
    assert same(longer, straight)
    assert len(task.ids) == 3 * 10  # batches of the three epochs that were missing


def test_a_falling_rate_goes_on_where_the_longer_schedule_is_and_that_is_said(tmp_path, capsys):
    run(tmp_path, **schedule("cosine", 3))
    capsys.readouterr()
    run(tmp_path, **schedule("cosine", 6))
    assert "going on after epoch 3; learning rate: 0 -> 0.005" in " ".join(capsys.readouterr().err.split())


def test_what_was_enough_is_enough_after_a_stop_too(tmp_path):
    first, again = Noted(), Noted()
    ended = run(tmp_path, first, enough=lambda epoch: epoch == 2)
    assert len(first.ids) == 2 * 10
    assert same(run(tmp_path, again, enough=lambda epoch: epoch == 2), ended)
    assert again.ids == []


def test_a_finished_run_goes_on_for_more_epochs(config, capsys):
    other = config.parent / "other"
    assert train(config, *CONSTANT) == 0
    report = json.loads((config.parent / "run" / "report.json").read_text())
    (config.parent / "other").mkdir()
    straight = write_config(other, 48, 16, 16)
    assert train(straight, *CONSTANT, "train.schedule.epochs=4") == 0
    capsys.readouterr()
    assert train(config, *CONSTANT, "train.schedule.epochs=4") == 0
    said = capsys.readouterr().err
    assert "model: goes on from its last state (train.schedule.epochs: 2 -> 4)" in said
    assert epochs_in_log(config) == [1, 2, 3, 4]
    assert same(weights(config), weights(straight))  # its lengths and assigner are anew, too
    assert json.loads((config.parent / "run" / "report.json").read_text())["fixed"] != report["fixed"]
    assert len(list((config.parent / "run" / "states").rglob("*.pt"))) == 1
    assert train(config, *CONSTANT, "train.schedule.epochs=3") == 2
    assert "train.schedule.epochs: 4 -> 3" in capsys.readouterr().err


def test_more_epochs_without_a_state_say_what_to_do(config, capsys):
    assert train(config, *CONSTANT) == 0
    for path in (config.parent / "run" / "states").rglob("*.pt"):
        path.unlink()
    assert train(config, *CONSTANT, "train.schedule.epochs=4") == 2
    assert f"Its last state is gone; start.source={config.parent / 'run'} begins from" in capsys.readouterr().err


def rising_to(best_epoch: int, monkeypatch) -> None:
    """Val top-1 by the epoch alone: rises until `best_epoch`, falls from there."""
    keeper = stages.keeper

    def scripted(*arguments):
        keep = keeper(*arguments)
        return lambda epoch, top1: keep(epoch, 50.0 - abs(epoch - best_epoch))

    monkeypatch.setattr(stages, "keeper", scripted)


def test_a_training_without_progress_ends_early_and_its_best_model_is_the_result(config, capsys, monkeypatch):
    rising_to(2, monkeypatch)
    assert train(config, *VALIDATED, "train.early_stop=2", "run.keep=best") == 0
    said = capsys.readouterr().err
    assert (
        "model: ends after epoch 4 of 6: nothing better on val for 2 epochs; the best is 50.00 % after epoch 2" in said
    )
    assert "model: keeps the one after epoch 2, the best on val" in said
    assert epochs_in_log(config) == [1, 2, 3, 4]
    result, best = (load_checkpoint(config.parent / "run" / f"{name}.safetensors") for name in ("checkpoint", "best"))
    assert result.extra["val"] == {"epoch": 2, "top1": 50.0}
    assert same(dict(result.parts["model"]), dict(best.parts["model"]))
    assert "assigner" in result.parts

    # More patience goes on as if there had been more from the start.
    assert train(config, *VALIDATED, "train.early_stop=3", "run.keep=last") == 0
    assert epochs_in_log(config) == [1, 2, 3, 4, 5]
    assert "val" not in load_checkpoint(config.parent / "run" / "model.safetensors").extra


def test_one_that_was_killed_as_it_was_judged_ends_where_it_would_have(config, monkeypatch):
    rising_to(1, monkeypatch)
    evaluator = stages.Evaluator.watch

    class Killed(BaseException):
        pass

    def killed(self, *arguments):
        watch = evaluator(self, *arguments)

        def then(epoch: int) -> None:
            watch(epoch)
            if epoch == 3:
                raise Killed

        return then

    with monkeypatch.context() as patch:
        patch.setattr(stages.Evaluator, "watch", killed)
        with pytest.raises(Killed):
            train(config, *VALIDATED, "train.early_stop=2")
    assert train(config, *VALIDATED, "train.early_stop=2") == 0
    assert epochs_in_log(config) == [1, 2, 3]


SETTINGS = [
    *VALIDATED,
    "model.drop_path_rate=0",  # each process draws its own
    "train.effective_batch=16",
    "train.batch_size=8",
    "train.freeze=[patch_embed, 'blocks.0.']",
    "train.optim={name: sgd, lr: 0.05, layer_decay: 0.7}",
    "train.early_stop=1",
    "run.keep=best",
    "run.dtype=float32",
    "train.schedule.epochs=3",
]


@pytest.mark.parametrize("backend", ["deepspeed", "replicas"])
def test_two_processes_freeze_judge_and_keep_as_one_does(config, backend):
    folder = config.parent / "two"
    for stage in ("data", "model"):
        assert train(config, *SETTINGS, "--stage", stage) == 0
    assert train(config, *SETTINGS, f"run.dir={folder}", "--stage", "data") == 0
    one_stage = [f"run.dir={folder}", f"parallel.backend={backend}", "--stage", "model"]
    command = [sys.executable, TOOLS / "train_net.py", "--cfg", config, *SETTINGS, *one_stage]
    slurm = {"SLURM_NTASKS": "2", "SLURM_JOB_NODELIST": "localhost", "SLURM_JOB_ID": str(os.getpid())}
    own = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "MASTER_"))}
    own |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}
    processes = [
        subprocess.Popen(
            list(map(str, command)),
            env={**own, **slurm, "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    said = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert said[0].count("data: 48 pictures") == 1
    assert "data: 48" not in said[1]
    assert "model: keeps the one after epoch" in said[0]
    one, two = weights(config, "model.safetensors"), weights(config, "model.safetensors", "two")
    frozen = [name for name in one if name.startswith(("model.patch_embed", "model.blocks.0."))]
    assert frozen
    assert all(torch.equal(one[name], two[name]) for name in frozen)
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, rtol=1e-3, atol=1e-4)
    facts = [load_checkpoint(config.parent / run / "model.safetensors").extra["val"] for run in ("run", "two")]
    assert facts[0]["epoch"] == facts[1]["epoch"]
