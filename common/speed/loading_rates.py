"""How fast files are decoded and loaded: every decoder on the same files, every number of workers in turn."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from revit.common.data.batch import Batch
from revit.common.data.broken import BrokenSample
from revit.common.data.loader import Loader

PREFETCH = 1
"""Batches that a worker of a loader reads ahead while others are measured: as few as there can be."""
SETTLE_SECONDS = 2.0
"""The longest wait for them."""


class Frames(Protocol):
    """Reads one file after the other with one decoder."""

    def read(self, path: str) -> NDArray[np.uint8]:
        """What a test reads of a file, before it is resized. Raises BrokenSample."""

    def sample(self, path: str) -> NDArray[np.uint8]:
        """Frames from all over a file, to be compared with others' of the same. Raises BrokenSample."""

    def close(self) -> None:
        """Let go of whatever reading holds open."""


@dataclass(frozen=True)
class Decoders:
    """What a kind of files can be decoded with."""

    key: str
    """Of the configuration, such as "data.loading.decoder"."""
    installed: Callable[[], Sequence[str]]
    """Their names."""
    open: Callable[[Any, str], Frames]
    """(run's options, name) -> a reader."""
    sample_plainly: Callable[[Any, str], NDArray[np.uint8]]
    """(run's options, path) -> what `Frames.sample` is to return: by a library alone, decoding the whole file."""
    remedy: str
    """What helps where reading is the bottleneck."""


@dataclass
class DecoderRate:
    """One decoder on files that are whole."""

    name: str
    differs_on: list[str] = field(default_factory=list)
    """Files of which it returns other frames than a plain decode, or none."""
    milliseconds: dict[str, list[float]] = field(default_factory=dict)
    """Path -> every time it was read."""
    num_compared: int = 0
    """Files whose frames were."""

    @property
    def ms(self) -> float | None:
        """Of a file in the mean, each with its median."""
        return (
            statistics.mean(map(statistics.median, self.milliseconds.values())) if self.milliseconds else None
        )


@dataclass(frozen=True)
class Checked:
    """Files of the sample."""

    good: tuple[str, ...]
    broken: dict[str, str]
    """Path -> reason."""


def check_files(
    paths: Sequence[str], read: Callable[[str], Any], seconds: float, at_least: int = 4
) -> Checked:
    """Reads one after the other until the time is over, but so many that can be read, if there are."""
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
    return Checked(tuple(good), broken)


def compare_decoders(
    decoders: Decoders, options: Any, names: Sequence[str], paths: Sequence[str], seconds: float
) -> list[DecoderRate]:
    """Frames of every file by every decoder are compared with those of a plain decode of the whole file, then the decoders are
    timed in turn until the time is over."""
    rates = [DecoderRate(name) for name in names]
    readers = [decoders.open(options, name) for name in names]
    end = time.perf_counter() + seconds
    try:
        compared = []
        for path in paths:
            try:
                expected = decoders.sample_plainly(options, path)
            except BrokenSample:  # damaged where a test does not read
                expected = None
            for rate, reader in zip(rates, readers):
                rate.num_compared += expected is not None
                try:
                    frames = reader.sample(path) if expected is not None else reader.read(path)
                    same = expected is None or np.array_equal(frames, expected)
                except BrokenSample:
                    same = False
                if not same:
                    rate.differs_on.append(path)
            compared.append(path)
            if time.perf_counter() > end - seconds / 2:
                break
        for number in itertools.count():
            for path in compared:
                if number and time.perf_counter() > end:
                    return rates
                for rate, reader in zip(rates, readers):
                    if path not in rate.differs_on:
                        begin = time.perf_counter()
                        reader.read(path)
                        taken = 1e3 * (time.perf_counter() - begin)
                        rate.milliseconds.setdefault(path, []).append(taken)
    finally:
        for reader in readers:
            reader.close()
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
        begin = time.perf_counter()
        num = 0
        while True:
            num += len(next(self.batches))
            taken = time.perf_counter() - begin
            if taken >= seconds:
                break
        self.rates.append(num / taken)
        if num and self.workers:  # its workers read ahead: not in the time of the next one
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
    """Turns of all loaders, so that drifts of the machine meet all alike; the first batch of each, which starts its workers,
    comes before."""
    begin = time.perf_counter()
    for source in sources:
        next(source.batches)
    left = max(seconds - (time.perf_counter() - begin), 0.0)
    for _ in range(rounds):
        for source in sources:
            source.turn(left / (rounds * len(sources)))
