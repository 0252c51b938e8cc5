"""The device side of training behind a few calls, the same for one process, DeepSpeed, and a replica per length."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, cast

import torch
from timm.scheduler.scheduler import Scheduler
from torch import Tensor, nn
from torch.optim import Optimizer

from revit.common.config.sections import ParallelOptions
from revit.common.system.device import allow_graphs, autocast, to_cpu
from revit.common.system.errors import UserError
from revit.common.training.parallel.optimizer_state import load_optimizer_state, optimizer_state

DEFAULT = ParallelOptions()
LOWEST_SCALE = 1.0
"""Loss scale of float16 at which gradients that overflow would do so without one."""


class Backend(ABC):
    """Trains one network. Every call is made by all ranks, in the same order."""

    works_behind = False
    """True where work is only queued, so that losses are best read when the next batch is queued, and nothing that `step`
    decides wants them to be known good."""
    optimizer: Optimizer
    scheduler: Scheduler

    def __init__(
        self,
        device: torch.device,
        dtype: str = "float32",
        accumulate: int = 1,
        clip_grad_norm: float | None = None,
        options: ParallelOptions = DEFAULT,
    ) -> None:
        self.device = device
        self.dtype = dtype
        """float32, bfloat16 or float16, of the forward passes; weights and optimiser are float32."""
        self.accumulate = accumulate
        """Batches per update."""
        self.clip_grad_norm = clip_grad_norm
        self.options = options
        self.num_updates = 0
        """Updates made; those skipped for gradients that overflowed in float16 do not count."""
        self._batches = 0

    @abstractmethod
    def prepare(self, network: nn.Module, optimizer: Optimizer, scheduler: Scheduler) -> nn.Module:
        """Take charge of the three; return the module to call in training."""

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context for forward passes and losses."""
        return autocast(self.device, self.dtype)

    @abstractmethod
    def backward(self, loss: Tensor) -> None:
        """Add the gradient of `loss`, divided by the number of batches per update (here and nowhere else)."""

    def step(self) -> bool:
        """End a batch: update the weights if it was the last of its group. Say whether they were updated."""
        self._batches += 1
        if self._batches < self.accumulate:
            return False
        self._batches = 0
        if not self._update():
            return False
        self.num_updates += 1
        self.scheduler.step_update(self.num_updates)
        return True

    @abstractmethod
    def _update(self) -> bool:
        """Update the weights and forget the gradients; False if the update was skipped."""

    @abstractmethod
    def whole(self) -> AbstractContextManager[nn.Module]:
        """Yield the network given to `prepare`, with all its float32 weights and the same buffers on every rank.

        Inside, each rank may call it on its own: for averages, evaluation, saving. Read only.
        """

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Return "model": weights, "optimizer": its state by parameter name, "scaler", "num_updates".

        The same on every rank, on the CPU, whatever the number of ranks, the ZeRO stage and the backend. Tensors, numbers
        and strings only, so that it can be read back without executing code.
        """

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken, between two updates; after `prepare`."""

    def _set_position(self, num_updates: int) -> None:
        """Go on after so many updates."""
        self.num_updates, self._batches = num_updates, 0
        self.scheduler.step_update(num_updates)

    def close(self) -> None:
        """Undo, at the end of training, what `prepare` changed beyond the network."""
        return


def equip(network: nn.Module, options: ParallelOptions) -> None:
    """Set up activation checkpointing and compilation, in place: the network keeps its class, its names and its state.

    A network without blocks, such as the assigner, keeps its activations.
    """
    if options.activation_checkpointing and hasattr(network, "set_grad_checkpointing"):
        cast(Any, network).set_grad_checkpointing(True)
    if options.compile:
        allow_graphs(network)
        network.compile()
        _any_batch_in_evaluation(network)


def _any_batch_in_evaluation(network: nn.Module) -> None:
    """Tell the compiler that evaluation's batches vary in size, so that it makes one graph a token grid from the start."""
    module = cast(Any, network)
    compiled = module._compiled_call_impl

    def call(inputs: Tensor, *more: Any, **named: Any) -> Any:
        if not network.training:
            torch._dynamo.maybe_mark_dynamic(inputs, 0)
        return compiled(inputs, *more, **named)

    module._compiled_call_impl = call


def check_scale(scale: float, num_updates: int) -> None:
    """Raise UserError where a still lower scale would only hide that the gradients are not finite."""
    if scale < LOWEST_SCALE:
        raise UserError(
            f"gradients overflow float16 after update {num_updates} even at a loss scale of {LOWEST_SCALE:g}; lower the "
            "learning rate, clip gradients (train.clip_grad_norm), or use run.dtype bfloat16 or float32"
        )


def scaler_state(scaler: torch.amp.GradScaler) -> dict[str, float]:
    """Return the scale, and the updates since it last changed; empty where nothing is scaled."""
    own = scaler.state_dict()
    return {"scale": own["scale"], "good_updates": own["_growth_tracker"]} if own else {}


def load_scaler(scaler: torch.amp.GradScaler, state: dict[str, float]) -> None:
    """Go on with a scale that was saved; one that another dtype did not need starts anew."""
    if state and scaler.is_enabled():
        good_updates = min(int(state["good_updates"]), scaler.get_growth_interval() - 1)
        scaler.load_state_dict({**scaler.state_dict(), "scale": state["scale"], "_growth_tracker": good_updates})


class LocalBackend(Backend):
    """One process, one device, plain PyTorch."""

    def __init__(self, device: torch.device, dtype: str = "float32", *arguments: Any, **settings: Any) -> None:
        """Make the backend; `dtype` auto is float32, the other arguments are those of `Backend`."""
        super().__init__(device, "float32" if dtype == "auto" else dtype, *arguments, **settings)
        # Of float16 the program asks the scale, and so waits, in any case.
        self.works_behind = device.type == "cuda" and self.dtype != "float16"
        self._scaler = torch.amp.GradScaler(device.type, enabled=self.dtype == "float16")

    def prepare(self, network: nn.Module, optimizer: Optimizer, scheduler: Scheduler) -> nn.Module:
        self.model, self.optimizer, self.scheduler = network, optimizer, scheduler
        equip(network, self.options)
        self.scheduler.step_update(0)
        return network

    def backward(self, loss: Tensor) -> None:
        self._scaler.scale(loss / self.accumulate).backward()

    def _update(self) -> bool:
        if self.clip_grad_norm is not None:
            self._scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_grad_norm)
        scale = self._scaler.get_scale()
        self._scaler.step(self.optimizer)
        self._scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        overflowed = self._scaler.get_scale() < scale  # the optimiser was not called
        if overflowed:
            check_scale(self._scaler.get_scale(), self.num_updates)
        return not overflowed

    @contextmanager
    def whole(self) -> Iterator[nn.Module]:
        yield self.model

    def state_dict(self) -> dict[str, Any]:
        state = {
            "model": self.model.state_dict(),
            "optimizer": optimizer_state(self.optimizer, self.model),
            "scaler": scaler_state(self._scaler),
            "num_updates": self.num_updates,
        }
        return to_cpu(state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        load_optimizer_state(self.optimizer, self.model, state["optimizer"])
        load_scaler(self._scaler, state["scaler"])
        self._set_position(state["num_updates"])
