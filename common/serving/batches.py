"""The computing side of a stream: token grids assigned, views batched by grid, answers handed back to their inputs.

Where the device can, pixels go over and answers come back beside the computing.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from revit.common.methods.revit.adaptive import AdaptiveClassifier
from revit.common.models.base import Reduction
from revit.common.serving.reading import InFlight

IN_FLIGHT = 2
"""Batches that are launched before the answers of the first are waited for: a GPU is never without work."""
GLANCE_SECONDS = 0.002
"""Time between two looks at whether launched batches are done."""
OUT_OF_MEMORY = "not enough memory for it; try fewer --views or a shorter --grid"

Item = TypeVar("Item")


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


class GridBuckets(Generic[Item]):
    """One bucket for each token grid. A bucket is due when it is full, or when its oldest item has waited too long.

    Items leave a bucket in the order in which they came; nothing is lost, and nothing leaves twice.
    """

    def __init__(
        self, limits: Sequence[int], max_wait_seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Take `limits`, the number of items that make each bucket full. Raise ValueError for one below 1."""
        if not limits or min(limits) < 1:
            raise ValueError(f"limits {list(limits)}: every bucket must hold at least 1 item")
        self.limits = list(limits)
        self.max_wait_seconds = max_wait_seconds
        self._clock = clock
        self._waiting: list[deque[tuple[float, Item]]] = [deque() for _ in limits]

    def add(self, bucket: int, item: Item) -> None:
        """Put an item into a bucket."""
        self._waiting[bucket].append((self._clock(), item))

    def due(self) -> tuple[int, list[Item]] | None:
        """Take out of a bucket that has to run now as many items as one batch holds: of a full one, else of one whose oldest
        item has waited too long. None: nothing has to run."""
        full = [bucket for bucket, waiting in enumerate(self._waiting) if len(waiting) >= self.limits[bucket]]
        if full:
            return full[0], self._take(full[0])
        return self.take_oldest() if self.seconds_left() == 0 else None

    def seconds_left(self) -> float | None:
        """Return the time until an item has waited too long; None where nothing waits."""
        oldest = self._oldest()
        if oldest is None:
            return None
        return max(0.0, self._waiting[oldest][0][0] + self.max_wait_seconds - self._clock())

    def take_oldest(self) -> tuple[int, list[Item]] | None:
        """Take a batch out of the bucket with the item that has waited longest; None where nothing waits."""
        oldest = self._oldest()
        return None if oldest is None else (oldest, self._take(oldest))

    def _oldest(self) -> int | None:
        filled = [bucket for bucket, waiting in enumerate(self._waiting) if waiting]
        return min(filled, key=lambda bucket: self._waiting[bucket][0][0], default=None)

    def _take(self, bucket: int) -> list[Item]:
        waiting = self._waiting[bucket]
        return [waiting.popleft()[1] for _ in range(min(len(waiting), self.limits[bucket]))]


@dataclass
class _View:
    """One look at an input, on the device."""

    owner: InFlight
    number: int
    pixels: Tensor
    """Pixels, uint8 (C, ...)."""


class StreamBatches:
    """Views of all inputs of a stream, run in batches of one token grid."""

    def __init__(
        self,
        networks: AdaptiveClassifier,
        normalise: Callable[[Tensor], Tensor],
        transfer: Transfer,
        limits: Sequence[int],
        max_wait_seconds: float,
        computing: AbstractContextManager[Any] | None = None,
    ) -> None:
        """Take `limits`, the number of views that run together at each grid, and `computing`, which is held while networks
        run, by one stream at a time."""
        self.networks = networks
        self._normalise = normalise
        self._transfer = transfer
        self._computing = computing if computing is not None else nullcontext()
        self._working = 0.0  # seconds in which nothing could be read from the stream
        self._buckets: GridBuckets[_View] = GridBuckets(limits, max_wait_seconds, self._idle_clock)
        self._launched: deque[tuple[list[_View], Launched, Reduction | None]] = deque()

    def seconds_left(self) -> float | None:
        """Return the time until something has to be looked after, a view that has waited too long or answers; None where
        there is neither."""
        left = self._buckets.seconds_left()
        if self._launched:
            return GLANCE_SECONDS if left is None else min(left, GLANCE_SECONDS)
        return left

    def _idle_clock(self) -> float:
        """Read a clock that stands still while something is computed: behind a model that is slower than the stream every view
        would be overdue by the other, and run alone."""
        return time.monotonic() - self._working

    @torch.inference_mode()
    def add(self, inputs: Sequence[InFlight]) -> None:
        """Assign the token grids of inputs that were read, and put their views into the buckets. Those with an error are
        left alone."""
        good = [one for one in inputs if one.error is None]
        if not good:
            return
        start = time.perf_counter()
        try:
            with self._computing, self._transfer.aside():
                moved = [self._transfer.to_device(one.views) for one in good if one.views is not None]
                views = moved[0] if len(moved) == 1 else torch.cat(moved)
                grid_index = self.networks.assign(self._normalise(views)).tolist()
        except (MemoryError, torch.OutOfMemoryError):
            if len(good) == 1:
                good[0].error = OUT_OF_MEMORY
            else:
                for one in good:
                    self.add([one])
            return
        seconds = time.perf_counter() - start
        self._working += seconds
        for one, pixels in zip(good, moved):
            one.seconds += seconds / len(good)
            one.grid_index, grid_index = grid_index[: len(pixels)], grid_index[len(pixels) :]
            one.logits, one.reductions = [None] * len(pixels), [None] * len(pixels)
            for number, (index, view) in enumerate(zip(one.grid_index, pixels)):
                self._buckets.add(index, _View(one, number, view))

    def run_due(self) -> None:
        """Run every bucket that is full or has waited too long."""
        while (batch := self._buckets.due()) is not None:
            self._run(*batch)
        self._collect(IN_FLIGHT)

    def run_oldest(self) -> None:
        """Run the bucket of the view that has waited longest, and wait for its answers."""
        if (batch := self._buckets.take_oldest()) is not None:
            self._run(*batch)
        self._collect(0)

    def finish(self) -> None:
        """Run what is left."""
        while (batch := self._buckets.take_oldest()) is not None:
            self._run(*batch)
        self._collect(0)

    @torch.inference_mode()
    def _run(self, index: int, views: list[_View]) -> None:
        views = [view for view in views if view.owner.error is None]  # another view of it failed
        if not views:
            return
        reduction: Reduction | None = None

        def answer() -> Tensor:
            nonlocal reduction
            inputs = self._normalise(torch.stack([view.pixels for view in views]))
            output = self.networks.model(inputs, self.networks.grids[index])
            reduction = output.reduction
            return output.prediction.float()

        start = time.monotonic()
        try:
            with self._computing:
                launched = self._transfer.launch(answer)
            self._launched.append((views, launched, reduction))
            self._working += time.monotonic() - start
        except (MemoryError, torch.OutOfMemoryError):
            self._collect(0)
            if len(views) == 1:
                views[0].owner.error = OUT_OF_MEMORY
                return
            half = len(views) // 2
            self._buckets.limits[index] = half  # the next ones of this grid are as large
            self._run(index, views[:half])
            self._run(index, views[half:])

    def _collect(self, leave: int) -> None:
        """Hand answers back to their inputs; those of the last `leave` batches only if they are there."""
        while len(self._launched) > leave or (self._launched and self._launched[0][1].is_ready):
            views, launched, reduction = self._launched.popleft()
            start = time.monotonic()
            logits, seconds = launched.wait()
            self._working += time.monotonic() - start
            each = 1 if reduction is None else len(reduction.token_source_map) // len(views)
            for row, view in enumerate(views):
                view.owner.logits[view.number] = logits[row]
                view.owner.seconds += seconds / len(views)
                if reduction is not None:
                    part = slice(row * each, (row + 1) * each)
                    view.owner.reductions[view.number] = reduction.of_samples(part)
