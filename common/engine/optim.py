"""Optimiser and schedule, both timm's."""

from __future__ import annotations

from functools import partial
from typing import Any

from timm.optim import create_optimizer_v2, param_groups_weight_decay
from timm.scheduler import create_scheduler_v2
from timm.scheduler.scheduler import Scheduler
from torch import nn
from torch.optim import Optimizer

from revit.common.engine.options import OptimOptions, ScheduleOptions


def build_optimizer(model: nn.Module, options: OptimOptions) -> Optimizer:
    """The optimiser over all parameters that want gradients.

    Without `decay_one_dimensional`, what the model's `no_weight_decay()` names is spared as well.
    """
    extra: dict[str, Any] = {"betas": options.betas, "eps": options.eps}
    if options.name == "sgd":
        extra = {"momentum": options.momentum}
    if options.decay_one_dimensional:
        # timm would still spare what the model names; the published TimeSformer names its tables, yet decays them.
        extra["param_group_fn"] = partial(
            param_groups_weight_decay, weight_decay=options.weight_decay, weight_decay_exclude_1d=False
        )
    return create_optimizer_v2(
        model,
        opt=options.name,  # timm's "sgd" is Nesterov
        lr=options.lr,
        weight_decay=options.weight_decay,
        **extra,
    )


def build_scheduler(optimizer: Optimizer, options: ScheduleOptions, updates_per_epoch: int) -> Scheduler:
    """The schedule, to be stepped with the number of updates made so far (`step_update`).

    After its epochs, so through the cool-down, it stays where it ended.
    """
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


class MovedSchedule(Scheduler):
    """A schedule that goes on at the same place of the same epoch when the updates of an epoch become more or fewer.

    That happens to a run that goes on with another effective batch. All else is the schedule inside.
    """

    def __init__(self, inside: Scheduler, updates_per_epoch: int) -> None:
        # Not the base's own beginning: that would set the optimiser's rates, which are the inner schedule's.
        self.inside = inside
        self.updates_per_epoch = updates_per_epoch
        self.shift = 0
        """Added to the number of updates made."""

    def step_update(self, num_updates: int, metric: float | None = None) -> None:
        """Set the rates for the time after `num_updates` updates."""
        self.inside.step_update(num_updates + self.shift, metric)

    def _get_lr(self, t: int) -> list[float]:
        return self.inside._get_lr(t)

    def state_dict(self) -> dict[str, int]:
        """For a state of the training."""
        return {"updates_per_epoch": self.updates_per_epoch, "shift": self.shift}

    def load_state_dict(self, state_dict: dict[str, int], num_updates: int = 0, epochs: float = 0.0) -> None:
        """Go on after `num_updates` updates, which were `epochs` epochs."""
        self.shift = state_dict["shift"]
        if state_dict["updates_per_epoch"] != self.updates_per_epoch:
            self.shift = round(epochs * self.updates_per_epoch) - num_updates
