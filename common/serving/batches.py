"""The computing side of a stream: token lengths assigned, views batched by length, answers handed back to their inputs."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from revit.common.methods.revit.adaptive import AdaptiveClassifier
from revit.common.models.base import Reduction
from revit.common.serving.buckets import LengthBuckets
from revit.common.serving.reading import Reading
from revit.common.serving.transfer import Launched, Transfer

IN_FLIGHT = 2
"""Batches that are launched before the answers of the first are waited for: a GPU is never without work."""
GLANCE_SECONDS = 0.002
"""Between two looks at whether launched batches are done."""


@dataclass
class InFlight:
    """An input under way: its views, and what has been said of them so far."""

    reading: Reading
    lengths: list[int] = field(default_factory=list)
    """Grid positions of its views."""
    logits: list[Tensor | None] = field(default_factory=list)
    """(K,) float32 on the CPU, of every view that was answered."""
    reductions: list[Reduction | None] = field(default_factory=list)
    seconds: float = 0.0
    error: str | None = None
    """Why there will be no answer of the model, whatever becomes of its other views."""

    @property
    def views(self) -> Tensor:
        """uint8 (V, C, ...) of an input without an error."""
        assert self.reading.views is not None
        return self.reading.views

    @property
    def is_done(self) -> bool:
        """Whether everything that will be said of it has been."""
        return self.error is not None or all(logits is not None for logits in self.logits)


@dataclass
class View:
    """One look at an input, on the device."""

    owner: InFlight
    number: int
    pixels: Tensor
    """uint8 (C, ...)"""


class StreamBatches:
    """Views of all inputs of a stream, run in batches of one token length."""

    def __init__(
        self,
        networks: AdaptiveClassifier,
        normalise: nn.Module,
        transfer: Transfer,
        limits: Sequence[int],
        max_wait_seconds: float,
        computing: AbstractContextManager[Any] | None = None,
    ) -> None:
        """limits: views that run together at each grid.  computing: held while networks run, by one stream at a time."""
        self.networks = networks
        self._normalise = normalise
        self._transfer = transfer
        self._computing = computing if computing is not None else nullcontext()
        self._working = 0.0  # seconds in which nothing could be read from the stream
        self._buckets: LengthBuckets[View] = LengthBuckets(limits, max_wait_seconds, self._idle_clock)
        self._launched: deque[tuple[list[View], Launched, Reduction | None]] = deque()

    def seconds_left(self) -> float | None:
        """Until something has to be looked after: a view that has waited too long, or answers; None where there is neither."""
        left = self._buckets.seconds_left()
        if self._launched:
            return GLANCE_SECONDS if left is None else min(left, GLANCE_SECONDS)
        return left

    def _idle_clock(self) -> float:
        """Stands still while something is computed. A view that had to wait for that did not wait for others: behind a model
        that is slower than the stream everything would be overdue, and run alone."""
        return time.monotonic() - self._working

    @torch.inference_mode()
    def add(self, inputs: Sequence[InFlight]) -> None:
        """Assign the token lengths of inputs that were read, and put their views into the buckets. Those with an error are
        left alone."""
        good = [one for one in inputs if one.error is None]
        if not good:
            return
        start = time.perf_counter()
        try:
            with self._computing, self._transfer.aside():
                moved = [self._transfer.to_device(one.views) for one in good]
                views = moved[0] if len(moved) == 1 else torch.cat(moved)
                lengths = self.networks.assign(self._normalise(views)).tolist()
        except (MemoryError, torch.OutOfMemoryError):
            if len(good) == 1:
                good[0].error = OUT_OF_MEMORY
            else:
                for one in good:
                    self.add([one])
            return
        seconds = time.perf_counter() - start
        self._working += seconds
        seconds /= len(good)
        for one, pixels in zip(good, moved):
            one.seconds += seconds
            one.lengths, lengths = lengths[: len(pixels)], lengths[len(pixels) :]
            one.logits, one.reductions = [None] * len(pixels), [None] * len(pixels)
            for number, (length, view) in enumerate(zip(one.lengths, pixels)):
                self._buckets.add(length, View(one, number, view))

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
    def _run(self, length: int, views: list[View]) -> None:
        views = [view for view in views if view.owner.error is None]  # another view of it failed
        if not views:
            return
        reduction: Reduction | None = None

        def answer() -> Tensor:
            nonlocal reduction
            inputs = self._normalise(torch.stack([view.pixels for view in views]))
            output = self.networks.model(inputs, self.networks.grids[length])
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
            self._buckets.limits[length] = half  # the next ones of this length are as large
            self._run(length, views[:half])
            self._run(length, views[half:])

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


OUT_OF_MEMORY = "not enough memory for it; try fewer --views or a shorter --grid"
