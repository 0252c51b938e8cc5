"""The one hook at which a method may shorten the token sequence: between two blocks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

from torch import Tensor, nn

from revit.common.models.decision import Decision
from revit.common.models.layout import TokenLayout


class Reducer(nn.Module, ABC):
    """Asked before every block; what it plans is carried out on the tokens, and later on whatever else has their axis.

    A subclass writes `plan`, and `positions_per_block` and `macs` if it works in evaluation too.
    """

    merges: ClassVar[bool] = False
    """Merges what it takes out into what stays; a model with patch logits then still has them for all places."""

    @abstractmethod
    def plan(self, number: int, patches: Tensor, layout: TokenLayout) -> Decision | None:
        """Decide about the positions before block `number` (from 0); patches (B, S, T, D) are not normalised. None: all stay."""

    def forward(self, number: int, tokens: Tensor, layout: TokenLayout) -> tuple[Tensor, TokenLayout]:
        """Turn (B, P + S * T, D) and its layout into what block `number` shall see."""
        patches = tokens[:, layout.num_prefix :].unflatten(1, (layout.num_positions, layout.num_frames))
        decision = self.plan(number, patches, layout)
        return (tokens, layout) if decision is None else decision.carry_out(tokens, layout)

    def positions_per_block(self, num_positions: int, depth: int) -> Sequence[int]:
        """Count the positions that each of `depth` blocks sees in evaluation. All, unless overridden."""
        return [num_positions] * depth

    def macs(self, num_positions: int, num_frames: int = 1) -> Mapping[str, float]:
        """Count the multiply-accumulates of `plan` for one input in evaluation, by kind of work. None, unless overridden."""
        return {}
