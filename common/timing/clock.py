"""The timer: calls take turns, round after round, so that a machine's other work and its drifts meet all of them alike."""

from __future__ import annotations

import math
import statistics
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch

Name = TypeVar("Name")

SIDES = {"cuda": 8192}
"""Rows and columns of the yardstick's matrices; elsewhere 2048."""


class Stopwatch:
    """Add up the seconds of all blocks `with stopwatch:`, those of the GPU work that they launch included."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.seconds = device, 0.0

    def __enter__(self) -> Stopwatch:
        self._synchronise()
        self._start = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self._synchronise()
        self.seconds += time.perf_counter() - self._start

    def _synchronise(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def seconds_of(run: Callable[[], Any], device: torch.device) -> float:
    """Return the seconds that one call takes."""
    with Stopwatch(device) as stopwatch:
        run()
    return stopwatch.seconds


@dataclass
class Times:
    """Seconds of every timed call of one kind."""

    clock: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)
    """Processor seconds of all cores: where others use the cores too, only they say what a call costs."""

    @property
    def median(self) -> float:
        """Seconds of the clock."""
        return statistics.median(self.clock)


def time_rounds(
    calls: Mapping[Name, Callable[[], Any]],
    device: torch.device,
    rounds: int,
    *,
    warm_up: int = 0,
    repeats: Mapping[Name, int] | None = None,
    seconds: float = math.inf,
    fewest: int = 0,
    before_round: Callable[[int], object] = lambda number: None,
    processor: Callable[[], float] = time.process_time,
) -> dict[Name, Times]:
    """Make every call once a round, each round beginning with another one, and return the times of each.

    Args:
        rounds: rounds that count, after `warm_up` ones that do not (the last of those does if time ends with it).
        repeats: times in a row that a round makes a call.
        seconds: limit for all rounds together; a round that would likely exceed it is not begun.
        fewest: rounds that count and are made however long they take.
        before_round: told the number of each round.
        processor: seconds that all who work on a call have been on a processor.
    """
    times = {name: Times() for name in calls}
    order = deque(calls)
    begin = time.perf_counter()
    for number in range(warm_up + rounds):
        spent = time.perf_counter() - begin
        if number >= max(1, warm_up + fewest) and spent * (number + 1) > seconds * number:
            break
        before_round(number)
        if number <= warm_up:
            times = {name: Times() for name in calls}
        for name in order:
            for _ in range(repeats[name] if repeats else 1):
                worked = processor()
                times[name].clock.append(seconds_of(calls[name], device))
                times[name].processor.append(processor() - worked)
        order.rotate(-1)
    return times


def quantile(samples: Sequence[float], share: float, weights: Sequence[float] | None = None) -> float:
    """Return the smallest sample that at least `share` of all samples, or of their weights, do not exceed."""
    total, reached = sum(weights) if weights else len(samples), 0.0
    for sample, weight in sorted(zip(samples, weights or [1.0] * len(samples))):
        reached += weight / total
        if reached >= share - 1e-9:
            return sample
    return max(samples)


class Yardstick:
    """Square matrix products, large enough to reach the machine's rate and small enough to take little time."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        side = SIDES.get(device.type, 2048)
        self.device = device
        self.operations = 2 * side**3
        self.left, self.right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        self.seconds: list[float] = []
        self.measure()  # warms up
        self.seconds.clear()

    def measure(self) -> None:
        """Time three products."""
        self.seconds += [seconds_of(lambda: self.left @ self.right, self.device) for _ in range(3)]

    @property
    def operations_per_second(self) -> float:
        """Rate by the median of what was timed."""
        return self.operations / statistics.median(self.seconds)
