"""Optimiser and schedule, both timm's."""

from __future__ import annotations

from typing import Any

from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.scheduler.scheduler import Scheduler
from torch import nn
from torch.optim import Optimizer

from revit.common.engine.options import OptimOptions, ScheduleOptions


def build_optimizer(model: nn.Module, options: OptimOptions) -> Optimizer:
    """The optimiser over all parameters that want gradients."""
    extra: dict[str, Any] = {"momentum": options.momentum} if options.name == "sgd" else {}
    return create_optimizer_v2(
        model,
        opt=options.name,  # timm's "sgd" is Nesterov
        lr=options.lr,
        weight_decay=options.weight_decay,
        filter_bias_and_bn=not options.decay_one_dimensional,
        **extra,
    )


def build_scheduler(optimizer: Optimizer, options: ScheduleOptions, updates_per_epoch: int) -> Scheduler:
    """The schedule, to be stepped with the number of updates made so far (`step_update`)."""
    scheduler, _ = create_scheduler_v2(
        optimizer,
        sched=options.name,
        num_epochs=options.epochs,
        decay_milestones=list(options.milestones),
        decay_rate=options.decay_rate,
        min_lr=options.min_lr,
        warmup_lr=options.warmup_lr,
        warmup_epochs=options.warmup_epochs,  # type: ignore[arg-type]  # fractions work: it is only multiplied
        step_on_epochs=False,
        updates_per_epoch=updates_per_epoch,
    )
    return scheduler
