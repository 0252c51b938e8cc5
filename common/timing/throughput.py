"""Measured speed: many cases in one interleaved run, against what the machine can do in that same run.

A machine's clock, its caches and its other users drift over minutes, so cases timed one after the other are not
comparable. Here every round runs each case once, and a plain matrix product of each dtype with them: the yardstick.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from revit.common.system.device import DTYPES
from revit.common.system.log import progress
from revit.common.system.machine import device_name, instruction_sets, package_versions
from revit.common.timing.memory import peak_bytes

VERSIONS = ("revit-video", "torch", "timm", "transformers", "pytorchvideo")
"""Of what may be timed."""


@dataclass(frozen=True)
class Case:
    """One thing to time: `run()` answers `batch` inputs at each of `num_calls` calls inside it."""

    name: str
    config: str
    grid: str
    dtype: str
    """A key of `revit.common.system.device.DTYPES`, or what has no matrix product of torch's own (int8), which leaves
    `fraction_of_peak` out."""
    compiled: bool
    batch: int
    gmacs: float | None
    """Per input; None where nobody knows, which leaves `fraction_of_peak` out."""
    run: Callable[[], Any]
    num_calls: int = 1
    weight_bytes: int = 0


@dataclass(frozen=True)
class Row:
    """One line of `throughput.py --json`."""

    name: str
    config: str
    grid: str
    dtype: str
    compiled: bool
    batch: int
    device: str
    per_second: float
    """Inputs per second, from the median."""
    ms_p50: float
    """Milliseconds of one call, median."""
    ms_p95: float
    peak_memory_mb: float
    """Weights and what one call needed on top, in 1e6 bytes: allocated on CUDA, resident on a CPU. Copies that a compiler made
    of weights are not in it."""
    fraction_of_peak: float | None
    """Operations per second of the model over those of a square matrix product of the same dtype in the same run. That is
    a yardstick and no limit: products of other shapes may suit the machine better, and then it exceeds 1."""
    gmacs: float | None
    """Of one input, of which `fraction_of_peak` is made."""
    rounds: int
    """Over which `ms_p50` and `ms_p95` are."""
    spread: float
    """Of the rounds' medians: the largest less the smallest, over `ms_p50`."""
    round_ms: Sequence[float]
    """The rounds' medians. Every round ran each case once or in a row, so two rows of one run are best compared round by
    round, see `round_ratios`."""
    threads: int
    """Of a CPU's, that torch used."""
    instructions: str
    """Instruction sets of the CPU that matrix products depend on."""
    versions: Mapping[str, str]

    def as_json(self) -> dict[str, Any]:
        """The row as plain data."""
        return asdict(self)


def measure(
    cases: Sequence[Case], device: torch.device, num_rounds: int = 10, min_round_seconds: float = 0.05
) -> list[Row]:
    """Times all cases, one after the other in each round. Nothing is timed before two warm-up calls (compilation).

    A case that takes less than `min_round_seconds` is called several times in a row each round.
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
        repeats, memory = [], []
        for case in cases:
            case.run()
            memory.append(peak_bytes(case.run, device) + case.weight_bytes)
            repeats.append(max(1, round(min_round_seconds / seconds_of(case.run, device))))
        samples: list[list[list[float]]] = [[] for _ in cases]  # of every case, every round
        for round_number in range(num_rounds):
            update_bar(advance=0, note=f"round {round_number + 1}")
            for yardstick in yardsticks.values():
                yardstick.measure()
            for case, times, one in zip(cases, repeats, samples):
                one.append([seconds_of(case.run, device) / case.num_calls for _ in range(times)])
            update_bar(advance=1)
    rows = []
    versions = package_versions(*VERSIONS)
    for case, rounds, needed in zip(cases, samples, memory):
        every = [seconds for one in rounds for seconds in one]
        median, medians = statistics.median(every), list(map(statistics.median, rounds))
        share = None
        if case.gmacs is not None and case.dtype in yardsticks:
            rate = 2e9 * case.gmacs * case.batch / median
            share = rate / yardsticks[case.dtype].operations_per_second
        rows.append(
            Row(
                name=case.name,
                config=case.config,
                grid=case.grid,
                dtype=case.dtype,
                compiled=case.compiled,
                batch=case.batch,
                device=device_name(device),
                per_second=case.batch / median,
                ms_p50=1e3 * median,
                ms_p95=1e3 * quantile(every, 0.95),
                peak_memory_mb=needed / 1e6,
                fraction_of_peak=share,
                gmacs=case.gmacs,
                rounds=num_rounds,
                spread=(max(medians) - min(medians)) / median,
                round_ms=[1e3 * seconds for seconds in medians],
                threads=torch.get_num_threads(),
                instructions=instruction_sets(),
                versions=versions,
            )
        )
    return rows


def round_ratios(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[float]:
    """How many times as long as `other` `one` took for an input, round by round of the run that both are rows of
    (`Row.as_json`, as they are written)."""
    times = zip(one["round_ms"], other["round_ms"])
    return [(mine / one["batch"]) / (theirs / other["batch"]) for mine, theirs in times]


def weight_bytes(module: nn.Module) -> int:
    """Bytes of parameters and buffers, and of the packed weights that layers made for serving hold instead."""
    held = (value for one in module.modules() for value in vars(one).values())
    packed = [value for value in held if isinstance(value, Tensor)]
    tensors = [*module.parameters(), *module.buffers(), *packed]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


SIDES = {"cuda": 8192}
"""Of the yardstick's matrices; elsewhere 2048."""


class Yardstick:
    """Square matrix products, large enough to reach the machine's rate and small enough to take little time."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        side = SIDES.get(device.type, 2048)
        self.device = device
        self.operations = 2 * side**3
        self.left = torch.randn(side, side, device=device).to(dtype)
        self.right = torch.randn(side, side, device=device).to(dtype)
        self.seconds: list[float] = []
        self.measure()
        self.seconds.clear()

    def measure(self) -> None:
        self.seconds += [seconds_of(lambda: self.left @ self.right, self.device) for _ in range(3)]

    @property
    def operations_per_second(self) -> float:
        return self.operations / statistics.median(self.seconds)


def seconds_of(run: Callable[[], Any], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def quantile(samples: Sequence[float], share: float) -> float:
    """The smallest sample that at least `share` of them do not exceed."""
    ordered = sorted(samples)
    return ordered[max(0, -int(-share * len(ordered) // 1) - 1)]
