"""How fast a trained network answers: every token length and the assigner's mixture, one input at a time and in the best batch.

A few seconds of measuring; `throughput.py` measures longer, in more dtypes, and beside peers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from revit.common.methods.revit.adaptive import AdaptiveClassifier
from revit.common.system.device import autocast, device_name
from revit.common.timing.cases import deal_grids, noise
from revit.common.timing.clock import Times, quantile, seconds_of, time_rounds
from revit.common.timing.memory import peak_bytes, weight_bytes

LARGEST_BATCH = {"cuda": 256}
"""Inputs; elsewhere 32."""
LONGEST_CALL = 0.25
"""Seconds; no larger batch is tried than one that takes so long."""
GAIN = 1.03
"""Factor that a batch of twice the size has to bring, or the search ends."""
MOST_CALLS, FEWEST_CALLS = 20, 4
NUM_MIXTURES = 2
"""Batches over which the grids of the adaptive pass have their shares."""


@dataclass
class _Case:
    """One row: calls that answer `batch` inputs, and the share of the time that each kind of call is made."""

    grid: str
    batch: int
    calls: Sequence[Callable[[], Any]]
    shares: Sequence[float] = (1.0,)
    times: Sequence[Times] = ()
    peak: int = field(default=0, init=False)

    def row(self) -> dict[str, Any]:
        """Return the row of the report. Of each kind of call the median counts, or all times, weighed by its share."""
        seconds = [one for times in self.times for one in times.clock]
        weights = [share / len(one.clock) for share, one in zip(self.shares, self.times) for _ in one.clock]
        mean = sum(share * times.median for share, times in zip(self.shares, self.times))
        return {
            "grid": self.grid,
            "batch": self.batch,
            "per_second": self.batch / mean,
            "ms_p50": 1e3 * quantile(seconds, 0.5, weights),
            "ms_p95": 1e3 * quantile(seconds, 0.95, weights),
            "peak_memory_mb": self.peak / 1e6,
        }


@torch.inference_mode()
def measure_speed(
    classifier: AdaptiveClassifier,
    input_shape: Sequence[int],
    device: torch.device,
    dtype: str = "float32",
    shares: Mapping[str, float] | None = None,
    seconds: float = 3.0,
) -> dict[str, Any]:
    """Classify noise of `input_shape` (batch 1) for about `seconds` and return the `speed` section of a report.

    shares: of the grids in the adaptive pass, which is measured with its assigner if they are given; inputs get their grids
        accordingly, as an assigner would not assign noise what it assigns pictures. Its rate is 1 over the mean time, in
        which every grid weighs what its share is.

    Slow models are called `FEWEST_CALLS` times at least, however long that takes.
    """
    start = time.perf_counter()
    classifier = classifier.to(device).eval()
    inputs = partial(noise, input_shape, device=device, dtype="float32")

    def fixed(batch: int, grid_index: int) -> Callable[[], Any]:
        return partial(classifier.model, inputs(batch), classifier.grids[grid_index])

    with autocast(device, dtype):
        cases = []
        for number, grid in enumerate(classifier.grids):
            best = _best_batch(partial(fixed, grid_index=number), device)
            cases += [_Case(grid.name, batch, [fixed(batch, number)]) for batch in dict.fromkeys((1, best))]
        if shares is not None and classifier.assigner is not None:
            in_order = [shares.get(grid.name, 0.0) for grid in classifier.grids]
            best = max(case.batch for case in cases)
            cases += [_adaptive_case(classifier, inputs(batch), in_order) for batch in dict.fromkeys((1, best))]
        for case in cases:
            for call in case.calls:
                call()
            held = classifier if case.grid == "adaptive" else classifier.model
            case.peak = max(peak_bytes(call, device) for call in case.calls) + weight_bytes(held)
        calls = {(i, k): call for i, case in enumerate(cases) for k, call in enumerate(case.calls)}
        left = seconds - (time.perf_counter() - start)
        times = time_rounds(calls, device, MOST_CALLS, seconds=left, fewest=FEWEST_CALLS)
        for i, case in enumerate(cases):
            case.times = [times[i, k] for k in range(len(case.calls))]
    return {
        "device": device_name(device),
        "dtype": dtype,
        "inputs": "clips" if len(input_shape) == 5 else "pictures",
        "rows": [case.row() for case in cases],
        "calls": min(len(one.clock) for one in times.values()),
        "seconds": round(time.perf_counter() - start, 3),
    }


def _best_batch(make: Callable[[int], Callable[[], Any]], device: torch.device) -> int:
    """Double the batch as long as that brings more inputs a second."""
    batch, best, rate = 1, 1, 0.0
    while batch <= LARGEST_BATCH.get(device.type, 32):
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


def _adaptive_case(classifier: AdaptiveClassifier, inputs: Tensor, shares: Sequence[float]) -> _Case:
    def answer(grid_index: Tensor) -> None:
        classifier.assign(inputs)
        classifier(inputs, grid_index)

    mixtures = _mixtures(shares, len(inputs))
    calls = [partial(answer, grid_index.to(inputs.device)) for grid_index, _ in mixtures]
    return _Case("adaptive", len(inputs), calls, [share for _, share in mixtures])


def _mixtures(shares: Sequence[float], batch: int) -> list[tuple[Tensor, float]]:
    """Return the grid indices (batch,) of each kind of call, and the share of such calls: for one input each grid that
    occurs, for more some batches in which the grids have their shares together, rounded to whole inputs."""
    if batch == 1:
        return [(torch.tensor([index]), share / sum(shares)) for index, share in enumerate(shares) if share > 0]
    return [(chosen, 1 / NUM_MIXTURES) for chosen in deal_grids(shares, NUM_MIXTURES * batch).split(batch)]
