"""Pixels to the device and answers back, beside the computing where the device can."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


class Transfer:
    """What moves between the processor and `device`. On a CPU nothing does.

    On CUDA bytes go over from page-locked memory on a stream of their own, on which the assigner runs, too: neither waits
    for the batch that is being computed, nor does it wait for them.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._is_cuda = device.type == "cuda"
        self._side: Any = torch.cuda.Stream(device) if self._is_cuda else None

    def aside(self) -> AbstractContextManager[Any]:
        """Return a context in which what is launched runs beside the model."""
        return torch.cuda.stream(self._side) if self._is_cuda else nullcontext()

    def to_device(self, views: Tensor) -> Tensor:
        """Move uint8 to the device; call it `aside`."""
        if not self._is_cuda or views.is_cuda:
            return views.to(self.device)
        moved = views.pin_memory().to(self.device, non_blocking=True)
        # The batch that it will be part of runs on the main stream, and its memory must not be used anew before that.
        moved.record_stream(torch.cuda.default_stream(self.device))
        return moved

    def launch(self, run: Callable[[], Tensor]) -> Launched:
        """Start `run()`, whose result will be wanted on the CPU."""
        if not self._is_cuda:
            start = time.perf_counter()
            result = run()
            return Launched(result, time.perf_counter() - start)
        first, last, copied = (torch.cuda.Event(enable_timing=True) for _ in range(3))
        first.record()
        result = run()
        last.record()
        landed = torch.empty(result.shape, dtype=result.dtype, pin_memory=True)
        landed.copy_(result, non_blocking=True)
        copied.record()
        return Launched(landed, events=(first, last, copied))


@dataclass(frozen=True)
class Launched:
    """A result that is there, or will be."""

    tensor: Tensor
    """Result on the CPU; not to be read before `wait`."""
    seconds: float = 0.0
    events: tuple[Any, Any, Any] | None = None
    """Events of CUDA: the computing began, it ended, its result was copied."""

    @property
    def is_ready(self) -> bool:
        """Waiting would take no time."""
        return self.events is None or self.events[2].query()

    def wait(self) -> tuple[Tensor, float]:
        """Return the result, and the seconds that computing it took."""
        if self.events is None:
            return self.tensor, self.seconds
        first, last, copied = self.events
        copied.synchronize()
        return self.tensor, first.elapsed_time(last) / 1000
