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
from torch import Tensor

from revit.common.config.sections import ReplicaOptions, ScheduleOptions
from revit.common.data.batch import Batch
from revit.common.methods.apply import optim_of, task_of
from revit.common.methods.exchange import OneProcess, SharesLengths
from revit.common.methods.run_options import RecipeOptions
from revit.common.methods.task import Progress, Task
from revit.common.modality.costs import build, num_classes
from revit.common.modality.modality import Modality
from revit.common.models.base import GridModel
from revit.common.models.grid import TokenGrid
from revit.common.system.device import DTYPES
from revit.common.system.errors import UserError
from revit.common.system.files import write_json
from revit.common.system.log import progress
from revit.common.timing.cases import noise
from revit.common.timing.throughput import Yardstick, device_name, seconds_of
from revit.common.training.optim import build_optimizer, build_scheduler
from revit.common.training.parallel.backend import LocalBackend, equip
from revit.common.training.parallel.dealing import Dealing, deal
from revit.common.training.parallel.replica_backend import ReplicaBackend

PATIENCE = timedelta(minutes=10)
"""How long the others wait for rank 0's turn."""
Step = Callable[[Progress], None]
WARM_UP = 2
"""Untimed rounds."""


@dataclass(frozen=True)
class TrainingCase:
    """One number of token lengths, on a group of replicas."""

    options: Any
    """The run's, with as many grids as are trained."""
    modality: Modality[Any]
    dealing: Dealing
    """Seen from rank 0, with one group."""
    device: torch.device
    dtype: str
    batch: int
    num_threads: int
    no_replicas: str | None = None
    """Why the run's methods cannot share out the grids."""

    @property
    def grids(self) -> tuple[TokenGrid, ...]:
        return self.options.grids


def training_cases(
    options: Any,
    modality: Modality[Any],
    device: torch.device,
    lengths: Sequence[int],
    dtypes: Sequence[str],
    batches: Sequence[int],
) -> Iterator[TrainingCase]:
    """The first n grids of the model for each n of `lengths`, in every dtype and batch size.

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
    dealt = {
        n: _one_group(grids[:n], width, options.parallel.replicas, len(grids))
        if refusal is None
        else Dealing((tuple(grids[:n]),), 0, 1)
        for n in lengths
    }
    most = max(dealing.size for dealing in dealt.values())
    if device.type == "cuda" and torch.cuda.device_count() < most:
        raise UserError(
            f"{most} replicas want as many GPUs, this machine has {torch.cuda.device_count()}; set run.device=cpu, ask for "
            "fewer --lengths, or set parallel.replicas.ranks_per_group"
        )
    threads = max(1, torch.get_num_threads() // most)
    for n, dealing in dealt.items():
        model = options.model.model_copy(update={"grids": tuple(map(str, grids[:n]))})
        given = options if chosen else options.model_copy(update={"model": model})
        for dtype in dtypes:
            for batch in batches:
                yield TrainingCase(given, modality, dealing, device, dtype, batch, threads, refusal)


def all_lengths(options: RecipeOptions) -> Sequence[int]:
    """Every number of token lengths that a run can be measured at."""
    num = len(options.grids)
    return [num] if _methods_choose_grids(options) else range(1, num + 1)


def _methods_choose_grids(options: RecipeOptions) -> bool:
    return any("grids" in method.model_arguments(options) for method in options.active_methods)


def _refusal(options: RecipeOptions, modality: Modality[Any]) -> str | None:
    """What the run's methods have against replicas; None: nothing."""
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


def _one_group(grids: Sequence[TokenGrid], width: int, options: ReplicaOptions, most: int) -> Dealing:
    if len(grids) < most:  # the keys speak of all grids
        ranks = None if options.ranks_per_group is None else min(options.ranks_per_group, len(grids))
        options = ReplicaOptions(ranks_per_group=ranks)
    # Whatever number of ranks is best divides this one.
    dealt = deal(grids, width, options, 0, math.lcm(*range(1, most + 1))).grids_per_rank
    return Dealing(dealt, 0, len(dealt))


@dataclass(frozen=True)
class Measured:
    """Seconds of every timed step, and the processor seconds of the process that worked most in it: where others use the
    cores too, only these say what a step costs."""

    alone: list[list[float]]
    """The longest grid by itself."""
    apart: list[list[float]]
    """Forward and backward passes of the plain models of all grids, each with weights of its own; nothing is updated. Empty
    for a run with methods."""
    sequential: list[list[float]]
    replicas: list[list[float]]
    """Until the slowest rank is done. Empty where there is one rank."""
    operations_per_second: float
    """Of a matrix product of the same dtype, on one device."""
    device: str


def measure_training(case: TrainingCase, num_rounds: int) -> Measured:
    """Times `case` in processes of its own, `num_rounds` steps of each kind after two to warm up."""
    ranks = case.dealing.size
    with (
        tempfile.TemporaryDirectory() as folder,
        progress(f"{len(case.grids)} token lengths", None) as update_bar,
    ):
        update_bar(advance=0, note=f"{ranks} processes")
        mp.start_processes(_work, (case, num_rounds, folder), nprocs=ranks, start_method="spawn")
        return Measured(**json.loads((Path(folder) / "measured.json").read_text()))


def _work(rank: int, case: TrainingCase, num_rounds: int, folder: str) -> None:
    torch.set_num_threads(case.num_threads)
    device = torch.device("cuda", rank) if case.device.type == "cuda" else case.device
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dealing = Dealing(case.dealing.grids_per_rank, rank, case.dealing.size)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
        init_method=f"file://{folder}/store",
        rank=rank,
        world_size=dealing.size,
        timeout=PATIENCE,
    )
    measured = _turns(case, dealing, device, num_rounds)
    if rank == 0:
        write_json(Path(folder) / "measured.json", asdict(measured))
    dist.destroy_process_group()


def _turns(case: TrainingCase, dealing: Dealing, device: torch.device, num_rounds: int) -> Measured:
    options = case.options
    model = build(options, case.modality)[0].to(device).train()
    plain, plain_model = options, model
    if options.methods:
        longest = options.model.model_copy(update={"grids": (str(case.grids[0]),)})
        plain = options.model_copy(update={"methods": {}, "model": longest})
        plain_model = build(plain, case.modality)[0].to(device).train()
    shape = case.modality.input_shape(case.options)
    inputs = noise(shape, case.batch, device, "float32")
    classes = torch.arange(case.batch) % num_classes(case.options, case.modality)
    batch = Batch(torch.empty(0, dtype=torch.uint8), classes, classes).to(device)

    def stepper(backend: LocalBackend, task: Task, of: GridModel, run: RecipeOptions) -> Step:
        network = copy.deepcopy(of)
        optimizer = build_optimizer(network, optim_of(run))
        schedule = build_scheduler(optimizer, ScheduleOptions(name="constant"), 1)
        called = backend.prepare(network, optimizer, schedule)

        def step(now: Progress) -> None:
            task.begin(now)
            with backend.autocast():
                for _, loss in task.losses(called, inputs, batch):
                    backend.backward(loss)
            backend.step()

        return step

    settings: dict[str, Any] = {"dtype": case.dtype, "options": case.options.parallel}
    settings["clip_grad_norm"] = case.options.train.clip_grad_norm
    steps: dict[str, Step] = {}
    if dealing.size > 1:
        shared = ReplicaBackend(device, dealing=dealing, **settings)
        task = task_of(options, case.modality.task(options), case.modality, model)
        shared.share(task)
        steps["replicas"] = stepper(shared, task, model, options)
    if dealing.rank == 0:
        everything = task_of(options, case.modality.task(options), case.modality, model)
        steps["sequential"] = stepper(LocalBackend(device, **settings), everything, model, options)
        alone: Any = case.modality.task(plain)
        alone.exchange = LongestOnly()
        steps["alone"] = stepper(LocalBackend(device, **settings), alone, plain_model, plain)
        if not options.methods:
            steps["apart"] = _apart(case, device, inputs, batch)
        yardstick = Yardstick(device, DTYPES[case.dtype])
    kinds = ["alone", *(["apart"] if not options.methods else []), "sequential"]
    seconds: dict[str, list[list[float]]] = {
        name: [] for name in [*kinds, *(["replicas"] if dealing.size > 1 else [])]
    }
    for number in range(WARM_UP + num_rounds):
        done = max(number - WARM_UP, 0)
        now = Progress(done, done / num_rounds, (done + 1) / num_rounds)
        for name, times in seconds.items():
            torch.manual_seed(number)  # rank 0 drew in its turns what the others did not
            dist.barrier()
            worked = time.process_time()
            spent = seconds_of(partial(steps[name], now), device) if name in steps else 0.0
            slowest = torch.tensor([spent, time.process_time() - worked])
            dist.all_reduce(slowest, dist.ReduceOp.MAX)
            times.append(slowest.tolist())
        if dealing.rank == 0:
            yardstick.measure()
    timed = {name: seconds.get(name, [])[WARM_UP:] for name in ("alone", "apart", "sequential", "replicas")}
    rate = yardstick.operations_per_second if dealing.rank == 0 else 0.0
    return Measured(**timed, operations_per_second=rate, device=device_name(device))


def _apart(case: TrainingCase, device: torch.device, inputs: Tensor, batch: Batch) -> Step:
    """Forward and backward passes of the plain model of every grid, one after the other."""
    backend = LocalBackend(device, case.dtype, options=case.options.parallel)
    models, tasks = [], []
    for grid in case.grids:
        of_one = case.options.model.model_copy(update={"grids": (str(grid),)})
        options = case.options.model_copy(update={"model": of_one})
        models.append(build(options, case.modality)[0].to(device).train())
        tasks.append(case.modality.task(options))
        equip(models[-1], options.parallel)

    def step(now: Progress) -> None:
        for model, task in zip(models, tasks):
            model.zero_grad(set_to_none=True)
            task.begin(now)
            with backend.autocast():
                for _, loss in task.losses(model, inputs, batch):
                    backend.backward(loss)

    return step


class LongestOnly(OneProcess):
    """The plain model: shorter grids are left out."""

    def begin(self, grids: Sequence[TokenGrid]) -> Sequence[TokenGrid]:
        return grids[:1]
