"""One training from its options: optimiser, schedule, average of the weights, loop."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from timm.utils import ModelEmaV3
from torch import nn

from revit.common.data.loader import Loader
from revit.common.engine.backend import LocalBackend
from revit.common.engine.log import RunLog
from revit.common.engine.loop import Trainer
from revit.common.engine.optim import build_optimizer, build_scheduler
from revit.common.engine.options import RunOptions, TrainOptions
from revit.common.engine.task import BatchAugment, Task

Network = TypeVar("Network", bound=nn.Module)


def train(
    name: str,
    network: Network,
    task: Task,
    loader: Loader,
    options: TrainOptions,
    run: RunOptions,
    *,
    device: torch.device,
    pixels: nn.Module,
    log: RunLog,
    augment: BatchAugment | None = None,
    watch: Callable[[Network], Callable[[int], None] | None] = lambda network: None,
) -> dict[str, Network]:
    """Train `network` to the end, from its newest state under `run.dir`, and return it in eval mode.

    Under "model" is the network to use; where an average of the weights is kept, the other set is under "raw" (the
    average is the model) or "ema" (the trained weights are). `watch`: the network to use -> what to call after epochs.
    """
    network.to(device)
    average = ModelEmaV3(network, decay=options.ema.decay) if options.ema is not None else None
    networks = {"model": network}
    if options.ema is not None and average is not None:
        averaged = average.module
        networks = (
            {"model": averaged, "raw": network} if options.ema.use else {"model": network, "ema": averaged}
        )
    backend = LocalBackend(device, run.dtype, options.accumulate, options.clip_grad_norm)
    trainer = Trainer(
        model=network,
        task=task,
        backend=backend,
        pixels=pixels.to(device),
        loader=loader,
        num_epochs=options.schedule.total_epochs,
        folder=states_of(run, name),
        log=log,
        name=name,
        log_every=run.log_every,
        save_every=run.save_every,
        augment=augment,
        average=average,
        after_epoch=watch(networks["model"]),
    )
    optimizer = build_optimizer(network, options.optim)
    updates = trainer.batches_per_epoch // options.accumulate
    backend.prepare(network, optimizer, build_scheduler(optimizer, options.schedule, updates))
    trainer.train()
    return {part: trained.eval() for part, trained in networks.items()}


def states_of(run: RunOptions, name: str) -> Path:
    """Where the states of the training called `name` are."""
    return Path(run.dir) / "states" / name
