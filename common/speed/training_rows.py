"""The rows of `throughput.py --training`."""

from __future__ import annotations

import statistics
from typing import Any

from revit.common.costs.flops import count_costs
from revit.common.modality.costs import build
from revit.common.speed.training_speed import Measured, Times, TrainingCase
from revit.common.system.device import instruction_sets, package_versions
from revit.common.timing.clock import quantile

TRAINING_COLUMNS = {
    "config": "config",
    "method": "method",
    "lengths": "lengths",
    "name": "training",
    "devices": "devices",
    "dtype": "dtype",
    "batch": "batch",
    "ms_p50": "ms p50",
    "relative": "x longest",
    "cpu_ms": "CPU ms",
    "cpu_relative": "x longest",
    "sum_relative": "x sum of plain",
}
"""CPU: processor time of the process that works most. x longest: over a step of the longest grid alone. x sum of plain:
Algorithm 1's whole step over the forward and backward passes of the plain models of all its grids, which is what it has to
cost at least."""


def training_rows(config: str, case: TrainingCase, measured: Measured) -> list[dict[str, Any]]:
    """Return a row for Algorithm 1 in one process and one for replicas; the latter is missing where there is one length.

    `relative` is the median step over the median step of the longest grid alone, which takes turns with it; `cpu_relative`
    the same of processor time, which other users of the machine do not change (None on a GPU). `sum_relative` is the median
    over the rounds of a step of Algorithm 1 over the plain models of its grids in that round, by processor time on a CPU;
    `sum_relative_spread` its smallest and largest. Both are None for replicas. Peak memory is not measured. `threads` and
    `instructions` are of a CPU, each process's.

    Of a run with methods it is the mean step over the mean step of the plain model, as their steps may change with the
    training's progress; there is no sum of plain steps.
    """
    model, shape = build(case.options, case.modality)[0], case.modality.input_shape(case.options)
    gmacs = sum(count_costs(model, None, shape).grids.values())
    methods, on_cpu = bool(case.options.methods), case.device.type == "cpu"
    typical = statistics.fmean if methods else statistics.median
    base, cpu_base = (typical(kind) for kind in zip(*measured.alone))
    versions = package_versions("revit-video", "torch")

    def row(name: str, steps: Times, devices: int, sums: list[float]) -> dict[str, Any]:
        seconds, cpu_seconds = zip(*steps)
        median, cpu = statistics.median(seconds), typical(cpu_seconds)
        rate = 3 * 2e9 * gmacs * case.batch / median  # a backward pass is two forward passes
        return {
            "name": name,
            "config": config,
            "grid": "+".join(map(str, case.grids)),
            "dtype": case.dtype,
            "compiled": case.options.parallel.compile,
            "batch": case.batch,
            "device": measured.device,
            "per_second": case.batch / median,
            "ms_p50": 1e3 * median,
            "ms_p95": 1e3 * quantile(seconds, 0.95),
            "peak_memory_mb": None,
            "fraction_of_peak": None if methods else rate / (devices * measured.operations_per_second),
            "method": case.options.method_name,
            "lengths": len(case.grids),
            "devices": devices,
            "grids_per_rank": [[str(grid) for grid in grids] for grids in case.placement.grids_per_rank],
            "relative": typical(seconds) / base,
            "cpu_ms": 1e3 * cpu if on_cpu else None,
            "cpu_relative": cpu / cpu_base if on_cpu else None,
            "sum_relative": statistics.median(sums) if sums else None,
            "sum_relative_spread": [min(sums), max(sums)] if sums else None,
            "rounds": len(steps),
            "threads": case.num_threads,
            "instructions": instruction_sets() if on_cpu else "",
            "versions": versions,
        }

    rows = [row("one process", measured.sequential, 1, over_plain(measured, on_cpu))]
    if case.placement.size > 1:
        rows.append(row("replicas", measured.replicas, case.placement.size, []))
    return rows


def over_plain(measured: Measured, by_processor: bool) -> list[float]:
    """Return for every round a whole step of Algorithm 1 over the passes of its grids' plain models."""
    return [step[by_processor] / apart[by_processor] for step, apart in zip(measured.sequential, measured.apart)]
