"""Checkerboard: from one block on, the tokens of the white squares alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor

from revit.common.methods.base import Method, MethodOptions
from revit.common.models.reducer import Reducer, Shorter, TokenLayout
from revit.common.models.vit import ResizableTransformer


class CheckerboardOptions(MethodOptions):
    """Settings of `methods.checkerboard`."""

    before: int = Field(default=1, ge=0)
    """The first block that sees half of the tokens."""


class CheckerboardReducer(Reducer):
    """Drops every second position, neighbours in a row and in a column alternating."""

    def __init__(self, before: int) -> None:
        super().__init__()
        self.before = before

    def plan(self, number: int, patches: Tensor, layout: TokenLayout) -> Shorter | None:
        if number != self.before:
            return None
        B, S, cols = *patches.shape[:2], layout.grid.cols
        kept = torch.arange(0, S, 2, device=patches.device)
        if cols % 2 == 0:  # every other row begins with a black square
            kept = kept + kept // cols % 2
        return Shorter(kept.expand(B, -1), S)

    def positions_per_block(self, num_positions: int, depth: int) -> Sequence[int]:
        return [num_positions if number < self.before else (num_positions + 1) // 2 for number in range(depth)]


class Checkerboard(Method[CheckerboardOptions]):
    """No paper: the smallest method there can be."""

    options_class = CheckerboardOptions

    def attach(self, model: ResizableTransformer) -> None:
        model.reducer = CheckerboardReducer(self.options.before)


METHOD = Checkerboard
