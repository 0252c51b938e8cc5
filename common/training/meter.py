"""Measures of training: losses, speed, waiting, memory, time left; on one process and over all of them."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor

from revit.common.data.batch import Batch
from revit.common.system.distributed import DistributedContext

Sums = dict[str, tuple[float, int]]


@dataclass
class Meter:
    """Sums over the part of an epoch that this process has seen."""

    losses: Sums = field(default_factory=dict)
    """Name -> sum over batches, and how many; a process may not see every name."""
    num_batches: int = 0
    num_samples: float = 0
    seconds: float = 0.0
    data_seconds: float = 0.0
    """Part of `seconds` that was waiting for the loader."""
    memory_mb: float = 0.0

    def add(self, losses: dict[str, float], num_samples: int) -> None:
        """Add one batch."""
        for name, loss in losses.items():
            total, count = self.losses.get(name, (0.0, 0))
            self.losses[name] = (total + loss, count + 1)
        self.num_batches += 1
        self.num_samples += num_samples

    def means(self) -> dict[str, float]:
        """Return the mean loss by name."""
        return {name: total / max(count, 1) for name, (total, count) in self.losses.items()}

    def over(self, context: DistributedContext, num_data_ranks: int) -> Meter:
        """Return the meter of all processes, `num_data_ranks` of which read different samples. Called by all."""
        self.memory_mb = peak_memory_mb()
        if context.size == 1:
            return self
        meters = context.gather(self)
        losses: Sums = {}
        for meter in meters:
            for name, (total, count) in meter.losses.items():
                before, batches = losses.get(name, (0.0, 0))
                losses[name] = (before + total, batches + count)
        return Meter(
            losses=losses,
            num_batches=self.num_batches,
            num_samples=sum(meter.num_samples for meter in meters) * num_data_ranks / context.size,
            seconds=max(meter.seconds for meter in meters),
            data_seconds=sum(meter.data_seconds for meter in meters) / context.size,
            memory_mb=max(meter.memory_mb for meter in meters),
        )

    @property
    def per_second(self) -> float:
        """Samples per second."""
        return self.num_samples / max(self.seconds, 1e-9)

    @property
    def data_share(self) -> float:
        """Fraction of the time that is waiting for the loader."""
        return self.data_seconds / max(self.seconds, 1e-9)

    def facts(self, num_batches_left: int) -> dict[str, Any]:
        """Return the numbers for a log that programs read."""
        batches = max(self.num_batches, 1)
        return {
            "loss": self.means(),
            "samples_per_second": self.per_second,
            "data_share": self.data_share,
            "data_ms": 1000 * self.data_seconds / batches,
            "step_ms": 1000 * (self.seconds - self.data_seconds) / batches,
            "peak_memory_mb": self.memory_mb,
            "seconds_left": num_batches_left * self.seconds / batches,
        }

    def line(self, num_batches_left: int) -> str:
        """Write the same in a line for people."""
        facts = self.facts(num_batches_left)
        left = timedelta(seconds=round(facts["seconds_left"]))
        times = f"data {facts['data_ms']:.0f} + step {facts['step_ms']:.0f} ms"
        return f"{self._speed()}  {times}  memory {self.memory_mb:.0f} MB  left {left}"

    def __str__(self) -> str:
        return f"{self._speed()}  waiting for data {self.data_share:.0%}"

    def _speed(self) -> str:
        losses = "  ".join(f"{name} {loss:.3f}" for name, loss in self.means().items())
        return f"loss {losses}  {self.per_second:.1f}/s"


def peak_memory_mb() -> float:
    """Return the most memory this process has held, in MiB: its GPU's, or the machine's where it trains on the CPU."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


@dataclass(frozen=True)
class BatchLosses:
    """Losses of one batch."""

    names: list[str]
    numbers: Tensor
    """(k,) float32, in the host's memory once `arrived`."""
    arrived: torch.cuda.Event | None
    num_samples: int
    ids: Tensor
    """Sample ids, int64 (B,), where the batch is."""
    update: int
    """Updates made before this batch."""

    @property
    def values(self) -> dict[str, float]:
        """Losses by name. Waits for them."""
        if self.arrived is not None:
            self.arrived.synchronize()
        return dict(zip(self.names, self.numbers.tolist()))


class LossReader:
    """Reads the losses of one batch after the other as numbers, without making a device wait for the program.

    A GPU works behind the program, which queues its work. A number asked for at once makes the program wait until the
    queue is empty, once per token grid; then the GPU waits for the program. So with `late` each batch's losses travel
    to the host by themselves and are read when the next batch is queued: no wait, and a loss that is not finite is still
    found before the next state is saved.
    """

    def __init__(self, late: bool) -> None:
        self.late = late
        self._waiting: list[BatchLosses] = []

    def put(self, losses: Mapping[str, Tensor], batch: Batch, update: int) -> list[BatchLosses]:
        """Take one batch's scalars; return what can be read now: they, or with `late` those of the batch before."""
        ready = self.rest()
        # A rank may have none of the batch's token grids.
        numbers = torch.stack([loss.detach().float() for loss in losses.values()]) if losses else torch.empty(0)
        arrived = None
        if numbers.device.type == "cuda":
            host = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True)
            numbers = host.copy_(numbers, non_blocking=True)
            arrived = torch.cuda.Event()
            arrived.record()
        self._waiting.append(BatchLosses(list(losses), numbers, arrived, len(batch), batch.ids, update))
        return ready if self.late else self.rest()

    def rest(self) -> list[BatchLosses]:
        """Return all that was put and not read yet."""
        ready, self._waiting = self._waiting, []
        return ready
