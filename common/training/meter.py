"""What training is measured by: losses, speed, waiting, memory, time left; on one process and over all of them."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch

from revit.common.system.distributed import World

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
    """Of these, waiting for the loader."""
    memory_mb: float = 0.0

    def add(self, losses: dict[str, float], num_samples: int) -> None:
        """One batch."""
        for name, loss in losses.items():
            total, count = self.losses.get(name, (0.0, 0))
            self.losses[name] = (total + loss, count + 1)
        self.num_batches += 1
        self.num_samples += num_samples

    def means(self) -> dict[str, float]:
        """Loss by name."""
        return {name: total / max(count, 1) for name, (total, count) in self.losses.items()}

    def over(self, world: World, num_data_ranks: int) -> Meter:
        """The meter of all processes, `num_data_ranks` of which read different samples. Called by all."""
        self.memory_mb = peak_memory_mb()
        if world.size == 1:
            return self
        meters = world.gather(self)
        losses: Sums = {}
        for meter in meters:
            for name, (total, count) in meter.losses.items():
                before, batches = losses.get(name, (0.0, 0))
                losses[name] = (before + total, batches + count)
        return Meter(
            losses=losses,
            num_batches=self.num_batches,
            num_samples=sum(meter.num_samples for meter in meters) * num_data_ranks / world.size,
            seconds=max(meter.seconds for meter in meters),
            data_seconds=sum(meter.data_seconds for meter in meters) / world.size,
            memory_mb=max(meter.memory_mb for meter in meters),
        )

    @property
    def per_second(self) -> float:
        """Samples."""
        return self.num_samples / max(self.seconds, 1e-9)

    @property
    def data_share(self) -> float:
        """Fraction of the time that is waiting for the loader."""
        return self.data_seconds / max(self.seconds, 1e-9)

    def seconds_for(self, num_batches: int) -> float:
        """How long that many more batches take."""
        return num_batches * self.seconds / max(self.num_batches, 1)

    def facts(self, num_batches_left: int) -> dict[str, Any]:
        """For a log that programs read."""
        batches = max(self.num_batches, 1)
        return {
            "loss": self.means(),
            "samples_per_second": self.per_second,
            "data_share": self.data_share,
            "data_ms": 1000 * self.data_seconds / batches,
            "step_ms": 1000 * (self.seconds - self.data_seconds) / batches,
            "peak_memory_mb": self.memory_mb,
            "seconds_left": self.seconds_for(num_batches_left),
        }

    def line(self, num_batches_left: int) -> str:
        """For people."""
        facts = self.facts(num_batches_left)
        left = timedelta(seconds=round(facts["seconds_left"]))
        return (
            f"loss {self._losses()}  {self.per_second:.1f}/s  data {facts['data_ms']:.0f} + step {facts['step_ms']:.0f} ms"
            f"  memory {self.memory_mb:.0f} MB  left {left}"
        )

    def __str__(self) -> str:
        return f"loss {self._losses()}  {self.per_second:.1f}/s  waiting for data {self.data_share:.0%}"

    def _losses(self) -> str:
        return "  ".join(f"{name} {loss:.3f}" for name, loss in self.means().items())


def peak_memory_mb() -> float:
    """The most that this process has held: of its GPU's memory, or of the machine's where it trains on the CPU."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
