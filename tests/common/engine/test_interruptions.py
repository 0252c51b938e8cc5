"""Training that is killed, asked to end, or goes on with other processes: nothing is trained twice and nothing skipped."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter

import pytest
import torch
from torch import nn

from revit.common.data.batch import Batch
from revit.common.data.broken import BrokenFiles, Failure
from revit.common.data.build import eval_loader, train_loader
from revit.common.data.dataset import Sample
from revit.common.data.lists import SampleList
from revit.common.data.options import LoadingOptions
from revit.common.engine.distributed import World
from revit.common.engine.log import RunLog
from revit.common.engine.meter import Meter
from revit.common.engine.options import EngineOptions, RunOptions, TrainOptions
from revit.common.engine.stop import StopRequest
from revit.common.engine.training import train
from revit.common.errors import Stopped, UserError
from revit.common.layers.pixels import PixelNorm

NUM_SAMPLES, EPOCHS = 22, 3
SAMPLES = SampleList.build([(f"{number}.png", 0) for number in range(NUM_SAMPLES)], None, "list")


def load(index: int, generator: torch.Generator) -> Sample:
    return Sample(torch.randint(256, (1, 3, 2, 2), dtype=torch.uint8, generator=generator), index % 3)


class Noted:
    """A task that notes what it trains on and may be interrupted by it; dropout makes it depend on random states."""

    def __init__(self, interrupt=lambda number: None) -> None:
        self.ids: list[list[int]] = []
        self.interrupt = interrupt

    def begin(self, progress):
        """Nothing to prepare."""

    def losses(self, model: nn.Module, inputs: torch.Tensor, batch: Batch):
        self.ids.append(batch.ids.tolist())
        self.interrupt(len(self.ids))
        dropped = nn.functional.dropout(inputs.flatten(1), 0.3)
        yield "loss", nn.functional.cross_entropy(model(dropped), batch.targets)


def run(folder, task=None, *, ranks=1, rank=0, batch_size=2, stop=None, network=None, **more):
    """The weights after training, as one of `ranks` that read different samples."""
    torch.manual_seed(5)
    network = network or nn.Linear(12, 3)
    options = TrainOptions(
        batch_size=batch_size,
        effective_batch=more.pop("effective_batch", 4),
        optim={"name": "adamw", "lr": 0.01},
        schedule={"name": "cosine", "epochs": EPOCHS, "warmup_epochs": 1},
    )
    return train(
        "model",
        network,
        task or Noted(),
        lambda *_: train_loader(
            load, SAMPLES, LoadingOptions(num_workers=0), batch_size, 1, rank=rank, num_ranks=ranks
        ),
        options,
        RunOptions(dir=folder, save_every=1, keep_states=3),
        device=torch.device("cpu"),
        pixels=PixelNorm((0.5,) * 3, (0.5,) * 3),
        log=RunLog(folder / "log.jsonl"),
        stop=stop,
        **more,
    )["model"]


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(weight, two[name]) for name, weight in one.items())


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What an undisturbed training comes to."""
    return run(tmp_path_factory.mktemp("whole"))


def killed_after(seconds: float, folder) -> int:
    """Trains in a process of its own that is killed after a while, unless it was faster; its exit status."""
    child = os.fork()
    if child == 0:
        torch.set_num_threads(1)
        signal.setitimer(signal.ITIMER_REAL, 60)  # never left behind
        # Slow enough that every moment below lies within the first training, on any machine.
        torch.save(run(folder, Noted(lambda number: time.sleep(0.03))), folder / "trained.pt")
        os._exit(0)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return status
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1]


@pytest.mark.parametrize("seed", range(2))
def test_killed_at_ten_random_moments_it_ends_with_the_same_weights(tmp_path, whole, seed):
    moments = random.Random(seed)
    statuses = [killed_after(moments.uniform(0.01, 0.4), tmp_path) for _ in range(10)]
    assert statuses[0] == signal.SIGKILL  # later ones may find the training done
    assert killed_after(60, tmp_path) == 0
    assert same(torch.load(tmp_path / "trained.pt"), whole)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("batch", [1, 2, 7, 10, 25])
def test_asked_to_end_it_finishes_the_update_and_goes_on_later(tmp_path, whole, number, batch):
    stop, first = StopRequest(), Noted(lambda now: os.kill(os.getpid(), number) if now == batch else None)
    with pytest.raises(Stopped, match=f"stopped by {number.name}: model is saved at epoch"), stop.listening():
        run(tmp_path, first, stop=stop)
    second = Noted()
    assert same(run(tmp_path, second), whole)
    assert len(first.ids) % 2 == 0  # whole updates
    undisturbed = Noted()
    run(tmp_path / "undisturbed", undisturbed)
    assert first.ids + second.ids == undisturbed.ids


def test_outside_of_training_a_request_ends_at_once(tmp_path):
    stop = StopRequest()
    with pytest.raises(Stopped, match="finished stages and saved states are kept"), stop.listening():
        os.kill(os.getpid(), signal.SIGTERM)
    stop = StopRequest()
    with stop.listening(), stop.waiting():
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.asked == "SIGINT"
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_what_follows_an_epoch_is_made_up_for(tmp_path):
    """Asked to end while the model is evaluated between epochs: the same evaluation comes first the next time."""
    seen, stop = [], StopRequest()

    def watch(epoch: int) -> None:
        if epoch == 2 and stop.asked is None:
            os.kill(os.getpid(), signal.SIGTERM)
        seen.append(epoch)

    with pytest.raises(Stopped), stop.listening():
        run(tmp_path, stop=stop, watch=lambda network: watch)
    assert seen == [1]
    run(tmp_path, watch=lambda network: watch)
    assert seen == [1, 2, 3]
    run(tmp_path, watch=lambda network: watch)
    assert seen == [1, 2, 3]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_loading_workers_leave_the_signal_to_the_run(number):
    loader = train_loader(load, SAMPLES, LoadingOptions(num_workers=2), 2, 1)
    undisturbed = [batch.ids.tolist() for batch in loader]
    found = []
    for batch in loader:
        if not found:
            for worker in loader._loader._iterator._workers:
                os.kill(worker.pid, number)
        found.append(batch.ids.tolist())
    assert found == undisturbed


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
    train(
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
        pixels=PixelNorm((0.5,) * 3, (0.5,) * 3),
        log=Log(folder / "log.jsonl"),
    )
    return updates


def test_effective_batch_counts_all_processes():
    options = TrainOptions(batch_size=4, effective_batch=16)
    assert [options.accumulate_over(ranks) for ranks in (1, 2, 4)] == [4, 2, 1]
    assert TrainOptions(batch_size=4).accumulate_over(8) == 1
    with pytest.raises(
        ValueError, match="16 is not a multiple of 12, which is batch_size 4 times 3 processes"
    ):
        options.accumulate_over(3)


def test_backends_that_do_not_fit_the_processes_are_refused(tmp_path):
    for backend, world, message in (
        ("local", World(0, 2, 0), "local, which is one process, but 2 were started"),
        ("replicas", World(), "wants several processes, and this is one"),
    ):
        with pytest.raises(UserError, match=message):
            run(tmp_path, engine=EngineOptions(backend=backend), world=world)


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

    class Both(World):
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
