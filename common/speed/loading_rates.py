"""Rates of decoding and loading: every decoder on the same files, every number of workers in turn."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from revit.common.data.batch import Batch
from revit.common.data.broken import BrokenSample
from revit.common.data.loader import Loader
from revit.common.modality.modality import Run
from revit.common.timing.clock import time_rounds

PREFETCH = 1
"""Batches that a worker of a loader reads ahead while others are measured: as few as there can be."""
SETTLE_SECONDS = 2.0
"""The longest wait for them."""
MOST_ROUNDS = 1000
"""Times that a decoder reads a file at most."""
CLEARLY = 1.03
"""Times as fast as the first decoder another one has to be."""


class Frames(Protocol):
    """Reads one file after the other with one decoder."""

    def read(self, path: str) -> NDArray[np.uint8]:
        """Return what a test reads of a file, before it is resized. Raises BrokenSample."""

    def sample(self, path: str) -> NDArray[np.uint8]:
        """Return frames from all over a file, to be compared with others' of the same. Raises BrokenSample."""

    def close(self) -> None:
        """Let go of whatever reading holds open."""


@dataclass(frozen=True)
class Decoders(Generic[Run]):
    """The decoders of one kind of files."""

    key: str
    """Key of the configuration, such as "data.loading.decoder"."""
    installed: Callable[[], Sequence[str]]
    """Their names."""
    open: Callable[[Run, str], Frames]
    """(run's options, name) -> a reader."""
    sample_plainly: Callable[[Run, str], NDArray[np.uint8]]
    """(run's options, path) -> frames that `Frames.sample` has to return: by a library alone, decoding the whole file."""
    remedy: str
    """Advice for where reading is the bottleneck."""


@dataclass
class DecoderRate:
    """One decoder on files that are whole."""

    name: str
    differs_on: list[str] = field(default_factory=list)
    """Files of which it returns other frames than a plain decode, or none."""
    milliseconds: dict[str, list[float]] = field(default_factory=dict)
    """Path -> every time it was read."""
    num_compared: int = 0
    """Files whose frames were compared."""

    @property
    def ms(self) -> float | None:
        """Mean over files, each with its median."""
        return statistics.mean(map(statistics.median, self.milliseconds.values())) if self.milliseconds else None


def best_decoder(rates: Sequence[DecoderRate]) -> str | None:
    """Return the fastest decoder of those that return the right frames; None where there is nothing to choose."""
    right = {one.name: one.ms for one in rates if not one.differs_on and one.ms is not None}
    first, best = next(iter(right), None), min(right, key=lambda name: right[name], default=None)
    if first is None or best is None:
        return None
    return best if right[first] > CLEARLY * right[best] else first


@dataclass(frozen=True)
class CheckedFiles:
    """Files of the sample."""

    good: tuple[str, ...]
    broken: dict[str, str]
    """Path -> reason."""


def check_files(paths: Sequence[str], read: Callable[[str], Any], seconds: float, at_least: int = 4) -> CheckedFiles:
    """Read one after the other until the time is over, but so many that can be read, if there are."""
    good: list[str] = []
    broken: dict[str, str] = {}
    end = time.perf_counter() + seconds
    for path in paths:
        if len(good) >= at_least and time.perf_counter() > end:
            break
        try:
            read(path)
        except BrokenSample as error:
            broken[path] = error.reason
        else:
            good.append(path)
    return CheckedFiles(tuple(good), broken)


def compare_decoders(decoders: Decoders[Run], options: Run, paths: Sequence[str], seconds: float) -> list[DecoderRate]:
    """Compare every decoder's frames of every file with those of a plain decode, then time the decoders in turn.

    Comparing takes half of the time, and one file in any case.
    """
    rates = [DecoderRate(name) for name in decoders.installed()]
    begin = time.perf_counter()
    with ExitStack() as opened:
        readers = [opened.enter_context(closing(decoders.open(options, rate.name))) for rate in rates]
        calls: dict[tuple[int, str], Callable[[], Any]] = {}
        for path in paths:
            try:
                expected = decoders.sample_plainly(options, path)
            except BrokenSample:  # damaged where a test does not read
                expected = None
            for number, (rate, reader) in enumerate(zip(rates, readers)):
                rate.num_compared += expected is not None
                try:
                    frames = reader.sample(path) if expected is not None else reader.read(path)
                    same = expected is None or np.array_equal(frames, expected)
                except BrokenSample:
                    same = False
                if same:
                    calls[number, path] = partial(reader.read, path)
                else:
                    rate.differs_on.append(path)
            if time.perf_counter() > begin + seconds / 2:
                break
        left = begin + seconds - time.perf_counter()
        times = time_rounds(calls, torch.device("cpu"), MOST_ROUNDS, seconds=left, fewest=1)
    for (number, path), taken in times.items():
        rates[number].milliseconds[path] = [1e3 * one for one in taken.clock]
    return rates


@dataclass
class Source:
    """A loader that goes on where its last turn ended."""

    loader: Loader
    workers: int
    rates: list[float] = field(default_factory=list)
    """Samples per second of each turn."""

    def __post_init__(self) -> None:
        self.batches = self._forever()

    def _forever(self) -> Generator[Batch, None, None]:
        while True:
            yield from self.loader

    def turn(self, seconds: float) -> None:
        """Measure for about so long; what was read ahead since the last turn is left out."""
        for _ in range(PREFETCH * self.workers):
            next(self.batches)
        begin, num, taken = time.perf_counter(), 0, 0.0
        while not num or taken < seconds:
            num += len(next(self.batches))
            taken = time.perf_counter() - begin
        self.rates.append(num / taken)
        if self.workers:  # they read ahead: not in the time of the next one
            ahead = PREFETCH * self.workers * self.loader.batch_size
            time.sleep(min(SETTLE_SECONDS, ahead / self.rates[-1]))

    def close(self) -> None:
        """End the workers. While an iteration holds them, not even the end of the program would."""
        self.batches.close()
        del self.loader

    @property
    def per_second(self) -> float:
        """Samples, in the median of the turns."""
        return statistics.median(self.rates)


def measure_loaders(sources: Sequence[Source], seconds: float, rounds: int = 2) -> None:
    """Give all loaders turns, so that drifts of the machine meet all alike; the first batch of each, which starts its
    workers, comes before."""
    begin = time.perf_counter()
    for source in sources:
        next(source.batches)
    left = max(seconds - (time.perf_counter() - begin), 0.0)
    for _ in range(rounds):
        for source in sources:
            source.turn(left / (rounds * len(sources)))
