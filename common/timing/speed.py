"""How fast a trained network answers: every token length and the assigner's mixture, one input at a time and in the best batch.

A few seconds of measuring, with the timer of `throughput`; that tool measures longer, in more dtypes, and beside peers.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from revit.common.methods.revit.adaptive import AdaptiveClassifier
from revit.common.system.device import autocast
from revit.common.timing.cases import noise
from revit.common.timing.memory import peak_bytes
from revit.common.timing.throughput import device_name, seconds_of, weight_bytes

LARGEST_BATCH = {"cuda": 256}
"""Elsewhere 32."""
LONGEST_CALL = 0.25
"""Seconds; no larger batch is tried than one that takes so long."""
GAIN = 1.03
"""A batch of twice the size has to bring this much, or the search ends."""
MOST_CALLS, FEWEST_CALLS = 20, 4
DEALS = 2
"""Batches over which the lengths of the adaptive pass are dealt out."""


@dataclass
class _Case:
    """One row: calls that answer `batch` inputs, and the share of the time that each kind of call is made."""

    grid: str
    batch: int
    calls: Sequence[Callable[[], Any]]
    shares: Sequence[float]
    samples: list[list[float]] = field(default_factory=list)
    peak: int = 0

    def mean(self) -> float:
        """Seconds of a call: of each kind the median, weighed by its share."""
        return sum(share * statistics.median(times) for share, times in zip(self.shares, self.samples))

    def quantile(self, level: float) -> float:
        """Seconds within which `level` of the calls were answered."""
        weighed = sorted(
            (seconds, share / len(times))
            for share, times in zip(self.shares, self.samples)
            for seconds in times
        )
        reached = 0.0
        for seconds, weight in weighed:
            reached += weight
            if reached >= level - 1e-9:
                return seconds
        return weighed[-1][0]


@torch.inference_mode()
def measure_speed(
    classifier: AdaptiveClassifier,
    input_shape: Sequence[int],
    device: torch.device,
    dtype: str = "float32",
    shares: Mapping[str, float] | None = None,
    seconds: float = 3.0,
) -> dict[str, Any]:
    """The `speed` section of a report: noise of `input_shape` (batch 1) is classified for about `seconds`.

    shares: of the grids in the adaptive pass, which is measured with its assigner if they are given; the lengths are dealt
        out accordingly, as an assigner would not assign noise what it assigns pictures. Its rate is 1 over the mean time,
        in which every length weighs what its share is.

    Slow models are called `FEWEST_CALLS` times at least, however long that takes.
    """
    start = time.perf_counter()
    classifier = classifier.to(device).eval()
    inputs = partial(noise, input_shape, device=device, dtype="float32")
    with autocast(device, dtype):
        cases = []
        for position, grid in enumerate(classifier.grids):
            best = _best_batch(partial(_fixed_on, classifier, inputs, position), device)
            for batch in dict.fromkeys((1, best)):
                cases.append(_Case(grid.name, batch, [_fixed(classifier, inputs(batch), position)], [1.0]))
        if shares is not None and classifier.assigner is not None:
            by_position = [shares.get(grid.name, 0.0) for grid in classifier.grids]
            best = max(case.batch for case in cases)
            for batch in dict.fromkeys((1, best)):
                cases.append(_adaptive_case(classifier, inputs(batch), by_position))
        held = weight_bytes(classifier.model)
        for case in cases:
            for call in case.calls:
                call()
            case.peak = max(peak_bytes(call, device) for call in case.calls) + held
            if case.grid == "adaptive" and classifier.assigner is not None:
                case.peak += weight_bytes(classifier.assigner)
            case.samples = [[] for _ in case.calls]
        _measure(cases, device, seconds - (time.perf_counter() - start))
    return {
        "device": device_name(device),
        "dtype": dtype,
        "inputs": "clips" if len(input_shape) == 5 else "pictures",
        "rows": [_row(case) for case in cases],
        "calls": min(len(times) for case in cases for times in case.samples),
        "seconds": round(time.perf_counter() - start, 3),
    }


def _measure(cases: Sequence[_Case], device: torch.device, seconds: float) -> None:
    """Rounds of every call of every case, so that drifts of the machine meet all alike."""
    end = time.perf_counter() + seconds
    for done in range(MOST_CALLS):
        if done >= FEWEST_CALLS and time.perf_counter() > end:
            break
        for case in cases:
            for call, times in zip(case.calls, case.samples):
                times.append(seconds_of(call, device))


def _best_batch(make: Callable[[int], Callable[[], Any]], device: torch.device) -> int:
    """Doubled as long as that brings more inputs a second."""
    largest = LARGEST_BATCH.get(device.type, 32)
    batch, rate = 1, 0.0
    best = 1
    while batch <= largest:
        try:
            call = make(batch)
            call()
            took = min(seconds_of(call, device) for _ in range(2))
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            break
        if batch / took < GAIN * rate:
            break
        best, rate = batch, batch / took
        if 2 * took > LONGEST_CALL:
            break
        batch *= 2
    return best


def _fixed_on(
    classifier: AdaptiveClassifier, inputs: Callable[[int], Tensor], position: int, batch: int
) -> Callable[[], Any]:
    return _fixed(classifier, inputs(batch), position)


def _fixed(classifier: AdaptiveClassifier, inputs: Tensor, position: int) -> Callable[[], Any]:
    grid = classifier.grids[position]
    return lambda: classifier.model(inputs, grid)


def _adaptive_case(classifier: AdaptiveClassifier, inputs: Tensor, shares: Sequence[float]) -> _Case:
    deals = list(_deals(shares, len(inputs)))
    calls = [partial(_adaptive, classifier, inputs, lengths.to(inputs.device)) for lengths, _ in deals]
    return _Case("adaptive", len(inputs), calls, [share for _, share in deals])


def _deals(shares: Sequence[float], batch: int) -> Iterator[tuple[Tensor, float]]:
    """Lengths (batch,) of a call, and the share of such calls: for one input each length that occurs, for more some batches
    in which the lengths have their shares together, rounded to whole inputs."""
    total = sum(shares)
    if batch == 1:
        yield from (
            (torch.tensor([length]), share / total) for length, share in enumerate(shares) if share > 0
        )
        return
    exact = [DEALS * batch * share / total for share in shares]
    counts = [int(number) for number in exact]
    for length in sorted(range(len(shares)), key=lambda one: counts[one] - exact[one]):
        if sum(counts) < DEALS * batch:
            counts[length] += 1
    lengths = torch.repeat_interleave(torch.arange(len(shares)), torch.tensor(counts))
    order = torch.randperm(len(lengths), generator=torch.Generator().manual_seed(0))
    for dealt in lengths[order].split(batch):
        yield dealt, 1 / DEALS


def _adaptive(classifier: AdaptiveClassifier, inputs: Tensor, lengths: Tensor) -> None:
    classifier.assign(inputs)
    classifier(inputs, lengths)


def _row(case: _Case) -> dict[str, Any]:
    return {
        "grid": case.grid,
        "batch": case.batch,
        "per_second": case.batch / case.mean(),
        "ms_p50": 1e3 * case.quantile(0.5),
        "ms_p95": 1e3 * case.quantile(0.95),
        "peak_memory_mb": case.peak / 1e6,
    }
