"""The device side of training behind four calls: prepare, backward, step, and state to save."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from timm.scheduler.scheduler import Scheduler
from torch import Tensor, nn
from torch.optim import Optimizer

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def pick_device(name: str) -> torch.device:
    """ "auto" is CUDA where there is one."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def autocast(device: torch.device, dtype: str) -> AbstractContextManager[Any]:
    """Autocast to `dtype`; for float32, and for "auto" where nothing resolved it, nothing."""
    return torch.autocast(device.type, dtype=DTYPES.get(dtype), enabled=dtype not in ("float32", "auto"))


class LocalBackend:
    """One process, one device, plain PyTorch."""

    def __init__(
        self,
        device: torch.device,
        dtype: str = "float32",
        accumulate: int = 1,
        clip_grad_norm: float | None = None,
    ) -> None:
        self.device = device
        self.dtype = dtype
        self.accumulate = accumulate
        self.clip_grad_norm = clip_grad_norm
        self.num_updates = 0
        self._batches = 0

    def prepare(self, model: nn.Module, optimizer: Optimizer, scheduler: Scheduler) -> nn.Module:
        """Take charge of the three; returns the model to call."""
        self.model, self.optimizer, self.scheduler = model, optimizer, scheduler
        self.scheduler.step_update(0)
        return model

    def autocast(self) -> AbstractContextManager[Any]:
        """The context for forward passes."""
        return autocast(self.device, self.dtype)

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of `loss`, divided by the number of batches per update (here and nowhere else)."""
        (loss / self.accumulate).backward()

    def step(self) -> bool:
        """End of a batch: update the weights if it was the last of its group. Says whether it did."""
        self._batches += 1
        if self._batches < self.accumulate:
            return False
        self._batches = 0
        if self.clip_grad_norm is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.num_updates += 1
        self.scheduler.step_update(self.num_updates)
        return True

    @property
    def learning_rate(self) -> float:
        return self.optimizer.param_groups[0]["lr"]

    def state_dict(self) -> dict[str, Any]:
        """Tensors, numbers and strings only, so that it can be read back without executing code."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "num_updates": self.num_updates,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken, between two updates."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.num_updates = state["num_updates"]
        self.scheduler.step_update(self.num_updates)
