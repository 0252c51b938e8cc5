"""Measurements of many genotypes, spread over processes and kept in a file, so that none is done twice.

Search and growth are functions of what is measured. Started again after any interruption they run from their beginning
through what the file knows, in no time, and go on to the same result.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import torch

from revit.common.system.errors import UserError, reason_of
from revit.common.system.files import write_text
from revit.image.models.genotype import Genotype
from revit.image.search.measure import Measurer


@dataclass(frozen=True)
class Measured:
    """Both measures of a genotype, one value for each repeat; not finite where the network has none."""

    complexities: tuple[float, ...]
    conditions: tuple[float, ...]

    @property
    def complexity(self) -> float:
        """Mean over the repeats."""
        return fmean(self.complexities)

    @property
    def condition(self) -> float:
        """Mean over the repeats."""
        return fmean(self.conditions)

    @property
    def failed(self) -> bool:
        """Whether a measure is missing."""
        return not (math.isfinite(self.complexity) and math.isfinite(self.condition))


class OutOfBudget(Exception):
    """There is no time for the measurements asked for."""


Evaluate = Callable[[Sequence[Genotype], int], "list[Measured]"]
"""(genotypes, seed) -> what is measured of each."""


class Evaluations:
    """Measures genotypes and remembers. Use as a context manager: it holds processes.

    num_workers: processes with one compute thread each; 0: this process, with one thread. Repeats, and the two measures,
    are separate pieces of work, so that one genotype alone keeps several processes busy; results are put together in the
    order of the repeats.  hurry: asked between genotypes whether there is no more time, which raises OutOfBudget.
    """

    def __init__(self, measurer: Measurer, file: Path, num_workers: int = 0) -> None:
        self.measurer = measurer
        self.file = file
        self.num_workers = num_workers
        self.hurry: Callable[[], bool] = lambda: False
        self._known = self._read()
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Evaluations:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None

    def __call__(self, genotypes: Sequence[Genotype], seed: int) -> list[Measured]:
        """What is measured of each. UserError if a process dies; OutOfBudget."""
        names = [_key(genotype, seed) for genotype in genotypes]
        missing = {name: one for name, one in zip(names, genotypes) if name not in self._known}
        if missing and self.hurry():
            raise OutOfBudget
        work = self._in_processes if self.num_workers else self._here
        for name, measured in work(missing, seed):
            self._append({"of": name, "complexity": measured.complexities, "ntk": measured.conditions})
            self._known[name] = measured
            if self.hurry() and any(other not in self._known for other in missing):
                raise OutOfBudget
        return [self._known[name] for name in names]

    # -- measuring ---------------------------------------------------------------------------------------------------

    def _here(self, missing: dict[str, Genotype], seed: int) -> Iterator[tuple[str, Measured]]:
        repeats = range(self.measurer.options.repeats)
        for name, genotype in missing.items():
            with one_thread():
                complexities = tuple(self.measurer.complexity(genotype, seed, repeat) for repeat in repeats)
                conditions = tuple(self.measurer.condition(genotype, seed, repeat) for repeat in repeats)
            yield name, Measured(complexities, conditions)

    def _in_processes(self, missing: dict[str, Genotype], seed: int) -> Iterator[tuple[str, Measured]]:
        if not missing:
            return
        if self._pool is None:
            # Spawned: a fork would copy the threads' locks, not the threads.
            spawned = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self.num_workers, spawned, _begin, (self.measurer,))
        repeats = range(self.measurer.options.repeats)
        waiting: dict[str, dict[Kind, list[Future[float]]]] = {}
        try:
            for name, genotype in missing.items():
                waiting[name] = {
                    kind: [self._pool.submit(_measure, kind, genotype, seed, repeat) for repeat in repeats]
                    for kind in KINDS
                }
            for name, futures in waiting.items():
                done = {kind: tuple(future.result() for future in futures[kind]) for kind in KINDS}
                yield name, Measured(done["complexity"], done["condition"])
        except BrokenProcessPool as error:
            raise UserError(
                "a process that measures networks was killed, for want of memory perhaps; lower run.num_workers. The same "
                "command goes on with what is measured"
            ) from error
        finally:
            for futures in waiting.values():
                for future in (*futures["complexity"], *futures["condition"]):
                    future.cancel()

    # -- the file ----------------------------------------------------------------------------------------------------

    def _read(self) -> dict[str, Measured]:
        """What the file knows; a last line that was cut off by the end of a process is taken away."""
        first = {"measures": 1, **self.measurer.fingerprint()}
        try:
            text = self.file.read_text(encoding="utf-8") if self.file.exists() else ""
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{self.file}: cannot be read ({reason_of(error)}); remove it") from error
        whole, _, rest = text.rpartition("\n")
        if not whole:
            write_text(self.file, json.dumps(first) + "\n")
            return {}
        try:
            found, *lines = [json.loads(line) for line in whole.splitlines()]
            if not isinstance(found, dict) or "measures" not in found:
                raise ValueError("no first line")
            if found == first:
                known = {line["of"]: _from_line(line) for line in lines}
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{self.file}: is no file of measurements, or damaged; remove it or set run.resume=never"
            ) from error
        if found != first:
            names = sorted(key for key in first.keys() | found.keys() if first.get(key) != found.get(key))
            raise UserError(
                f"{self.file}: was measured with another {', '.join(names)}; choose another run.dir, or set "
                "run.resume=never to measure again"
            )
        if rest:
            write_text(self.file, whole + "\n")
        return known

    def _append(self, line: dict[str, Any]) -> None:
        encoded = json.dumps(
            {
                key: [_to_json(number) for number in value] if isinstance(value, tuple) else value
                for key, value in line.items()
            }
        )
        try:
            with self.file.open("ab", buffering=0) as file:
                file.write(encoded.encode() + b"\n")
        except OSError as error:
            raise UserError(
                f"{self.file}: cannot be written ({reason_of(error)}); the same command goes on"
            ) from error


Kind = Literal["complexity", "condition"]
KINDS: tuple[Kind, ...] = ("condition", "complexity")  # the longer one first

_measurer: Measurer | None = None
"""A worker's own."""


def _begin(measurer: Measurer) -> None:
    """Starts a worker: one compute thread, deaf to Ctrl-C (which means the main process), gone when its parent is."""
    global _measurer
    _measurer = measurer
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A parent that was killed closes no queue: its workers would wait for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _measure(kind: Kind, genotype: Genotype, seed: int, repeat: int) -> float:
    assert _measurer is not None
    return getattr(_measurer, kind)(genotype, seed, repeat)


@contextmanager
def one_thread() -> Iterator[None]:
    """Inside, one compute thread: sums in the same order as in a worker."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _key(genotype: Genotype, seed: int) -> str:
    return f"{genotype} seed {seed}"


def _to_json(number: float) -> float | str:
    return number if math.isfinite(number) else str(number)


def _from_line(line: dict[str, Any]) -> Measured:
    complexities, conditions = (tuple(float(number) for number in line[key]) for key in ("complexity", "ntk"))
    return Measured(complexities, conditions)
