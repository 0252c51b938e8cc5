"""Optimiser and schedule, both timm's."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from typing import Any, cast

import torch
from timm.models import group_parameters
from timm.optim import create_optimizer_v2, param_groups_weight_decay
from timm.scheduler import create_scheduler_v2
from timm.scheduler.scheduler import Scheduler
from torch import nn
from torch.optim import Optimizer

from revit.common.config.sections import GroupOptions, OptimOptions, ScheduleOptions
from revit.common.system.errors import UserError


def build_optimizer(model: nn.Module, options: OptimOptions) -> Optimizer:
    """Make the optimiser over all parameters that want gradients, one fused kernel an update.

    Its rules are those of PyTorch's other forms, and each can read the other's states, equal within rounding.

    Without `decay_one_dimensional`, what the model's `no_weight_decay()` names is spared as well. Raises UserError for a
    group of `options` that has no parameters.
    """
    extra: dict[str, Any] = {"betas": options.betas, "eps": options.eps}
    if options.name == "sgd":
        extra = {"momentum": options.momentum}
    extra["fused"] = True  # a fifth of AdamW's time on a CPU, and one launch on a GPU
    if options.groups or options.layer_decay is not None:
        extra["param_group_fn"] = partial(parameter_groups, options=options)
    elif options.decay_one_dimensional:
        # timm would still spare what the model names; the published TimeSformer names its tables, yet decays them.
        extra["param_group_fn"] = partial(
            param_groups_weight_decay, weight_decay=options.weight_decay, weight_decay_exclude_1d=False
        )
    optimizer = create_optimizer_v2(
        model,
        opt=options.name,  # timm's "sgd" is Nesterov
        lr=options.lr,
        weight_decay=options.weight_decay,
        **extra,
    )
    # An update that overflows float16 is left to the loss scaler to skip. PyTorch's fused SGD would skip it too, but go on
    # from a momentum that was never written if it was the first one; AdamW would keep a state of zeros.
    optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]
    if options.name == "sgd":
        optimizer.register_step_pre_hook(_start_momentum)
    return optimizer


def _start_momentum(optimizer: Optimizer, *arguments: Any) -> None:
    """Start momentum at zero, which is the same as none: PyTorch's fused SGD fails where a parameter gets its first
    gradient later than others of its group, as those of one token grid may."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is not None and optimizer.state[parameter].get("momentum_buffer") is None:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


def parameter_groups(model: nn.Module, options: OptimOptions) -> list[dict[str, Any]]:
    """Group the parameters that want gradients as an optimiser takes them, each group with `lr_scale` (which timm's
    schedules obey), `frozen_epochs` (which `MovedSchedule` obeys) and `weight_decay`.

    The group with the highest rate at the start of the training comes first: its rate is what logs show.
    Raises UserError for a group of `options` that matches no parameter, or none that an earlier one has left, and for a
    `layer_decay` of a network that has no order of layers.
    """
    rest = GroupOptions(match="")
    spared: set[str] = getattr(model, "no_weight_decay", set)()
    groups: dict[tuple[float, float, float], dict[str, Any]] = {}
    unused = dict(enumerate(options.groups))
    scales = layer_scales(model, options.layer_decay)
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        numbered = ((i, one) for i, one in enumerate(options.groups) if re.match(one.match, name))
        number, group = next(numbered, (-1, rest))
        unused.pop(number, None)
        decay = options.weight_decay if group.weight_decay is None else group.weight_decay
        if not options.decay_one_dimensional and (parameter.ndim <= 1 or name in spared):
            decay = 0.0
        scale = group.lr_scale * scales.get(name, 1.0)
        facts = {"weight_decay": decay, "lr_scale": scale, "frozen_epochs": group.frozen_epochs}
        key = (group.frozen_epochs, -scale, decay)
        groups.setdefault(key, {"params": [], **facts})["params"].append(parameter)
    for number, group in unused.items():
        beginnings = dict.fromkeys(name.split(".")[0] for name, _ in model.named_parameters())
        raise UserError(
            f"train.optim.groups.{number}.match {group.match!r}: no parameter has a name that begins so, or the groups before "
            f"take them all; names begin like {', '.join(beginnings)}"
        )
    return [groups[key] for key in sorted(groups)]


def layer_scales(model: nn.Module, layer_decay: float | None) -> dict[str, float]:
    """Return the factor of each parameter's learning rate: `layer_decay` to the power of the layers above it (Bao et al., "BEiT",
    2021, section 3.2), counted by timm from the model's `group_matcher`. Empty without a decay.

    Raises UserError for a model without one.
    """
    if layer_decay is None:
        return {}
    if not hasattr(model, "group_matcher"):
        raise UserError(
            f"optim.layer_decay {layer_decay:g}: {type(model).__name__} has no order of layers; leave it out, or give "
            "optim.groups with lr_scale"
        )
    layers = group_parameters(model, cast(Any, model).group_matcher(), reverse=True)
    top = max(layers.values())
    return {name: layer_decay ** (top - layer) for name, layer in layers.items()}


def freeze(network: nn.Module, what: str | Sequence[str], section: str = "train") -> None:
    """Stop the gradients of all parameters whose names begin as one of these expressions; "backbone": of all but the classifiers.

    section: of the configuration, for messages. Raises UserError for an expression that matches nothing, where nothing would be
    left to train, and for a network whose classifiers are not known.
    """
    named = dict(network.named_parameters())
    if what == "backbone":
        if not hasattr(network, "heads"):
            raise UserError(
                f"{section}.freeze: {type(network).__name__} does not say what its classifier is; give expressions for names"
            )
        trained = {id(parameter) for head in cast(Any, network).heads() for parameter in head.parameters()}
        frozen = {name for name, parameter in named.items() if id(parameter) not in trained}
    else:
        frozen = set()
        for expression in what:
            found = [name for name in named if re.match(expression, name)]
            if not found:
                beginnings = ", ".join(dict.fromkeys(name.split(".")[0] for name in named))
                raise UserError(
                    f"{section}.freeze {expression!r}: no parameter has a name that begins so; names begin like {beginnings}"
                )
            frozen |= set(found)
    if len(frozen) == len(named):
        raise UserError(f"{section}.freeze: nothing is left to train; leave out what is to learn, such as the head")
    for name in frozen:
        named[name].requires_grad_(False)


def hold_frozen_statistics(network: nn.Module) -> None:
    """Keep the running statistics of frozen normalisations as they are, in a network that was just set to training: they are
    part of what was learned."""
    for module in network.modules():
        own = list(module.parameters(recurse=False))
        if hasattr(module, "running_mean") and own and not any(parameter.requires_grad for parameter in own):
            module.eval()


def build_scheduler(optimizer: Optimizer, options: ScheduleOptions, updates_per_epoch: int) -> Scheduler:
    """Make the schedule, to be stepped with the number of updates made so far (`step_update`).

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

    That happens to a run that goes on with another effective batch. Parameters that are frozen at first (`frozen_epochs` of
    their group) have a learning rate of 0 until then. All else is the schedule inside.
    """

    def __init__(self, inside: Scheduler, updates_per_epoch: int) -> None:
        # Not the base's own beginning: that would set the optimiser's rates, which are the inner schedule's.
        self.inside = inside
        self.updates_per_epoch = updates_per_epoch
        self.shift = 0
        """Updates added to the number of those made."""

    def step_update(self, num_updates: int, metric: float | None = None) -> None:
        """Set the rates for the time after `num_updates` updates."""
        self.inside.step_update(num_updates + self.shift, metric)
        for group in self.inside.optimizer.param_groups:
            if num_updates + self.shift < group.get("frozen_epochs", 0) * self.updates_per_epoch:
                group["lr"] = 0.0

    def _get_lr(self, t: int) -> list[float]:
        return self.inside._get_lr(t)

    def state_dict(self) -> dict[str, int]:
        """Return what a saved state of the training needs."""
        return {"updates_per_epoch": self.updates_per_epoch, "shift": self.shift}

    def load_state_dict(self, state_dict: dict[str, int], num_updates: int = 0, epochs: float = 0.0) -> None:
        """Go on after `num_updates` updates, which were `epochs` epochs."""
        self.shift = state_dict["shift"]
        if state_dict["updates_per_epoch"] != self.updates_per_epoch:
            self.shift = round(epochs * self.updates_per_epoch) - num_updates
