"""Training that is killed or asked to end, and goes on: nothing is trained twice and nothing skipped."""

from __future__ import annotations

import os
import random
import signal
import time

import pytest
import torch
from noted_training import SAMPLES, Noted, load, run, same

from revit.common.data.build import train_loader
from revit.common.data.options import LoadingOptions
from revit.common.system import processes
from revit.common.system.errors import Stopped
from revit.common.system.processes import StopRequest


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
    with pytest.raises(Stopped, match=f"stopped by {number.name}: model is saved (in|after) epoch"), stop.listening():
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
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_asked_again_it_ends_now_and_goes_on_from_the_last_state(tmp_path, whole, number, monkeypatch, capfd):
    monkeypatch.setattr(processes, "PASSED_ON_S", 0.05)
    stop, moments = StopRequest(), []

    def ask(now: int) -> None:
        if now == 7:
            for wait in (0, 0, 0.1):  # a launcher passes the first on; the third is the user's second
                time.sleep(wait)
                moments.append(now)
                os.kill(os.getpid(), number)

    with pytest.raises(Stopped, match=f"stopped by {number.name}: at once; .* saved so far are kept"), stop.listening():
        run(tmp_path, Noted(ask), stop=stop)
    said = [line for line in capfd.readouterr().err.splitlines() if "stopping" in line]
    assert said == [f"{number.name}: stopping after this update; again to stop now"]
    assert len(moments) == 3
    assert max(tmp_path.rglob("*.pt")).name == "update-00000003.pt"  # of the seventh batch nothing
    assert same(run(tmp_path), whole)


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
