"""Measurements of many untrained networks, spread over processes and kept in a file, so that none is done twice.

Search and growth are functions of what is measured. Started again after any interruption they run from their beginning
through what the file knows, in no time, and go on to the same result.
"""

from __future__ import annotations

import hashlib
import json
import math
import multiprocessing
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from revit.common.system.errors import UserError, reason_of
from revit.common.system.files import write_text
from revit.common.system.processes import end_with_parent
from revit.image.models.asvit import AsViT
from revit.image.models.genotype import Genotype
from revit.image.search.complexity import Circle, condition, curve_of, ntk, thetas_of
from revit.image.search.options import MeasureOptions


def seed_of(*parts: object) -> int:
    """Return a seed that belongs to these parts and to no others."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:7], "little")


@dataclass(frozen=True)
class Measurer:
    """Measures untrained networks: one repeat is one drawn network and one number.

    The result depends on the fields, the genotype, the seed and the repeat, and on nothing that was measured before.
    """

    options: MeasureOptions
    images: Tensor
    """Normalised pictures (B, C, H, W) of the NTK. Their size is that of the circle."""

    def complexity(self, genotype: Genotype, seed: int, repeat: int) -> float:
        """Return the complexity of one drawn network. A repeat's circle is the same for all genotypes."""
        options, shape = self.options, self.images.shape[1:]
        generator = torch.Generator().manual_seed(seed_of("circle", seed, repeat))
        circle = Circle.draw(shape, generator, options.radius, dtype=torch.float32)
        thetas = thetas_of(options.thetas, options.theta_grid).float()
        model = self.network(genotype, seed, repeat, "complexity")
        curve = curve_of(model, circle, thetas, second=options.complexity != "length")
        return curve.measure(options.complexity)

    def condition(self, genotype: Genotype, seed: int, repeat: int) -> float:
        """Return the condition of the NTK of one drawn network, another one than complexity's (published code)."""
        return condition(ntk(self.network(genotype, seed, repeat, "ntk"), self.images))

    def network(self, genotype: Genotype, seed: int, repeat: int, purpose: str) -> AsViT:
        """Draw the network that belongs to all this. It has no head: nothing here asks for logits."""
        own = (seed, repeat, purpose, str(genotype))
        stem = (seed, str(genotype)) if self.options.redraw == "linear" else own
        height, width = self.images.shape[-2:]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of("stem", *stem))
            model = AsViT(genotype, (height, width), num_classes=0, in_chans=self.images.shape[1])
            torch.manual_seed(seed_of("linear", *own))
            model.init_weights()
        return model.train()

    def fingerprint(self) -> dict[str, Any]:
        """Return what makes measurements comparable, as JSON values."""
        pictures = hashlib.sha256(self.images.numpy().tobytes()).hexdigest()[:16]
        shape = list(self.images.shape[1:])
        return {**self.options.model_dump(mode="json"), "input": shape, "seen": pictures}


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
        """True where a measure is missing."""
        return not (math.isfinite(self.complexity) and math.isfinite(self.condition))

    def record(self) -> dict[str, float | None]:
        """Return both means as JSON values, null where one is missing."""
        if self.failed:
            return {"complexity": None, "condition": None}
        return {"complexity": self.complexity, "condition": self.condition}


class OutOfBudget(Exception):
    """There is no time for the measurements asked for."""


Evaluate = Callable[[Sequence[Genotype], int], "list[Measured]"]
"""Measures genotypes with the networks of a seed."""
Piece = tuple[str, Genotype, int, int]
"""Work for one process: a method of `Measurer` and its arguments."""


class Evaluations:
    """Measures genotypes and remembers. Use as a context manager: it holds processes.

    num_workers: processes with one compute thread each; 0: this process, with one thread. Repeats, and the two measures,
    are separate pieces of work, so that one genotype alone keeps several processes busy; results are put together in the
    order of the repeats.
    """

    def __init__(self, measurer: Measurer, file: Path, num_workers: int = 0) -> None:
        self.measurer = measurer
        self.file = file
        self.num_workers = num_workers
        self._deadline = math.inf
        self._known = self._read()
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Evaluations:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None

    def __call__(self, genotypes: Sequence[Genotype], seed: int) -> list[Measured]:
        """Measure each genotype. UserError if a process dies; OutOfBudget."""
        names = [f"{genotype} seed {seed}" for genotype in genotypes]
        missing = {name: one for name, one in zip(names, genotypes) if name not in self._known}
        if missing and self._time_is_up():
            raise OutOfBudget
        for name, measured in self._measure(missing, seed):
            self._append({"of": name, "complexity": measured.complexities, "ntk": measured.conditions})
            self._known[name] = measured
            if self._time_is_up() and any(other not in self._known for other in missing):
                raise OutOfBudget
        return [self._known[name] for name in names]

    @contextmanager
    def within(self, minutes: float | None) -> Iterator[None]:
        """Raise OutOfBudget inside, between two genotypes, once the minutes have passed."""
        self._deadline = math.inf if minutes is None else time.monotonic() + 60 * minutes
        try:
            yield
        finally:
            self._deadline = math.inf

    def _time_is_up(self) -> bool:
        return time.monotonic() >= self._deadline

    def _measure(self, missing: dict[str, Genotype], seed: int) -> Iterator[tuple[str, Measured]]:
        repeats = self.measurer.options.repeats
        pieces = [
            (kind, genotype, seed, repeat)
            for genotype in missing.values()
            for kind in ("condition", "complexity")  # the longer one first
            for repeat in range(repeats)
        ]
        if self.num_workers and pieces and self._pool is None:
            # Spawned: a fork would copy the threads' locks, not the threads.
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self.num_workers, context, _begin, (self.measurer,))
        here = partial(_measure_here, self.measurer)
        try:
            numbers = map(here, pieces) if self._pool is None else self._pool.map(_measure_in_worker, pieces)
            for name in missing:
                conditions, complexities = (tuple(islice(numbers, repeats)) for _ in range(2))
                yield name, Measured(complexities, conditions)
        except BrokenProcessPool as error:
            raise UserError(
                "a process that measures networks was killed, for want of memory perhaps; lower run.num_workers. The same "
                "command goes on with what is measured"
            ) from error

    # -- the file ----------------------------------------------------------------------------------------------------

    def _read(self) -> dict[str, Measured]:
        """Read the known measurements; drop a last line that was cut off by the end of a process."""
        header = {"measures": 1, **self.measurer.fingerprint()}
        try:
            text = self.file.read_text(encoding="utf-8") if self.file.exists() else ""
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{self.file}: cannot be read ({reason_of(error)}); remove it") from error
        whole, _, rest = text.rpartition("\n")
        if not whole:
            write_text(self.file, json.dumps(header) + "\n")
            return {}
        try:
            found, *lines = [json.loads(line) for line in whole.splitlines()]
            if not isinstance(found, dict) or "measures" not in found:
                raise ValueError("no first line")
            known = {
                line["of"]: Measured(tuple(map(float, line["complexity"])), tuple(map(float, line["ntk"])))
                for line in lines
            }
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{self.file}: is no file of measurements, or damaged; remove it or set run.resume=never"
            ) from error
        if found != header:
            names = sorted(key for key in header.keys() | found.keys() if header.get(key) != found.get(key))
            raise UserError(
                f"{self.file}: was measured with another {', '.join(names)}; choose another run.dir, or set "
                "run.resume=never to measure again"
            )
        if rest:
            write_text(self.file, whole + "\n")
        return known

    def _append(self, line: dict[str, Any]) -> None:
        # JSON has no numbers that are not finite: they are written as text.
        for key in ("complexity", "ntk"):
            line[key] = [number if math.isfinite(number) else str(number) for number in line[key]]
        try:
            with self.file.open("ab", buffering=0) as file:
                file.write(json.dumps(line).encode() + b"\n")
        except OSError as error:
            raise UserError(f"{self.file}: cannot be written ({reason_of(error)}); the same command goes on") from error


_measurer: Measurer
"""The measurer of a worker process."""


def _begin(measurer: Measurer) -> None:
    """Start a worker: deaf to Ctrl-C (which means the main process), gone when its parent is."""
    global _measurer
    _measurer = measurer
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()


def _measure_in_worker(piece: Piece) -> float:
    return _measure_here(_measurer, piece)


def _measure_here(measurer: Measurer, piece: Piece) -> float:
    kind, genotype, seed, repeat = piece
    with one_thread():
        return getattr(measurer, kind)(genotype, seed, repeat)


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute with one thread inside: sums in the same order, whatever the machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
