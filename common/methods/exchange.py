"""How the token grids of one batch come together: all in one process, or shared out among several.

A task asks its exchange which grids to run and how the longest grid's logits reach the others, and so knows nothing of
processes.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor

from revit.common.models.grid import TokenGrid


class LengthExchange(Protocol):
    """What a task that trains several token grids on a batch asks, in this order."""

    def begin(self, grids: Sequence[TokenGrid]) -> Sequence[TokenGrid]:
        """A batch begins: of the model's `grids`, those that this process runs, longest first."""
        ...

    def passing(self, grid: TokenGrid) -> AbstractContextManager[None]:
        """Around the forward pass of `grid`."""
        ...

    def teach(self, logits: Tensor) -> None:
        """Give the others the longest grid's logits (B, K), which carry no gradient. Does not wait for them."""
        ...

    def taught(self, like: Tensor) -> Tensor:
        """The longest grid's logits of this batch; `like` (B, K) has their shape, type and device. Waits if they are
        not here yet, so it is best asked after the own forward pass."""
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
        """All of them."""
        self._logits = None
        return grids

    def passing(self, grid: TokenGrid) -> AbstractContextManager[None]:
        """Nothing."""
        return nullcontext()

    def teach(self, logits: Tensor) -> None:
        """Keep them for the grids to come."""
        self._logits = logits

    def taught(self, like: Tensor) -> Tensor:
        """What was kept. Raises RuntimeError if the longest grid was not run first."""
        if self._logits is None:
            raise RuntimeError("the longest grid teaches the others, so it has to run first")
        return self._logits
