"""One training step of a run, to be timed: its untrained model, with its methods, on a batch that stays the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from revit.common.config.sections import ScheduleOptions
from revit.common.data.batch import Batch
from revit.common.methods.base import optim_of, task_of
from revit.common.methods.task import LengthExchange, Progress, SharesLengths
from revit.common.modality.costs import build
from revit.common.modality.modality import Modality, Run
from revit.common.training.optim import build_optimizer, build_scheduler
from revit.common.training.parallel.backend import LocalBackend
from revit.common.training.parallel.replicas import GridPlacement, ReplicaBackend
from revit.common.training.trainer import forward_backward

Step = Callable[[Progress], None]


def random_batch(options: Run, modality: Modality[Run], size: int, device: torch.device) -> Batch:
    """Return pixels that mean nothing, always the same, with a class for each."""
    generator = torch.Generator().manual_seed(0)
    shape = (size, *modality.input_shape(options)[1:])
    pixels = torch.randint(256, shape, generator=generator, dtype=torch.uint8)
    ids = torch.arange(size)
    return Batch(pixels, ids % modality.num_classes(options), ids).to(device)


def training_step(
    options: Run,
    modality: Modality[Run],
    batch: Batch,
    device: torch.device,
    dtype: str,
    *,
    placement: GridPlacement | None = None,
    exchange: LengthExchange | None = None,
    augment: bool = False,
    update: bool = True,
) -> Step:
    """Return a call that trains the run's model, with its methods and random weights, on `batch`, which is on the device.

    placement: of the grids to replicas, one of which this is.  exchange: in the place of the task's own.  augment: mix and
    erase as the run does.  update: without, the step ends with the gradients.

    Raises:
        UserError: the run cannot be trained as it stands (a teacher that is not there).
    """
    model = build(options, modality)[0].to(device).train()
    task = task_of(options, modality.task(options), modality, model)
    if exchange is not None:
        assert isinstance(task, SharesLengths)
        task.exchange = exchange
    settings: dict[str, Any] = {"clip_grad_norm": options.train.clip_grad_norm, "options": options.parallel}
    if placement is None:
        backend = LocalBackend(device, dtype, **settings)
    else:
        backend = ReplicaBackend(device, dtype, placement=placement, **settings)
        backend.share(task)
    optimizer = build_optimizer(model, optim_of(options))
    scheduler = build_scheduler(optimizer, ScheduleOptions(name="constant"), 1)
    called, normalizer = backend.prepare(model, optimizer, scheduler), modality.normalizer(options).to(device)
    mixed = modality.batch_augment(options, model.num_classes) if augment else None

    def step(now: Progress) -> None:
        forward_backward(called, task, backend, normalizer, batch, now, mixed)
        if update:
            backend.step()
        else:
            model.zero_grad(set_to_none=True)

    return step
