"""Losses as numbers, without making a device wait for the program."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from revit.common.data.batch import Batch


@dataclass(frozen=True)
class BatchLosses:
    """What one batch's losses were."""

    values: dict[str, float]
    num_samples: int
    ids: Tensor
    """int64 (B,), where the batch is."""
    update: int
    """Updates made before this batch."""


@dataclass(frozen=True)
class _OnTheWay:
    names: list[str]
    numbers: Tensor
    """(k,) float32, in the host's memory once `arrived`."""
    arrived: torch.cuda.Event | None
    num_samples: int
    ids: Tensor
    update: int

    def read(self) -> BatchLosses:
        if self.arrived is not None:
            self.arrived.synchronize()
        values = dict(zip(self.names, self.numbers.tolist()))
        return BatchLosses(values, self.num_samples, self.ids, self.update)


class LossReader:
    """Takes the losses of one batch after the other and gives them back as numbers.

    A GPU works behind the program, which queues its work. A number asked for at once makes the program wait until the
    queue is empty, once per token grid; then the GPU waits for the program. So with `late` each batch's losses travel
    to the host by themselves and are read when the next batch is queued: no wait, and a loss that is not finite is still
    found before the next state is saved.
    """

    def __init__(self, late: bool) -> None:
        self.late = late
        self._waiting: list[_OnTheWay] = []

    def put(self, losses: dict[str, Tensor], batch: Batch, update: int) -> list[BatchLosses]:
        """One batch's scalars -> what can be read now: they, or with `late` those of the batch before."""
        ready = self.rest()
        if losses:
            numbers = torch.stack([loss.detach().float() for loss in losses.values()])
        else:  # a rank that has none of the batch's token grids
            numbers = torch.empty(0)
        arrived = None
        if numbers.device.type == "cuda":
            host = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True)
            numbers = host.copy_(numbers, non_blocking=True)
            arrived = torch.cuda.Event()
            arrived.record()
        self._waiting.append(_OnTheWay(list(losses), numbers, arrived, len(batch), batch.ids, update))
        return ready if self.late else self.rest()

    def rest(self) -> list[BatchLosses]:
        """All that was put and not read yet. Waits for it."""
        ready = [one.read() for one in self._waiting]
        self._waiting.clear()
        return ready
