"""Which backend trains a network, and which of its processes read different samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from revit.common.config.sections import ParallelOptions, ReplicaOptions, TrainOptions
from revit.common.methods.task import Task
from revit.common.system.distributed import World
from revit.common.system.errors import UserError
from revit.common.training.optim import build_optimizer
from revit.common.training.parallel.backend import Backend, LocalBackend
from revit.common.training.parallel.dealing import Dealing, deal
from revit.common.training.parallel.deepspeed_backend import DeepSpeedBackend, dtype_of
from revit.common.training.parallel.deepspeed_config import settings_of
from revit.common.training.parallel.deepspeed_library import check_settings, import_deepspeed
from revit.common.training.parallel.replica_backend import ReplicaBackend


@dataclass(frozen=True)
class Division:
    """How the training of one network is divided over the processes."""

    backend: Literal["local", "deepspeed", "replicas"]
    rank: int
    """Of this process among those that read different samples."""
    num_ranks: int
    """How many read different samples."""
    dealing: Dealing | None = None
    """replicas: the token grids of every process."""


def divide(options: ParallelOptions, network: nn.Module, world: World) -> Division:
    """As `parallel` says. UserError where that does not fit the number of processes."""
    backend = options.backend
    if backend == "auto":
        backend = "local" if world.size == 1 else "deepspeed"
    if backend == "local" and world.size > 1:
        raise UserError(
            f"parallel.backend is local, which is one process, but {world.size} were started; set it to deepspeed or "
            "replicas, or start without a launcher"
        )
    if backend != "replicas":
        return Division(backend, world.rank, world.size)
    if world.size == 1:
        raise UserError(
            "parallel.backend replicas wants several processes, and this is one; start it by torchrun, or leave the backend "
            "to auto"
        )
    # A network without grids, such as the assigner, is trained by plain data parallelism.
    grids, width = getattr(network, "grids", ()), getattr(network, "embed_dim", 0)
    dealing = deal(grids, width, options.replicas, world.rank, world.size)
    return Division(backend, dealing.group, dealing.num_groups, dealing)


def make_backend(
    division: Division,
    options: ParallelOptions,
    train: TrainOptions,
    task: Task,
    device: torch.device,
    dtype: str,
) -> Backend:
    """The backend, not yet prepared; `task` is told which grids it runs here.

    Raises UserError where `effective_batch` cannot be reached, or something is not installed.
    """
    accumulate = _accumulate(train, division)
    settings: tuple[Any, ...] = (device, dtype, accumulate, train.clip_grad_norm, options)
    if division.backend == "deepspeed":
        effective_given = train.effective_batch is not None
        return DeepSpeedBackend(*settings, batch_size=train.batch_size, effective_given=effective_given)
    if division.dealing is not None:
        replicas = ReplicaBackend(*settings, dealing=division.dealing)
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
    world: World,
) -> list[str]:
    """Raises what starting this training would: to be asked of all trainings of a run before the first one begins.
    What it would not heed is returned, in words.

    section: of the configuration, with this training's keys. `network` is not changed.
    """
    division = divide(options, network, world)
    accumulate = _accumulate(train, division, section)
    if division.backend == "deepspeed":
        _check_deepspeed(section, options, train, accumulate, network, device, dtype, world)
    return passed_over(options, division.backend)


def passed_over(options: ParallelOptions, backend: str) -> list[str]:
    """Which keys the user gave that this backend has no use for, and what would use them. A key that asks for nothing
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


def _check_deepspeed(
    section: str,
    options: ParallelOptions,
    train: TrainOptions,
    accumulate: int,
    network: nn.Module,
    device: torch.device,
    dtype: str,
    world: World,
) -> None:
    deepspeed = import_deepspeed(device)
    settings, _ = settings_of(
        options,
        build_optimizer(network, train.optim),
        device.type,
        batch_size=train.batch_size,
        accumulate=accumulate,
        world_size=world.size,
        clip_grad_norm=train.clip_grad_norm,
        dtype=dtype_of(dtype),
        training=section,
        effective_given=train.effective_batch is not None,
    )
    check_settings(deepspeed, settings, options.deepspeed_config)


def _accumulate(train: TrainOptions, division: Division, section: str = "train") -> int:
    try:
        return train.accumulate_over(division.num_ranks)
    except ValueError as error:
        raise UserError(f"{section}: {error}") from error
