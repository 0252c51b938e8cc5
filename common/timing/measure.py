"""The rows of `throughput.py`: many cases in one interleaved run, against what the machine can do in that same run.

A machine's clock, its caches and its other users drift over minutes, so cases timed one after the other are not
comparable. Here every round runs each case once, and a plain matrix product of each dtype with them: the yardstick.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from revit.common.system.device import DTYPES, device_name, instruction_sets, package_versions
from revit.common.system.log import progress
from revit.common.timing.clock import Yardstick, quantile, seconds_of, time_rounds
from revit.common.timing.memory import peak_bytes

VERSIONS = ("revit-video", "torch", "timm", "transformers", "pytorchvideo")
"""Packages that may be timed."""


@dataclass(frozen=True)
class Case:
    """One thing to time: `run()` answers `batch` inputs at each of `num_calls` calls inside it."""

    name: str
    config: str
    grid: str
    dtype: str
    """Key of `revit.common.system.device.DTYPES`, or one without a matrix product of torch's own (int8), which leaves
    `fraction_of_peak` out."""
    compiled: bool
    batch: int
    gmacs: float | None
    """GMACs per input; None where nobody knows, which leaves `fraction_of_peak` out."""
    run: Callable[[], Any]
    num_calls: int = 1
    weight_bytes: int = 0


def measure(
    cases: Sequence[Case], device: torch.device, num_rounds: int = 10, min_round_seconds: float = 0.05
) -> list[dict[str, Any]]:
    """Time all cases, in turn in each round, after two calls of each that warm up (and compile). Return the rows of
    `throughput.py --json`.

    A case that takes less than `min_round_seconds` is called several times in a row each round.

    ms_p50, ms_p95: milliseconds of one call; `per_second` is of inputs, from the median.
    peak_memory_mb: weights and what one call needed on top, in 1e6 bytes: allocated on CUDA, resident on a CPU. Copies that a
        compiler made of weights are not in it.
    fraction_of_peak: operations per second of the model (by `gmacs`, those of one input) over those of a square matrix
        product of the same dtype in the same run. That is a yardstick and no limit: products of other shapes may suit the
        machine better, and then it exceeds 1.
    spread: largest less smallest of `round_ms`, the medians of the rounds, over `ms_p50`. All cases ran in every round, so
        two rows of one run are best compared round by round, see `round_ratios`.
    threads, instructions: of the CPU, those that matrix products depend on.
    """
    if not cases:
        return []
    with torch.inference_mode(), progress("throughput", num_rounds) as update_bar:
        update_bar(advance=0, note="warming up")
        yardsticks = {
            dtype: Yardstick(device, DTYPES[dtype])
            for dtype in dict.fromkeys(case.dtype for case in cases)
            if dtype in DTYPES
        }
        repeats, memory = {}, []
        for number, case in enumerate(cases):
            case.run()
            memory.append(peak_bytes(case.run, device) + case.weight_bytes)
            repeats[number] = max(1, round(min_round_seconds / seconds_of(case.run, device)))

        def before_round(number: int) -> None:
            update_bar(advance=min(number, 1), note=f"round {number + 1}")
            for yardstick in yardsticks.values():
                yardstick.measure()

        calls = {number: case.run for number, case in enumerate(cases)}
        times = time_rounds(calls, device, num_rounds, repeats=repeats, before_round=before_round)
    rows = []
    for number, case in enumerate(cases):
        every = [seconds / case.num_calls for seconds in times[number].clock]
        in_a_row = repeats[number]
        medians = [statistics.median(every[i : i + in_a_row]) for i in range(0, len(every), in_a_row)]
        median, share = statistics.median(every), None
        if case.gmacs is not None and case.dtype in yardsticks:
            rate = 2e9 * case.gmacs * case.batch / median
            share = rate / yardsticks[case.dtype].operations_per_second
        rows.append(
            {
                "name": case.name,
                "config": case.config,
                "grid": case.grid,
                "dtype": case.dtype,
                "compiled": case.compiled,
                "batch": case.batch,
                "device": device_name(device),
                "per_second": case.batch / median,
                "ms_p50": 1e3 * median,
                "ms_p95": 1e3 * quantile(every, 0.95),
                "peak_memory_mb": memory[number] / 1e6,
                "fraction_of_peak": share,
                "gmacs": case.gmacs,
                "rounds": num_rounds,
                "spread": (max(medians) - min(medians)) / median,
                "round_ms": [1e3 * seconds for seconds in medians],
                "threads": torch.get_num_threads(),
                "instructions": instruction_sets(),
                "versions": package_versions(*VERSIONS),
            }
        )
    return rows


def round_ratios(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[float]:
    """Return how many times as long as `other` `one` took for an input, round by round of the run that both are rows of."""
    times = zip(one["round_ms"], other["round_ms"])
    return [(mine / one["batch"]) / (theirs / other["batch"]) for mine, theirs in times]
