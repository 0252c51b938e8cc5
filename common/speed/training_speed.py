"""Measured time of a training step against the number of token lengths (ReViT figure 7): one process, and replicas.

Each number of lengths is measured in processes of its own, one per rank of a group. Every round they take turns: first
rank 0 alone trains the longest grid, then runs the plain model of every grid forward and backward (what Algorithm 1 has
to cost at least), then trains all grids (Algorithm 1), while the others wait; then all make one step together. So what a
machine does meanwhile falls on all alike.

Of a run with methods the first is the plain model at the longest grid, without them, and the second is left out. The rounds
are spread evenly over the training, so that a method whose steps change with its progress is measured at all of them.
"""

from __future__ import annotations

import copy
import json
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from revit.common.config.sections import ReplicaOptions, ScheduleOptions
from revit.common.data.batch import Batch
from revit.common.methods.base import optim_of, task_of
from revit.common.methods.run_options import RecipeOptions
from revit.common.methods.task import BatchAugment, OneProcess, Progress, SharesLengths, Task
from revit.common.modality.costs import build
from revit.common.modality.modality import Modality
from revit.common.models.base import GridModel
from revit.common.models.grid import TokenGrid
from revit.common.system.device import DTYPES, device_name
from revit.common.system.errors import UserError
from revit.common.system.files import write_json
from revit.common.system.log import progress
from revit.common.timing.cases import noise
from revit.common.timing.clock import Yardstick, seconds_of
from revit.common.training.optim import build_optimizer, build_scheduler
from revit.common.training.parallel.backend import LocalBackend, equip
from revit.common.training.parallel.replicas import GridPlacement, ReplicaBackend, place_grids
from revit.common.training.trainer import forward_backward

PATIENCE = timedelta(minutes=10)
"""Longest wait of the other ranks for rank 0's turn."""
WARM_UP = 2
"""Untimed rounds."""
Step = Callable[[Progress], None]


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

    @property
    def grids(self) -> Sequence[TokenGrid]:
        return self.options.grids


def training_cases(
    options: RecipeOptions,
    modality: Modality[Any],
    device: torch.device,
    lengths: Sequence[int],
    dtypes: Sequence[str],
    batches: Sequence[int],
) -> Iterator[TrainingCase]:
    """Yield the first n grids of the model for each n of `lengths`, in every dtype and batch size.

    A group has as many ranks as `parallel.replicas` says. Raises UserError for more lengths than the model has, and for
    fewer GPUs than ranks.
    """
    grids = options.grids
    chosen = _methods_choose_grids(options)
    if chosen and list(lengths) != [len(grids)]:
        raise UserError(
            f"the run's methods choose its {len(grids)} token grids, so it cannot be measured at fewer; set --lengths "
            f"{len(grids)}"
        )
    if max(lengths) > len(grids):
        raise UserError(
            f"--lengths {max(lengths)}: the model has {len(grids)} token grids ({', '.join(map(str, grids))}); ask for "
            f"{', '.join(map(str, range(1, len(grids) + 1)))}, or add to model.grids"
        )
    width = build(options, modality)[0].embed_dim
    refusal = _refusal(options, modality) if max(lengths) > 1 else None
    groups = {
        n: _one_group(grids[:n], width, options.parallel.replicas, len(grids))
        if refusal is None
        else GridPlacement((tuple(grids[:n]),), 0, 1)
        for n in lengths
    }
    most = max(group.size for group in groups.values())
    if device.type == "cuda" and torch.cuda.device_count() < most:
        raise UserError(
            f"{most} replicas want as many GPUs, this machine has {torch.cuda.device_count()}; set run.device=cpu, ask for "
            "fewer --lengths, or set parallel.replicas.ranks_per_group"
        )
    threads = max(1, torch.get_num_threads() // most)
    for n, group in groups.items():
        given = options if chosen else _at_grids(options, grids[:n])
        for dtype in dtypes:
            for batch in batches:
                yield TrainingCase(given, modality, group, device, dtype, batch, threads, refusal)


def all_lengths(options: RecipeOptions) -> Sequence[int]:
    """Return every number of token lengths that a run can be measured at."""
    num = len(options.grids)
    return [num] if _methods_choose_grids(options) else range(1, num + 1)


def _methods_choose_grids(options: RecipeOptions) -> bool:
    return any("grids" in method.model_arguments(options) for method in options.active_methods)


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
    if options.methods and not isinstance(
        task_of(options, modality.task(options), modality, build(options, modality)[0]), SharesLengths
    ):
        return f"the grids of {options.method_name} cannot be shared out"
    return None


def _one_group(grids: Sequence[TokenGrid], width: int, options: ReplicaOptions, most: int) -> GridPlacement:
    if len(grids) < most:  # the keys speak of all grids
        ranks = None if options.ranks_per_group is None else min(options.ranks_per_group, len(grids))
        options = ReplicaOptions(ranks_per_group=ranks)
    # Whatever number of ranks is best divides this one.
    grids_per_rank = place_grids(grids, width, options, 0, math.lcm(*range(1, most + 1))).grids_per_rank
    return GridPlacement(grids_per_rank, 0, len(grids_per_rank))


Times = list[tuple[float, float]]
"""Seconds of every timed step, and processor seconds of the process that worked most in it. Where others use the cores too,
only these say what a step costs."""


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


def measure_training(case: TrainingCase, num_rounds: int) -> Measured:
    """Time `case` in processes of its own, `num_rounds` steps of each kind after two to warm up."""
    ranks = case.placement.size
    with tempfile.TemporaryDirectory() as folder, progress(f"{len(case.grids)} token lengths", None) as update_bar:
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
    options, modality = case.options, case.modality
    model = build(options, modality)[0].to(device).train()
    classes = torch.arange(case.batch) % modality.num_classes(options)
    inputs = noise(modality.input_shape(options), case.batch, torch.device("cpu"), "float32")
    batch = Batch(inputs, classes, classes).to(device)
    settings: dict[str, Any] = {"dtype": case.dtype, "options": options.parallel}
    settings["clip_grad_norm"] = options.train.clip_grad_norm
    steps: dict[str, Step] = {}
    if case.placement.size > 1:
        placement = GridPlacement(case.placement.grids_per_rank, rank, case.placement.size)
        shared = ReplicaBackend(device, placement=placement, **settings)
        task = task_of(options, modality.task(options), modality, model)
        shared.share(task)
        steps["replicas"] = training_step(copy.deepcopy(model), task, shared, options, batch)
    if rank == 0:
        task = task_of(options, modality.task(options), modality, model)
        backend = LocalBackend(device, **settings)
        steps["sequential"] = training_step(copy.deepcopy(model), task, backend, options, batch)
        if options.methods:
            options = _at_grids(options, case.grids[:1], methods={})
            model = build(options, modality)[0].to(device).train()
        else:
            steps["apart"] = _plain_passes(case, device, batch)
        alone: Any = modality.task(options)
        alone.exchange = LongestOnly()
        steps["alone"] = training_step(model, alone, LocalBackend(device, **settings), options, batch)
    return steps


def training_step(
    network: GridModel,
    task: Task,
    backend: LocalBackend,
    options: RecipeOptions,
    batch: Batch,
    normalizer: nn.Module | None = None,
    augment: BatchAugment | None = None,
) -> Step:
    """Return a call that makes an update of `network` with `batch`, which is on the device; inputs are normalised already if
    there is no `normalizer`."""
    optimizer = build_optimizer(network, optim_of(options))
    scheduler = build_scheduler(optimizer, ScheduleOptions(name="constant"), 1)
    called = backend.prepare(network, optimizer, scheduler)

    def step(now: Progress) -> None:
        forward_backward(called, task, backend, normalizer or nn.Identity(), batch, now, augment)
        backend.step()

    return step


def _plain_passes(case: TrainingCase, device: torch.device, batch: Batch) -> Step:
    """Return forward and backward passes of the plain model of every grid, one after the other."""
    backend = LocalBackend(device, case.dtype, options=case.options.parallel)
    models: list[tuple[GridModel, Task]] = []
    for grid in case.grids:
        options = _at_grids(case.options, [grid])
        model = build(options, case.modality)[0].to(device).train()
        equip(model, options.parallel)
        models.append((model, case.modality.task(options)))

    def step(now: Progress) -> None:
        for model, task in models:
            model.zero_grad(set_to_none=True)
            forward_backward(model, task, backend, nn.Identity(), batch, now)

    return step


class LongestOnly(OneProcess):
    """The plain model: shorter grids are left out."""

    def begin(self, grids: Sequence[TokenGrid]) -> Sequence[TokenGrid]:
        return grids[:1]
