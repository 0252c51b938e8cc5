"""Which backend trains a network, and which of its processes read different samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from revit.common.engine.backend import Backend, LocalBackend
from revit.common.engine.dealing import Dealing, deal
from revit.common.engine.deepspeed_backend import DeepSpeedBackend, dtype_of
from revit.common.engine.deepspeed_config import settings_of
from revit.common.engine.deepspeed_library import import_deepspeed
from revit.common.engine.distributed import World
from revit.common.engine.optim import build_optimizer
from revit.common.engine.options import EngineOptions, TrainOptions
from revit.common.engine.replica_backend import ReplicaBackend
from revit.common.engine.task import Task
from revit.common.errors import UserError


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


def divide(options: EngineOptions, network: nn.Module, world: World) -> Division:
    """As `engine` says. UserError where that does not fit the number of processes."""
    backend = options.backend
    if backend == "auto":
        backend = "local" if world.size == 1 else "deepspeed"
    if backend == "local" and world.size > 1:
        raise UserError(
            f"engine.backend is local, which is one process, but {world.size} were started; set it to deepspeed or "
            "replicas, or start without a launcher"
        )
    if backend != "replicas":
        return Division(backend, world.rank, world.size)
    if world.size == 1:
        raise UserError(
            "engine.backend replicas wants several processes, and this is one; start it by torchrun, or leave the backend "
            "to auto"
        )
    # A network without grids, such as the assigner, is trained by plain data parallelism.
    grids, width = getattr(network, "grids", ()), getattr(network, "embed_dim", 0)
    dealing = deal(grids, width, options.replicas, world.rank, world.size)
    return Division(backend, dealing.group, dealing.num_groups, dealing)


def make_backend(
    division: Division,
    options: EngineOptions,
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
        return DeepSpeedBackend(*settings, batch_size=train.batch_size)
    if division.dealing is not None:
        replicas = ReplicaBackend(*settings, dealing=division.dealing)
        replicas.share(task)
        return replicas
    return LocalBackend(*settings)


def check_training(
    section: str,
    options: EngineOptions,
    train: TrainOptions,
    network: nn.Module,
    device: torch.device,
    dtype: str,
    world: World,
) -> None:
    """Raises what starting this training would: to be asked of all trainings of a run before the first one begins.

    section: of the configuration, with this training's keys. `network` is not changed.
    """
    division = divide(options, network, world)
    accumulate = _accumulate(train, division, section)
    if division.backend != "deepspeed":
        return
    import_deepspeed(device)
    settings_of(
        options,
        build_optimizer(network, train.optim),
        device.type,
        batch_size=train.batch_size,
        accumulate=accumulate,
        world_size=world.size,
        clip_grad_norm=train.clip_grad_norm,
        dtype=dtype_of(dtype),
        training=section,
    )


def _accumulate(train: TrainOptions, division: Division, section: str = "train") -> int:
    try:
        return train.accumulate_over(division.num_ranks)
    except ValueError as error:
        raise UserError(f"{section}: {error}") from error
