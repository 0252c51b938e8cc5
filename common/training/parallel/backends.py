"""Which backend trains a network, and which of its processes read different samples."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from revit.common.config.sections import ParallelOptions, ReplicaOptions, TrainOptions
from revit.common.methods.task import Task
from revit.common.system.device import counted
from revit.common.system.distributed import DistributedContext
from revit.common.system.errors import UserError
from revit.common.training.optim import build_optimizer, freeze
from revit.common.training.parallel.backend import Backend, LocalBackend
from revit.common.training.parallel.deepspeed_backend import DeepSpeedBackend
from revit.common.training.parallel.replicas import GridPlacement, ReplicaBackend, place_grids


@dataclass(frozen=True)
class Division:
    """How the training of one network is divided over the processes."""

    backend: Literal["local", "deepspeed", "replicas"]
    rank: int
    """Rank of this process among those that read different samples."""
    num_ranks: int
    """Number of processes that read different samples."""
    placement: GridPlacement | None = None
    """Token grids of every process, for replicas."""


def divide(options: ParallelOptions, network: nn.Module, context: DistributedContext) -> Division:
    """Divide as `parallel` says. UserError where that does not fit the number of processes."""
    backend = options.backend
    if backend == "auto":
        backend = "local" if context.size == 1 else "deepspeed"
    if backend == "local" and context.size > 1:
        raise UserError(
            f"parallel.backend is local, which is one process, but {context.size} were started; set it to deepspeed or "
            "replicas, or start without a launcher"
        )
    if backend != "replicas":
        return Division(backend, context.rank, context.size)
    if context.size == 1:
        raise UserError(
            "parallel.backend replicas wants several processes, and this is one; start it by torchrun, or leave the backend "
            "to auto"
        )
    # A network without grids, such as the assigner, is trained by plain data parallelism.
    grids, width = getattr(network, "grids", ()), getattr(network, "embed_dim", 0)
    placement = place_grids(grids, width, options.replicas, context.rank, context.size)
    return Division(backend, placement.group, placement.num_groups, placement)


def make_backend(
    division: Division, options: ParallelOptions, train: TrainOptions, task: Task, device: torch.device, dtype: str
) -> Backend:
    """Make the backend, not yet prepared; `task` is told which grids it runs here.

    Raises UserError where `effective_batch` cannot be reached, or something is not installed.
    """
    settings: tuple[Any, ...] = (device, dtype, _accumulate(train, division), train.clip_grad_norm, options)
    if division.backend == "deepspeed":
        return _deepspeed(train, *settings)
    if division.placement is not None:
        replicas = ReplicaBackend(*settings, placement=division.placement)
        replicas.share(task)
        return replicas
    return LocalBackend(*settings)


def check_training(
    section: str,
    options: ParallelOptions,
    train: TrainOptions,
    network: nn.Module,
    device: torch.device,
    dtype: str,
    context: DistributedContext,
    num_samples: int | None = None,
) -> list[str]:
    """Raise what starting this training would, before the first training of a run begins.
    What it would not heed, and what makes it worth little, is returned, in words.

    section: of the configuration, with this training's keys.  num_samples: those of its list, where they are known.  Of `network` nothing is changed but what gets gradients.
    """
    freeze(network, train.freeze, section)
    division = divide(options, network, context)
    accumulate = _accumulate(train, division, section)
    optimizer = build_optimizer(network, train.optim)
    if division.backend == "deepspeed":
        backend = _deepspeed(train, device, dtype, accumulate, train.clip_grad_norm, options)
        backend.settings(optimizer, context.size, section)
    few = [] if num_samples is None else few_samples(section, train, division.num_ranks, num_samples)
    return [*passed_over(options, division.backend), *(f"WARNING {line}" for line in few)]


FEW_UPDATES = 50
"""Updates of a whole training below which hardly anything is learned."""


def few_samples(section: str, train: TrainOptions, num_ranks: int, num_samples: int) -> list[str]:
    """Return a line if the samples are fewer than an update wants, or the updates are few in all. UserError if there is none."""
    accumulate = train.accumulate_over(num_ranks)
    wanted, updates = train.batch_size * num_ranks * accumulate, updates_per_epoch(train, num_ranks, num_samples)
    keys = f"{section}.effective_batch" if accumulate > 1 else f"{section}.batch_size"
    if updates == 0:
        raise UserError(
            f"{section}: {num_samples} samples do not fill one update of {wanted} ({train.batch_size} x {num_ranks} processes x "
            f"{accumulate} batches); lower {keys}"
        )
    total = updates * train.schedule.total_epochs
    if num_samples < wanted:
        return [
            f"{keys} is {wanted}, more than the {num_samples} samples of the list, so that an epoch is one update, and the "
            f"training {counted(total, 'update')}; lower it"
        ]
    if total < FEW_UPDATES:
        return [
            f"{section}: {counted(total, 'update')} of {wanted} samples in all are few; lower {keys}, or raise "
            f"{section}.schedule.epochs"
        ]
    return []


def updates_per_epoch(train: TrainOptions, num_ranks: int, num_samples: int) -> int:
    """Count the updates of an epoch over a list, as `train_loader` and `Trainer` cut it."""
    each = -(-num_samples // num_ranks)
    return max(each // train.batch_size, 1) // train.accumulate_over(num_ranks)


def passed_over(options: ParallelOptions, backend: str) -> list[str]:
    """List the keys the user gave that this backend has no use for, and what would use them. A key that asks for nothing
    (offload none) is not one of them."""
    given = [
        name
        for name in ("zero_stage", "offload", "deepspeed_config")
        if name in options.model_fields_set and getattr(options, name) not in (0, "none", None)
    ]
    lines = []
    if given and backend != "deepspeed":
        keys = " and ".join(f"parallel.{name}" for name in given)
        trains = "one process trains by plain PyTorch" if backend == "local" else "replicas split nothing"
        lines.append(
            f"{keys} {'has' if len(given) == 1 else 'have'} no effect: {trains}; parallel.backend=deepspeed would use "
            f"{'it' if len(given) == 1 else 'them'}"
        )
    if backend != "replicas" and options.replicas != ReplicaOptions():
        lines.append("parallel.replicas has no effect without parallel.backend=replicas")
    return lines


def _deepspeed(train: TrainOptions, *settings: Any) -> DeepSpeedBackend:
    effective_given = train.effective_batch is not None
    return DeepSpeedBackend(*settings, batch_size=train.batch_size, effective_given=effective_given)


def _accumulate(train: TrainOptions, division: Division, section: str = "train") -> int:
    try:
        return train.accumulate_over(division.num_ranks)
    except ValueError as error:
        raise UserError(f"{section}: {error}") from error


def start_facts(
    division: Division, backend: Backend, parallel: ParallelOptions, train: TrainOptions, context: DistributedContext
) -> dict[str, Any]:
    """Return what a training runs on, for a log that programs read. Called by all processes."""
    places = context.gather((socket.gethostname(), _device_name(backend.device, context)))
    facts: dict[str, Any] = {
        "processes": context.size,
        "machines": len({host for host, _ in places}),
        "devices": dict(Counter(device for _, device in places)),
        "backend": division.backend,
        "dtype": backend.dtype,
        "batch_size": train.batch_size,
        "reading": division.num_ranks,
        "accumulate": backend.accumulate,
        "effective_batch": train.batch_size * division.num_ranks * backend.accumulate,
    }
    if division.backend == "deepspeed":
        facts |= {"zero_stage": parallel.zero_stage, "offload": parallel.offload}
    if division.placement is not None and division.placement.ranks_per_group > 1:
        facts["groups"] = str(division.placement)
    return facts


def start_line(facts: Mapping[str, Any]) -> str:
    """Say the same to people: `2 processes on 1 machine, cpu, DeepSpeed ZeRO 1, bfloat16; an update is 32 samples = 16 x 2 processes
    x 1`, where the last number counts accumulated batches; of one process without what there is one of."""
    processes, devices = facts["processes"], facts["devices"]
    where = f"{counted(processes, 'process')} on {counted(facts['machines'], 'machine')}"
    parts = [
        "1 process" if processes == 1 else where,
        " and ".join(name if len(devices) == 1 else f"{number} x {name}" for name, number in devices.items()),
        _backend_name(facts),
        facts["dtype"],
    ]
    return f"{', '.join(parts)}; an update is {_update(facts)}"


def _update(facts: Mapping[str, Any]) -> str:
    size, accumulate = facts["batch_size"], facts["accumulate"]
    samples = counted(facts["effective_batch"], "sample")
    if facts["processes"] > 1:
        readers = counted(facts["reading"], "group" if "groups" in facts else "process")
        return f"{samples} = {size} x {readers} x {accumulate}"
    return samples if accumulate == 1 else f"{samples} = {size} x {accumulate}"


def _backend_name(facts: Mapping[str, Any]) -> str:
    if facts["backend"] == "local":
        return "plain PyTorch"
    if facts["backend"] == "replicas":
        return f"replicas ({facts['groups']})" if "groups" in facts else "replicas"
    offload = facts["offload"]
    return f"DeepSpeed ZeRO {facts['zero_stage']}" + ("" if offload == "none" else f" with offload {offload}")


def _device_name(device: torch.device, context: DistributedContext) -> str:
    if device.type != "cuda":
        return device.type
    name, visible = torch.cuda.get_device_name(device), torch.cuda.device_count()
    return f"{name} (1 of {visible} GPUs)" if context.size == 1 and visible > 1 else name
