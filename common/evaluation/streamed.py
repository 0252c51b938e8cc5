"""An adaptive classifier over a whole split, as the inference engine runs it: batches of one token length."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from revit.common.methods.revit.adaptive import AdaptiveClassifier, batch_at
from revit.common.serving.batches import InFlight, StreamBatches
from revit.common.serving.reading import Reading
from revit.common.serving.transfer import Transfer


class Streamed:
    """Answers to inputs that come batch by batch. Views that were given the same token length run together, though other
    batches came between them: at each grid as many as its limit, and what is left at the end.

    Lengths are assigned batch by batch, so a policy that follows what was spent sees what it saw without this. The pixels of
    inputs that wait for others are kept, of at most as many as the limits of all grids together.
    """

    def __init__(self, classifier: AdaptiveClassifier, pixels: nn.Module, device: torch.device) -> None:
        """pixels: uint8 inputs -> normalised floats on `device`."""
        longest = classifier.grids[0]
        limits = [batch_at(grid, longest, classifier.max_batch) for grid in classifier.grids]
        self._device = device
        self._pixels = _Untimed(pixels, self._wait)
        self._batches = StreamBatches(classifier, self._pixels, Transfer(device), limits, math.inf)
        self._all: list[InFlight] = []
        self._open: list[InFlight] = []
        self._seconds = 0.0

    @property
    def seconds(self) -> float:
        """Spent on assigning and answering so far; normalising, which all runners of a pass share, is not in it."""
        return self._seconds - self._pixels.seconds

    def add(self, views: Tensor, num_views: int) -> None:
        """uint8 (B * V, C, ...) of B inputs. MemoryError where a single view does not fit."""
        # Copies: an input that waits must not keep its whole batch in memory.
        new = [InFlight(Reading(None, views=one.clone())) for one in views.cpu().unflatten(0, (-1, num_views))]
        self._all += new
        self._open += new
        with self._clocked():
            self._batches.add(new)
            self._batches.run_due()
        self._let_go()

    def finish(self) -> tuple[Tensor, Tensor]:
        """Logits (N, V, K) and grid positions (N, V) of all inputs, in their order; empty where none came."""
        with self._clocked():
            self._batches.finish()
        self._let_go()
        if not self._all:
            return torch.empty(0), torch.empty(0, dtype=torch.long)
        logits = [torch.stack([row for row in one.logits if row is not None]) for one in self._all]
        return torch.stack(logits), torch.tensor([one.lengths for one in self._all])

    @contextmanager
    def _clocked(self) -> Iterator[None]:
        self._wait()
        start = time.perf_counter()
        yield
        self._wait()
        self._seconds += time.perf_counter() - start

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    def _let_go(self) -> None:
        """Of the pixels of what is done."""
        for one in self._open:
            if one.error is not None:
                raise MemoryError(one.error)
            if one.is_done:
                one.reading.views = None
                one.reductions.clear()
        self._open = [one for one in self._open if not one.is_done]


class _Untimed(nn.Module):
    """Knows how long `inner` took, for a clock that is to leave it out."""

    def __init__(self, inner: nn.Module, wait: Callable[[], None]) -> None:
        super().__init__()
        self.inner, self._wait, self.seconds = inner, wait, 0.0

    def forward(self, inputs: Tensor) -> Tensor:
        self._wait()
        start = time.perf_counter()
        normalised: Tensor = self.inner(inputs)
        self._wait()
        self.seconds += time.perf_counter() - start
        return normalised
