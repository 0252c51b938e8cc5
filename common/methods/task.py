"""What one batch means for a method: the losses, and how the token grids of a batch come together.

The training loop knows only the protocol `Task`. A task asks its exchange which grids to run and how the longest grid's
logits reach the others, and so knows nothing of processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol, cast, runtime_checkable

from torch import Tensor, nn

from revit.common.data.batch import Batch
from revit.common.models.grid import TokenGrid

BatchAugment = Callable[[Tensor, Batch], tuple[Tensor, Batch]]
"""Changes a training batch as a whole, on the device: normalised inputs and their batch -> the same, changed."""


@dataclass(frozen=True)
class Progress:
    """How far a training has come, the same on every process and after a resume."""

    update: int
    """Updates of the weights made so far."""
    fraction: float
    """Share of the whole training's samples that were trained on, from 0 to 1."""
    after: float | None = None
    """Share t / T, where this is update t, from 1, of T planned ones (skipped ones count); None: not known."""


class Task(Protocol):
    """A method's losses."""

    def begin(self, progress: Progress) -> None:
        """Prepare for a batch; all batches of an update hear the same. Most need nothing of it."""
        return

    def losses(self, model: nn.Module, inputs: Tensor, batch: Batch) -> Iterator[tuple[str, Tensor]]:
        """Yield (name, scalar) one after the other; the loop runs each backward before it asks for the next.

        inputs (B, C, ...) normalised, in place of the batch's own; of `batch` the rest: targets (B,) class numbers or
        (B, K) soft, ids (B,) positions in the list, extras. The gradients of all of them add up to one step.
        """
        ...


class LengthExchange(Protocol):
    """Answers a task that trains several token grids on a batch, in this order."""

    def begin(self, grids: Sequence[TokenGrid]) -> Sequence[TokenGrid]:
        """Begin a batch and return those of the model's `grids` that this process runs, longest first."""
        ...

    def forwarding(self, grid: TokenGrid) -> AbstractContextManager[None]:
        """Surround the forward pass of `grid`."""
        ...

    def publish(self, logits: Tensor) -> None:
        """Give the others the longest grid's logits (B, K), which carry no gradient. Does not wait for them."""
        ...

    def teacher_logits(self, like: Tensor) -> Tensor:
        """Return the longest grid's logits of this batch, shaped as `like` (B, K). Waits for them: ask after the own forward pass."""
        ...


@runtime_checkable
class SharesLengths(Protocol):
    """A task whose grids may be shared out: it takes any exchange in this place."""

    exchange: LengthExchange


@dataclass
class OneProcess:
    """Algorithm 1 of ReViT as it stands: every grid here, one after the other."""

    _logits: Tensor | None = None

    def begin(self, grids: Sequence[TokenGrid]) -> Sequence[TokenGrid]:
        self._logits = None
        return grids

    def forwarding(self, grid: TokenGrid) -> AbstractContextManager[None]:
        return nullcontext()

    def publish(self, logits: Tensor) -> None:
        self._logits = logits

    def teacher_logits(self, like: Tensor) -> Tensor:
        """Return what was published. Raise RuntimeError if the longest grid was not run first."""
        if self._logits is None:
            raise RuntimeError("the longest grid teaches the others, so it has to run first")
        return self._logits


@dataclass
class TaskAround(Task):
    """A task that passes everything on to `task`: a method derives it, does its own in `begin` and calls this one's."""

    task: Task

    def begin(self, progress: Progress) -> None:
        self.task.begin(progress)

    def losses(self, model: nn.Module, inputs: Tensor, batch: Batch) -> Iterator[tuple[str, Tensor]]:
        return self.task.losses(model, inputs, batch)

    @property
    def exchange(self) -> LengthExchange:
        """The place where the grids run, if the losses can be shared out (`SharesLengths`); AttributeError otherwise."""
        return cast(SharesLengths, self.task).exchange

    @exchange.setter
    def exchange(self, exchange: LengthExchange) -> None:
        if not isinstance(self.task, SharesLengths):
            raise TypeError(f"{type(self.task).__name__} has no exchange, so its token grids cannot be shared out")
        self.task.exchange = exchange
