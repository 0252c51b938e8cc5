"""Training that goes on with other processes; what processes add up to."""

from __future__ import annotations

import os
import signal
from collections import Counter

import pytest
import torch
from noted_training import EPOCHS, NUM_SAMPLES, SAMPLES, Noted, load, run
from torch import nn

from revit.common.config.sections import ParallelOptions, RunOptions, TrainOptions
from revit.common.data.broken import BrokenFiles, Failure
from revit.common.data.build import eval_loader, train_loader
from revit.common.data.options import LoadingOptions
from revit.common.models.base import Normalizer
from revit.common.system.distributed import DistributedContext
from revit.common.system.errors import Stopped, UserError
from revit.common.system.log import RunLog
from revit.common.system.processes import StopRequest
from revit.common.training.meter import Meter
from revit.common.training.trainer import Trainer


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2), (4, 1), (2, 4)])
@pytest.mark.parametrize("batch", [1, 2])
def test_another_number_of_processes_goes_on_at_the_same_sample(tmp_path, capsys, before, after, batch):
    """Every process trains for itself here: what matters is which samples it reads."""
    epoch: Counter[int] = Counter()
    for rank in reversed(range(before)):  # rank 0's state is the one that stays
        stop = StopRequest()
        task = Noted(lambda now, stop=stop: os.kill(os.getpid(), signal.SIGTERM) if now == batch else None)
        folder = tmp_path if rank == 0 else tmp_path / str(rank)
        with pytest.raises(Stopped), stop.listening():
            run(folder, task, ranks=before, rank=rank, batch_size=1, effective_batch=None, stop=stop)
        epoch.update(id for ids in task.ids for id in ids)
    state = max((tmp_path / "states" / "model").glob("*.pt"))
    assert torch.load(state)["position"]["samples"] == before * batch
    for rank in range(after):
        task = Noted()
        folder = tmp_path / f"then{rank}"
        (folder / "states" / "model").mkdir(parents=True)
        (folder / "states" / "model" / state.name).write_bytes(state.read_bytes())
        run(folder, task, ranks=after, rank=rank, batch_size=1, effective_batch=None)
        left = (NUM_SAMPLES - before * batch) // after
        epoch.update(id for ids in task.ids[:left] for id in ids)
        assert len(task.ids) == left + (EPOCHS - 1) * (NUM_SAMPLES // after)
    assert set(epoch.values()) == {1}
    assert NUM_SAMPLES - len(epoch) == (NUM_SAMPLES - before * batch) % after
    said = capsys.readouterr().err
    assert f"reading: {before} -> {after}; effective_batch: {before} -> {after}" in said
    assert "drawn anew" in said


def stopped_after(folder, batches: int, **given) -> list[list[int]]:
    """A training that is asked to end after so many batches; what it trained on."""
    stop = StopRequest()
    task = Noted(lambda now: os.kill(os.getpid(), signal.SIGTERM) if now == batches else None)
    with pytest.raises(Stopped), stop.listening():
        run(folder, task, stop=stop, **given)
    return task.ids


def test_a_rest_too_small_for_the_new_processes_ends_its_epoch(tmp_path, capsys):
    """Two samples are left, and two processes read four at once."""
    first = stopped_after(tmp_path, 10, effective_batch=2)
    assert len({id for ids in first for id in ids}) == 20
    task, epochs = Noted(), []
    run(tmp_path, task, ranks=2, effective_batch=None, watch=lambda network: epochs.append)
    assert epochs == [1, 2, 3]
    assert len(task.ids) == (EPOCHS - 1) * (NUM_SAMPLES // 4)
    assert len({id for ids in task.ids[:5] for id in ids}) == 10  # half of the second epoch: this process's share
    assert "epoch 1/3  what is left of it fills no update here and is left out" in capsys.readouterr().err
    assert torch.load(max((tmp_path / "states" / "model").glob("*.pt")))["position"]["epoch"] == EPOCHS


@pytest.mark.parametrize(("before", "after"), [(2, 4), (2, 1), (4, 2)])
def test_another_batch_size_trains_the_same_updates(tmp_path, capsys, before, after):
    """The effective batch is 4: of how many batches it is made up may change."""
    whole = Noted()
    run(tmp_path / "whole", whole)
    first = stopped_after(tmp_path, 12 // before, batch_size=before)
    second = Noted()
    run(tmp_path, second, batch_size=after)

    def updates(batches: list[list[int]]) -> list[list[int]]:
        ids = [id for batch in batches for id in batch]
        return [ids[start : start + 4] for start in range(0, len(ids), 4)]

    assert updates(first) + updates(second.ids) == updates(whole.ids)
    assert {len(batch) for batch in second.ids} == {after}
    assert f"going on in epoch 1, after sample 12; batch_size: {before} -> {after}\n" in capsys.readouterr().err


def test_the_schedule_keeps_its_place_when_updates_become_fewer(tmp_path):
    """Twice as many samples an update, half the updates: the rate follows the epochs."""
    rates: dict[float, float] = {}
    plain = run_with_rates(tmp_path / "plain", rates, 2)
    assert plain == 33
    stop = StopRequest()
    with pytest.raises(Stopped), stop.listening():
        run(tmp_path, Noted(lambda now: os.kill(os.getpid(), signal.SIGTERM) if now == 11 else None), stop=stop,
            effective_batch=2)  # fmt: skip
    faster: dict[float, float] = {}
    run_with_rates(tmp_path, faster, 4)
    assert max(faster) == max(rates) == 3
    for epochs in (2.0, 3.0):
        assert faster[epochs] == pytest.approx(rates[epochs], rel=0.02)


def run_with_rates(folder, rates: dict[float, float], effective_batch: int) -> int:
    """Notes the learning rate at the end of every epoch; says how many updates were made."""
    updates = 0

    class Log(RunLog):
        def write(self, event: str, **values) -> None:
            nonlocal updates
            if event == "epoch":
                rates[values["epoch"]], updates = values["lr"], values["update"]

    torch.manual_seed(5)
    Trainer(
        "model",
        nn.Linear(12, 3),
        Noted(),
        lambda *_: train_loader(load, SAMPLES, LoadingOptions(num_workers=0), 2, 1),
        TrainOptions(
            batch_size=2,
            effective_batch=effective_batch,
            optim={"name": "adamw", "lr": 0.01},
            schedule={"name": "cosine", "epochs": EPOCHS, "warmup_epochs": 1},
        ),
        RunOptions(dir=folder),
        device=torch.device("cpu"),
        normalizer=Normalizer((0.5,) * 3, (0.5,) * 3),
        log=Log(folder / "log.jsonl"),
    ).train()
    return updates


def test_effective_batch_counts_all_processes():
    options = TrainOptions(batch_size=4, effective_batch=16)
    assert [options.accumulate_over(ranks) for ranks in (1, 2, 4)] == [4, 2, 1]
    assert TrainOptions(batch_size=4).accumulate_over(8) == 1
    with pytest.raises(ValueError, match="16 is not a multiple of 12, which is batch_size 4 times 3 processes"):
        options.accumulate_over(3)


def test_backends_that_do_not_fit_the_processes_are_refused(tmp_path):
    for backend, context, message in (
        ("local", DistributedContext(0, 2, 0), "local, which is one process, but 2 were started"),
        ("replicas", DistributedContext(), "wants several processes, and this is one"),
    ):
        with pytest.raises(UserError, match=message):
            run(tmp_path, parallel=ParallelOptions(backend=backend), context=context)


def test_ledgers_of_all_processes_become_one():
    one, two = BrokenFiles(20), BrokenFiles(20)
    one.record([0, 1], [Failure(2, "2.png", "is empty")])
    two.record([1, 9], [Failure(2, "2.png", "is empty"), Failure(19, "19.png", "is empty")])
    one.merge([one.state_dict(), two.state_dict()])
    assert (one.num_seen, one.num_broken) == (5, 2)
    two.merge([one.state_dict()])
    assert two.state_dict() == {**one.state_dict(), "failures": two.state_dict()["failures"]}


def test_figures_over_all_processes():
    """Two processes with a grid each, on the same samples: names side by side, samples counted once."""

    class Both(DistributedContext):
        def gather(self, value):
            other = Meter({"3x3": (4.0, 2)}, 2, 8, 5.0, 3.0, 1e6)
            return [value, other]

    mine = Meter({"6x6": (6.0, 2)}, 2, 8, 4.0, 1.0)
    over = mine.over(Both(0, 2), num_data_ranks=1)
    assert over.means() == {"6x6": 3.0, "3x3": 2.0}
    assert (over.per_second, over.data_seconds, over.memory_mb) == (8 / 5, 2.0, 1e6)
    assert mine.over(Both(0, 2), num_data_ranks=2).per_second == 16 / 5
    assert over.facts(10)["seconds_left"] == 25


def test_shares_of_an_evaluation_are_disjoint_and_whole():
    read = []
    for rank in range(3):
        loader = eval_loader(load, SAMPLES, LoadingOptions(num_workers=0), 4, rank=rank, num_ranks=3)
        read += [id for batch in loader for id in batch.ids.tolist()]
    assert sorted(read) == list(range(NUM_SAMPLES))
