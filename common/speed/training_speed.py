"""Measured time of a training step against the number of token lengths (ReViT figure 7): one process, and replicas.

Each number of lengths is measured in processes of its own, one per rank of a group. Every round they take turns: first
rank 0 alone trains the longest grid, then runs the plain model of every grid forward and backward (what Algorithm 1 has
to cost at least), then trains all grids (Algorithm 1), while the others wait; then all make one step together. So what a
machine does meanwhile falls on all alike.

Of a run with methods the first is the plain model at the longest grid, without them, and the second is left out. The rounds
are spread evenly over the training, so that a method whose steps change with its progress is measured at all of them.
"""

from __future__ import annotations

import json
import math
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from revit.common.config.sections import ReplicaOptions
from revit.common.costs.flops import count_costs
from revit.common.methods.base import task_of
from revit.common.methods.run_options import RecipeOptions
from revit.common.methods.task import OneProcess, Progress, SharesLengths
from revit.common.modality.costs import build
from revit.common.modality.modality import Modality
from revit.common.models.grid import TokenGrid
from revit.common.speed.training_step import Step, random_batch, training_step
from revit.common.system.device import DTYPES, device_name, instruction_sets, package_versions
from revit.common.system.errors import UserError
from revit.common.system.files import write_json
from revit.common.system.log import progress
from revit.common.timing.clock import Yardstick, quantile, seconds_of
from revit.common.training.parallel.replicas import GridPlacement, place_grids

PATIENCE = timedelta(minutes=10)
"""Longest wait of the other ranks for rank 0's turn."""
WARM_UP = 2
"""Untimed rounds."""
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
Times = list[tuple[float, float]]
"""Seconds of every timed step, and processor seconds of the process that worked most in it. Where others use the cores too,
only these say what a step costs."""


@dataclass(frozen=True)
class TrainingCase:
    """One number of token lengths, on a group of replicas."""

    options: RecipeOptions
    """The run's, with as many grids as are trained."""
    modality: Modality[Any]
    placement: GridPlacement
    """Seen from rank 0, with one group."""
    device: torch.device
    dtype: str
    batch: int
    num_threads: int
    no_replicas: str | None = None
    """Why the run's methods cannot share out the grids."""


def training_cases(
    options: RecipeOptions,
    modality: Modality[Any],
    device: torch.device,
    lengths: Sequence[int] | None,
    dtypes: Sequence[str],
    batches: Sequence[int],
) -> Iterator[TrainingCase]:
    """Yield the first n grids of the model for each n of `lengths` (all numbers unless given), in every dtype and batch size.

    A group has as many ranks as `parallel.replicas` says. Raises UserError for more lengths than the model has, for fewer
    than the run's methods choose, and for fewer GPUs than ranks.
    """
    grids = options.grids
    fixed = any("grids" in method.model_arguments(options) for method in options.active_methods)
    possible = [len(grids)] if fixed else range(1, len(grids) + 1)
    lengths = lengths or possible
    if fixed and list(lengths) != possible:
        raise UserError(
            f"the run's methods choose its {len(grids)} token grids, so it cannot be measured at fewer; set --lengths "
            f"{len(grids)}"
        )
    if max(lengths) > len(grids):
        raise UserError(
            f"--lengths {max(lengths)}: the model has {len(grids)} token grids ({', '.join(map(str, grids))}); ask for "
            f"{', '.join(map(str, possible))}, or add to model.grids"
        )
    refusal = _refusal(options, modality) if max(lengths) > 1 else None
    width = build(options, modality)[0].embed_dim
    groups = {n: _group(options, grids[:n], width) if refusal is None else GridPlacement((grids[:n],)) for n in lengths}
    most = max(group.size for group in groups.values())
    if device.type == "cuda" and torch.cuda.device_count() < most:
        raise UserError(
            f"{most} replicas want as many GPUs, this machine has {torch.cuda.device_count()}; set run.device=cpu, ask for "
            "fewer --lengths, or set parallel.replicas.ranks_per_group"
        )
    threads = max(1, torch.get_num_threads() // most)
    for n, group in groups.items():
        given = options if fixed else _at_grids(options, grids[:n])
        for dtype in dtypes:
            for batch in batches:
                yield TrainingCase(given, modality, group, device, dtype, batch, threads, refusal)


def _at_grids(options: RecipeOptions, grids: Sequence[TokenGrid], **changes: Any) -> RecipeOptions:
    model = options.model.model_copy(update={"grids": tuple(map(str, grids))})
    return options.model_copy(update={"model": model, **changes})


def _refusal(options: RecipeOptions, modality: Modality[Any]) -> str | None:
    """Return what the run's methods have against replicas; None for nothing."""
    parallel = options.parallel.model_copy(update={"backend": "replicas"})
    try:
        for method in options.active_methods:
            method.check(options.model_copy(update={"parallel": parallel}))
    except ValueError as error:
        return str(error)
    task = task_of(options, modality.task(options), modality, build(options, modality)[0])
    return None if isinstance(task, SharesLengths) else f"the grids of {options.method_name} cannot be shared out"


def _group(options: RecipeOptions, grids: Sequence[TokenGrid], width: int) -> GridPlacement:
    replicas, most = options.parallel.replicas, len(options.grids)
    if len(grids) < most:  # the keys speak of all grids
        ranks = None if replicas.ranks_per_group is None else min(replicas.ranks_per_group, len(grids))
        replicas = ReplicaOptions(ranks_per_group=ranks)
    # Whatever number of ranks is best divides this one.
    grids_per_rank = place_grids(grids, width, replicas, 0, math.lcm(*range(1, most + 1))).grids_per_rank
    return GridPlacement(grids_per_rank, 0, len(grids_per_rank))


@dataclass(frozen=True)
class Measured:
    """Times of every kind of step."""

    alone: Times
    """The longest grid by itself."""
    apart: Times
    """Forward and backward passes of the plain models of all grids, each with weights of its own; nothing is updated. Empty
    for a run with methods."""
    sequential: Times
    replicas: Times
    """Until the slowest rank is done. Empty where there is one rank."""
    operations_per_second: float
    """Rate of a matrix product of the same dtype, on one device."""
    device: str

    def over_plain(self) -> list[float]:
        """Return for every round a whole step of Algorithm 1 over the passes of its grids' plain models: by processor time on
        a CPU."""
        column = int(self.device.startswith("cpu"))
        return [step[column] / apart[column] for step, apart in zip(self.sequential, self.apart)]


def measure_training(case: TrainingCase, num_rounds: int) -> Measured:
    """Time `case` in processes of its own, `num_rounds` steps of each kind after two to warm up."""
    ranks = case.placement.size
    with (
        tempfile.TemporaryDirectory() as folder,
        progress(f"{len(case.options.grids)} token lengths", None) as update_bar,
    ):
        update_bar(advance=0, note=f"{ranks} processes")
        mp.start_processes(_measure_rank, (case, num_rounds, folder), nprocs=ranks, start_method="spawn")
        return Measured(**json.loads((Path(folder) / "measured.json").read_text()))


def _measure_rank(rank: int, case: TrainingCase, num_rounds: int, folder: str) -> None:
    torch.set_num_threads(case.num_threads)
    device = torch.device("cuda", rank) if case.device.type == "cuda" else case.device
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
        init_method=f"file://{folder}/store",
        rank=rank,
        world_size=case.placement.size,
        timeout=PATIENCE,
    )
    steps = _steps(case, rank, device)
    yardstick = Yardstick(device, DTYPES[case.dtype]) if rank == 0 else None
    times: dict[str, Times] = {kind: [] for kind in ("alone", "apart", "sequential", "replicas")}
    absent = {"apart": bool(case.options.methods), "replicas": case.placement.size == 1}
    kinds = [kind for kind in times if not absent.get(kind)]
    for number in range(WARM_UP + num_rounds):
        done = max(number - WARM_UP, 0)
        now = Progress(done, done / num_rounds, (done + 1) / num_rounds)
        for kind in kinds:
            torch.manual_seed(number)  # rank 0 drew in its turns what the others did not
            dist.barrier()
            worked = time.process_time()
            spent = seconds_of(partial(steps[kind], now), device) if kind in steps else 0.0
            slowest = torch.tensor([spent, time.process_time() - worked])
            dist.all_reduce(slowest, dist.ReduceOp.MAX)
            if number >= WARM_UP:
                times[kind].append((slowest[0].item(), slowest[1].item()))
        if yardstick is not None:
            yardstick.measure()
    if yardstick is not None:
        rate = yardstick.operations_per_second
        measured = Measured(**times, operations_per_second=rate, device=device_name(device))
        write_json(Path(folder) / "measured.json", asdict(measured))
    dist.destroy_process_group()


def _steps(case: TrainingCase, rank: int, device: torch.device) -> dict[str, Step]:
    """Return this rank's steps by kind: all for rank 0, "replicas" for the others."""
    options, modality, steps = case.options, case.modality, dict[str, Step]()
    batch = random_batch(options, modality, case.batch, device)
    step = partial(training_step, modality=modality, batch=batch, device=device, dtype=case.dtype)
    if case.placement.size > 1:
        steps["replicas"] = step(options, placement=replace(case.placement, rank=rank))
    if rank == 0:
        steps["sequential"] = step(options)
        longest = options
        if options.methods:
            longest = _at_grids(options, case.options.grids[:1], methods={})
        else:
            passes = [step(_at_grids(options, [grid]), update=False) for grid in case.options.grids]
            steps["apart"] = partial(_one_after_the_other, passes)
        steps["alone"] = step(longest, exchange=LongestOnly())
    return steps


def _one_after_the_other(steps: Sequence[Step], now: Progress) -> None:
    for step in steps:
        step(now)


class LongestOnly(OneProcess):
    """The plain model: shorter grids are left out."""

    def begin(self, grids: Sequence[TokenGrid]) -> Sequence[TokenGrid]:
        return grids[:1]


def training_rows(config: str, case: TrainingCase, measured: Measured) -> list[dict[str, Any]]:
    """Return a row of `throughput.py --training` for Algorithm 1 in one process, and one for replicas where there are any.

    `relative` is the median step over the median step of the longest grid alone, which takes turns with it; `cpu_relative`
    the same of processor time, of the process that works most (None on a GPU). `sum_relative` is the median of
    `Measured.over_plain`, `sum_relative_spread` its smallest and largest (None for replicas). Peak memory is not measured.
    `threads` and `instructions` are of a CPU, each process's.

    Of a run with methods it is the mean step over the mean step of the plain model, as their steps may change with the
    training's progress; there is no sum of plain steps.
    """
    costs = count_costs(build(case.options, case.modality)[0], None, case.modality.input_shape(case.options))
    methods, on_cpu = bool(case.options.methods), case.device.type == "cpu"
    typical = statistics.fmean if methods else statistics.median
    base, cpu_base = (typical(column) for column in zip(*measured.alone))
    rows = []
    for name, steps, devices, sums in (
        ("one process", measured.sequential, 1, measured.over_plain()),
        ("replicas", measured.replicas, case.placement.size, []),
    ):
        if not steps:
            continue
        seconds, cpu_seconds = zip(*steps)
        median, cpu = statistics.median(seconds), typical(cpu_seconds)
        # A backward pass is two forward passes.
        rate = 3 * 2e9 * sum(costs.grids.values()) * case.batch / median / devices
        rows.append(
            {
                "name": name,
                "config": config,
                "grid": "+".join(map(str, case.options.grids)),
                "dtype": case.dtype,
                "compiled": case.options.parallel.compile,
                "batch": case.batch,
                "device": measured.device,
                "per_second": case.batch / median,
                "ms_p50": 1e3 * median,
                "ms_p95": 1e3 * quantile(seconds, 0.95),
                "peak_memory_mb": None,
                "fraction_of_peak": None if methods else rate / measured.operations_per_second,
                "method": case.options.method_name,
                "lengths": len(case.options.grids),
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
                "versions": package_versions("revit-video", "torch"),
            }
        )
    return rows
