"""Started by test_killed_processes.py: trainings of two processes that are killed, gone on with, and killed again.

Starting Python and its libraries would take longer than training, so this process has them and forks: every attempt
is a group of two processes with a meeting place of their own.

    python killed_runs.py FOLDER
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import random
import select
import signal
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from killed_training import CPU, EPOCHS, PROCESSES, groups_of, one_process
from torch import Tensor

from revit.common.training.parallel.deepspeed_config import import_deepspeed

ENGINES: dict[str, dict[str, Any]] = {
    "zero 1": {"backend": "deepspeed", "zero_stage": 1},
    "zero 3": {"backend": "deepspeed", "zero_stage": 3},
    "replicas": {"backend": "replicas"},
}
KILLS = 10
WRITING = (2, 5, 8)
"""Of the kills those that wait for a state to be half written."""
COMPILER = "torch._inductor.compile_fx"
"""Half of what DeepSpeed imports only when it is given an optimiser, and every attempt would again."""


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class Attempt:
    """The processes of one attempt, started and watched."""

    def __init__(self, folder: Path, parallel: dict[str, Any], number: int, hangs_at: int = 0) -> None:
        self.events, watcher = os.pipe()
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(PROCESSES)}
        self.children = []
        for rank in range(PROCESSES):
            child = os.fork()
            if child == 0:
                status = 1
                try:
                    os.environ |= {**place, "RANK": str(rank), "LOCAL_RANK": str(rank)}
                    signal.alarm(120)  # never left behind
                    one_process(folder, parallel, number, watcher, hangs_at)
                    status = 0
                except BaseException as error:
                    print(f"{folder.name}, attempt {number}, rank {rank}: {error!r}", file=sys.stderr, flush=True)
                os._exit(status)
            self.children.append(child)
        os.close(watcher)

    def wait_for(self, event: bytes, count: int) -> None:
        """Until rank 0 or 1 told so often of batches ("b") or half-written states ("w"), or all ended."""
        while count > 0:
            ready, _, _ = select.select([self.events], [], [], 120)
            told = os.read(self.events, 1) if ready else b""
            if not told:
                return
            count -= told == event

    def kill(self) -> None:
        """All at once, as a machine dies."""
        for child in self.children:
            os.kill(child, signal.SIGKILL)

    def statuses(self) -> list[int]:
        """How the processes ended."""
        found = [os.waitpid(child, 0)[1] for child in self.children]
        os.close(self.events)
        return found


class Trained(NamedTuple):
    """What a training left behind."""

    updates: list[list[list[list[int]]]]
    """Update -> rank -> its batches -> sample ids, of those updates that led to the weights."""
    weights: Any
    state: Any


def lineage(folder: Path, attempts: int) -> list[list[list[list[int]]]]:
    """What each update that counts was trained on: an attempt takes the place of all that came after where it began.

    ValueError if an attempt begins behind the end of those before it, or a rank knows another update than the others.
    """
    updates: list[list[list[list[int]]]] = []
    for attempt in range(attempts):
        ranks: list[dict[int, list[list[int]]]] = []
        for rank in range(PROCESSES):
            path = folder / f"notes-{attempt}-{rank}"
            noted: dict[int, list[list[int]]] = {}
            for line in path.read_text().splitlines() if path.exists() else ():
                update, ids = json.loads(line)
                noted.setdefault(update, []).append(ids)
            ranks.append(noted)
        begun = sorted(set().union(*ranks))
        if begun and begun[0] > len(updates):
            raise ValueError(f"attempt {attempt} skips from update {len(updates)} to {begun[0]}")
        if begun:
            del updates[begun[0] :]
            updates += [[noted.get(update, []) for noted in ranks] for update in begun]
    return updates


def left_by(folder: Path, attempts: int) -> Trained:
    newest = max((folder / "states" / "model").glob("*.pt"))
    return Trained(lineage(folder, attempts), torch.load(folder / "trained.pt"), torch.load(newest))


def same(one: Any, two: Any) -> bool:
    """Equal in every number, bit for bit."""
    if isinstance(one, Tensor):
        return torch.equal(one, two)
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(same(one[key], two[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(two) and all(map(same, one, two))
    return bool(one == two)


def epochs_of(updates: Sequence[list[list[list[int]]]], groups: int) -> list[list[int]]:
    """The samples of every epoch, sorted. Of a group, whose ranks read the same, those of the first rank."""
    per_epoch, ranks_per_group = len(updates) // EPOCHS, PROCESSES // groups
    return [
        sorted(
            id
            for ranks in updates[first : first + per_epoch]
            for batches in ranks[::ranks_per_group]
            for ids in batches
            for id in ids
        )
        for first in range(0, len(updates), per_epoch)
    ]


def killed_and_not(folder: Path, name: str, seed: int) -> dict[str, Any]:
    """A training that nobody disturbs, and one that is killed ten times: what is the same, and how it went."""
    parallel, moments = ENGINES[name], random.Random(seed)
    whole, killed = folder / f"{name} whole", folder / f"{name} killed"
    for one in (whole, killed):
        one.mkdir()
    undisturbed = Attempt(whole, parallel, 0).statuses()
    states, half_written, ended = killed / "states" / "model", 0, []
    for number in range(KILLS):
        hangs_at = moments.randint(1, 3) if number in WRITING else 0
        attempt = Attempt(killed, parallel, number, hangs_at)
        if number in WRITING:
            attempt.wait_for(b"w", hangs_at)
        else:
            attempt.wait_for(b"b", moments.randint(0, 12))
            time.sleep(moments.uniform(0, 0.02))
        attempt.kill()
        ended.append(attempt.statuses())
        half_written += any(states.glob("*.part"))
    finished = Attempt(killed, parallel, KILLS).statuses()
    one, other = left_by(whole, 1), left_by(killed, KILLS + 1)
    return {
        "statuses": {"undisturbed": undisturbed, "killed": ended, "finished": finished},
        "half written": half_written,
        "begun at": [
            json.loads(line)["epoch"] for line in (killed / "log.jsonl").read_text().splitlines() if "resumed" in line
        ],
        "same weights": same(one.weights, other.weights),
        "same state": all(
            same(one.state[key], other.state[key]) for key in ("backend", "average", "random", "schedule")
        ),
        "same batches": one.updates == other.updates,
        "same batches in a group": all(ranks[0] == ranks[-1] for ranks in other.updates) == (groups_of(parallel) == 1),
        "updates": len(other.updates),
        "epochs": epochs_of(other.updates, groups_of(parallel)),
    }


def main(folder: Path) -> None:
    import_deepspeed(CPU)
    importlib.import_module(COMPILER)
    gc.freeze()  # or every fork copies what the collector touches
    found = {name: killed_and_not(folder, name, seed) for seed, name in enumerate(ENGINES)}
    (folder / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
