"""The processes of one training, forked from one process that has the libraries: to start Python and to import them once
for each takes longer than what the tests train.

That process lives as long as the tests' own, imports before anything else runs in it, and has no threads. Launchers, which
start Python anew, are tested in tests/tools/test_several_processes.py.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
import time
from collections.abc import Callable, Mapping
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import torch

LIBRARIES = [
    "deepspeed",
    "torch._inductor.compile_fx",  # DeepSpeed imports it only when it is given an optimiser
    "revit.common.training.parallel.deepspeed_backend",
    "revit.common.training.recipe",
    "revit.image.modality",
    "revit.video.modality",
]
ONE_THREAD = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}
OF_A_LAUNCHER = ("SLURM_", "MASTER_", "RANK", "LOCAL_", "WORLD_SIZE")


def run_ranks(
    size: int, work: Callable[..., int | None], *arguments: Any, folder: Path, timeout_s: float = 300
) -> None:
    """Calls `work(*arguments)` in `size` processes, with the variables that torchrun sets.

    `work` is a function of a module. AssertionError with what the processes said (in `folder`) if one fails, returns a
    status other than 0, or is not done in time.
    """
    start_server()
    context = multiprocessing.get_context("forkserver")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(OF_A_LAUNCHER)}
    inherited |= ONE_THREAD | {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "WORLD_SIZE": str(size),
        "LOCAL_WORLD_SIZE": str(size),
    }
    said = [folder / f"said by rank {rank} of {size}.txt" for rank in range(size)]
    processes = [
        context.Process(
            target=_rank, args=(inherited | {"RANK": str(rank), "LOCAL_RANK": str(rank)}, path, work, arguments)
        )
        for rank, path in enumerate(said)
    ]
    try:
        for process in processes:
            process.start()
        ends = time.monotonic() + timeout_s
        while any(process.is_alive() for process in processes) and time.monotonic() < ends:
            if any(process.exitcode for process in processes):
                # The others wait for it.
                ends = min(ends, time.monotonic() + 20)
            time.sleep(0.02)
        statuses = [process.exitcode for process in processes]
    finally:
        for process in processes:
            if process.pid is not None:
                process.kill()
                process.join()
    assert statuses == [0] * size, (statuses, *(path.read_text()[-3000:] for path in said if path.exists()))


def start_server() -> None:
    """Imports what `run_ranks` and any other start by Python's method "forkserver" forks from, if that was not done yet."""
    if getattr(forkserver._forkserver, "_forkserver_pid", None) is not None:
        return
    multiprocessing.get_context("forkserver").set_forkserver_preload(LIBRARIES)
    before = dict(os.environ)
    os.environ |= ONE_THREAD
    try:
        forkserver.ensure_running()
    finally:
        os.environ.clear()
        os.environ |= before


def _rank(environment: Mapping[str, str], said: Path, work: Callable[..., int | None], arguments: Any) -> None:
    os.environ.clear()
    os.environ.update(environment)
    with said.open("w") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    torch.set_num_threads(1)
    sys.exit(work(*arguments))


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
