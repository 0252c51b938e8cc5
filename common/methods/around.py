"""A task around another one, for methods that change something before each batch and leave the losses as they are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

from torch import Tensor, nn

from revit.common.data.batch import Batch
from revit.common.methods.exchange import LengthExchange, SharesLengths
from revit.common.methods.task import Progress, Task


@dataclass
class TaskAround(Task):
    """Passes everything on to `task`. A method derives it, does its own in `begin` and calls this one's."""

    task: Task

    def begin(self, progress: Progress) -> None:
        self.task.begin(progress)

    def losses(self, model: nn.Module, inputs: Tensor, batch: Batch) -> Iterator[tuple[str, Tensor]]:
        return self.task.losses(model, inputs, batch)

    @property
    def exchange(self) -> LengthExchange:
        """Where the grids run, if the losses can be shared out (`SharesLengths`); AttributeError otherwise."""
        return cast(SharesLengths, self.task).exchange

    @exchange.setter
    def exchange(self, exchange: LengthExchange) -> None:
        if not isinstance(self.task, SharesLengths):
            raise TypeError(
                f"{type(self.task).__name__} has no exchange, so its token grids cannot be shared out"
            )
        self.task.exchange = exchange
