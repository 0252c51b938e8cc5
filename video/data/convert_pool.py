"""Processes that convert side by side; one that crashes or hangs costs its file and nothing else."""

from __future__ import annotations

import contextlib
import multiprocessing
import time
from collections.abc import Iterable, Iterator
from multiprocessing.connection import Connection, wait
from typing import Any

from revit.common.system.errors import UserError
from revit.common.system.processes import in_lasting_thread
from revit.video.data.convert_records import Record
from revit.video.data.convert_worker import Broken, Fatal, Job, serve

PATIENCE = 120.0
"""Seconds without a frame, after which a process is taken to hang."""


def convert_all(
    jobs: Iterable[Job], num_workers: int, patience: float = PATIENCE
) -> Iterator[tuple[Job, Record | Broken]]:
    """Every job with what became of it, in the order in which they are done. Ends its processes however it is left.

    Raises:
        UserError: nothing can be written any more.
    """
    waiting = iter(jobs)
    workers: list[_Worker] = []
    try:
        for job in waiting:
            workers.append(_Worker(job))
            if len(workers) == num_workers:
                break
        while workers:
            wait([worker.pipe for worker in workers], timeout=1.0)
            for worker in list(workers):
                answer = worker.answer(patience)
                if answer is None:
                    continue
                if isinstance(answer, Fatal):
                    raise UserError(f"{answer.message}; the same command goes on once that is put right")
                yield worker.job, answer
                following = next(waiting, None)
                if following is None or not worker.alive:
                    workers.remove(worker)
                    worker.end()
                    if following is not None:
                        workers.append(_Worker(following))
                else:
                    worker.begin(following)
    finally:
        for worker in workers:
            worker.end()


class _Worker:
    """One process and the job that it is at."""

    def __init__(self, job: Job) -> None:
        # Not fork: the caller may have started threads, which a forked child cannot survive.
        context: Any = multiprocessing.get_context("spawn")
        self.pipe: Connection
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=serve, args=(other,), daemon=True)
        in_lasting_thread(self.process.start)
        other.close()
        self.alive = True
        self.begin(job)

    def begin(self, job: Job) -> None:
        self.job = job
        self.heard = time.monotonic()
        with contextlib.suppress(ConnectionError):  # it died: `answer` finds out
            self.pipe.send(job)

    def answer(self, patience: float) -> Record | Broken | Fatal | None:
        """What became of the job; None: it is still at it."""
        try:
            while self.pipe.poll():
                self.heard = time.monotonic()
                if (answer := self.pipe.recv()) is not None:
                    return answer
        except (EOFError, ConnectionError):
            self.alive = False
            self.process.join()
            return Broken(f"converting it crashed the decoder or encoder (exit {self.process.exitcode})")
        if time.monotonic() - self.heard > patience:
            self.alive = False
            return Broken(f"converting it made no progress for {patience:g} s and was given up")
        return None

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()
