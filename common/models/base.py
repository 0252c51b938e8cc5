"""What everything outside the models needs of one: token grids to run at, classes to tell apart."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor, nn

from revit.common.models.grid import TokenGrid
from revit.common.models.reducer import Reducer

if TYPE_CHECKING:
    from revit.common.models.outputs import ModelOutput


class GridModel(nn.Module, ABC):
    """A classifier of pictures or clips that runs at one token grid or several."""

    grids: tuple[TokenGrid, ...]
    """Token grids, longest first; the first is the one that counts where none is named."""
    num_classes: int
    embed_dim: int
    """Width of the features that are classified."""
    asks_reducer: ClassVar[bool] = False
    """Has one sequence that a reducer can shorten, and asks it before every block."""

    def __init__(self) -> None:
        super().__init__()
        self.reducer: Reducer | None = None
        """Shortens the sequence between blocks."""

    @abstractmethod
    def check_grid(self, grid: TokenGrid | None) -> TokenGrid:
        """Return the grid to run, the longest where none is named. Raise KeyError or ValueError for an impossible one."""

    @abstractmethod
    def forward(self, inputs: Tensor, grid: TokenGrid | None = None) -> ModelOutput:
        """Classify normalised inputs (B, C, ...) -> logits (B, K), at `grid` (default: the longest)."""

    @abstractmethod
    def no_weight_decay(self) -> set[str]:
        """Return the names of parameters that are not decayed (timm's optimiser factory asks for them)."""

    @abstractmethod
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keep in training only what enters each block and compute the block again in the backward pass (timm's name)."""
