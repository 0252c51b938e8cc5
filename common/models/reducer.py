"""The one hook at which a method may shorten the token sequence, between two blocks, and what it decides there.

A decision is made once and can then be carried out on any tensor with that axis of positions: features, dense targets,
a teacher's tokens, source maps for pictures (the idea of ToMe's merge functions).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from revit.common.models.grid import TokenGrid


@dataclass(frozen=True)
class TokenLayout:
    """The parts of a token axis of length P + S * T: P prefix tokens, then S positions of T frames each.

    Positions are in row order until a reducer shortens them; the frames of one position lie side by side (time is the
    fastest axis), the order of the published TimeSformer. Pictures have one frame.
    """

    grid: TokenGrid
    """The nominal grid: the key of everything length-aware."""
    num_prefix: int
    num_positions: int
    """Positions that are left."""
    num_frames: int = 1
    keep: Tensor | None = field(default=None, compare=False)
    """Weights (B, S): 0 where the others must not see a position (DynamicViT's training), else 1. None: all count."""
    decisions: tuple[Decision, ...] = field(default=(), compare=False)
    """Decisions of reducers about the positions so far."""


@dataclass(frozen=True, eq=False)
class Shorter:
    """K of S positions go on, in the order of `kept`; the others are dropped, or merged into those."""

    kept: Tensor
    """Positions (B, K), long."""
    num_positions: int
    """S"""
    slots: Tensor | None = None
    """Slot, of K, that each position went into (B, S), a kept one into its own; None: those not kept are dropped."""

    def apply(self, x: Tensor) -> Tensor:
        """Take the kept positions, (B, S, ...) -> (B, K, ...), each the mean of what was merged into it. Gradients pass."""
        if self.slots is None:
            return rows_of(x, self.kept)
        B, K = self.kept.shape
        rows = _flat(self.slots, K)  # adding whole rows is many times faster than scattering single numbers
        totals = x.new_zeros(B * K, *x.shape[2:]).index_add(0, rows, x.flatten(0, 1))
        ones = torch.ones_like(rows, dtype=torch.float32)  # bfloat16 cannot count beyond 256
        counts = ones.new_zeros(B * K).index_add(0, rows, ones).to(x.dtype)
        return (totals / counts.view(-1, *[1] * (x.ndim - 2))).unflatten(0, (B, K))

    def restore(self, x: Tensor) -> Tensor:
        """Put every token back at its place, (B, K, ...) -> (B, S, ...), zeros at the places of the others."""
        B, S = len(x), self.num_positions
        rows = x.new_zeros(B * S, *x.shape[2:])
        return rows.index_copy(0, _flat(self.kept, S), x.flatten(0, 1)).unflatten(0, (B, S))

    def carry_out(self, tokens: Tensor, layout: TokenLayout) -> tuple[Tensor, TokenLayout]:
        """Turn (B, P + S * T, D) and its layout into both afterwards. The prefix is never touched."""
        P = layout.num_prefix
        patches = tokens[:, P:].unflatten(1, (layout.num_positions, layout.num_frames))  # (B, S, T, D)
        shorter = self.apply(patches).flatten(1, 2)
        after = replace(
            layout,
            num_positions=self.kept.shape[1],
            # A weight is the token's own: what was merged into it does not make it count less.
            keep=None if layout.keep is None else rows_of(layout.keep, self.kept),
            decisions=(*layout.decisions, self),
        )
        return torch.cat([tokens[:, :P], shorter], dim=1), after

    def slot_map(self) -> Tensor:
        """Return (B, S) long: where the token is afterwards that stands for each position, its own or another's; -1: dropped."""
        if self.slots is not None:
            return self.slots
        dropped = self.kept.new_full((len(self.kept), self.num_positions), -1)
        return dropped.scatter(1, self.kept, _counted(self.kept))


@dataclass(frozen=True, eq=False)
class Weighted:
    """All positions stay in the sequence, with a weight of 0 or 1 by which the others see them; gradients reach it."""

    keep: Tensor
    """Weights (B, S)."""

    def carry_out(self, tokens: Tensor, layout: TokenLayout) -> tuple[Tensor, TokenLayout]:
        return tokens, replace(layout, keep=self.keep, decisions=(*layout.decisions, self))

    def slot_map(self) -> Tensor:
        return _counted(self.keep).masked_fill(self.keep.detach() == 0, -1)


Decision = Shorter | Weighted
"""What becomes of S positions, for each of B samples and the same for all frames of a sample."""


def token_source_maps(decisions: Sequence[Decision]) -> list[Tensor]:
    """Return, for each of these decisions that were carried out one after the other, (B, S) long over the positions before
    the first of them: the position whose token now stands for each. Itself: kept; another: merged; -1: dropped, for good.
    """
    maps: list[Tensor] = []
    slot = held = None
    for decision in decisions:
        slots = decision.slot_map()
        slot = slots if slot is None else _look_up(slots, slot)
        held = _counted(slots) if held is None else held  # (B, K): positions of the first sequence, by slot
        held = rows_of(held, decision.kept) if isinstance(decision, Shorter) else held
        maps.append(_look_up(held, slot))
    return maps


def kept_positions(decisions: Sequence[Decision]) -> list[Tensor]:
    """Return, for every decision that shortened, the positions (B, K) of the first sequence in the order of its tokens."""
    kept: list[Tensor] = []
    for decision in decisions:
        if isinstance(decision, Shorter):
            kept.append(rows_of(kept[-1], decision.kept) if kept else decision.kept)
    return kept


def restore_merged(patches: Tensor, decisions: Sequence[Decision]) -> Tensor:
    """Undo the decisions that merged, latest first, (B, K, ...) -> (B, S, ...); zeros at the places of what was merged away.

    What was dropped stays dropped, so the way back ends at the latest decision that dropped: nothing stands for its
    positions.
    """
    for decision in reversed(decisions):
        if isinstance(decision, Shorter):
            if decision.slots is None:
                break
            patches = decision.restore(patches)
    return patches


def rows_of(x: Tensor, index: Tensor) -> Tensor:
    """Take positions (B, n) of (B, S, ...) -> (B, n, ...). Gradients pass to x."""
    return x.flatten(0, 1).index_select(0, _flat(index, x.shape[1])).unflatten(0, tuple(index.shape))


def _flat(index: Tensor, size: int) -> Tensor:
    """Turn (B, n) along an axis of `size` into (B * n,) along the samples' axes one after the other."""
    samples = torch.arange(len(index), device=index.device)
    return (index + size * samples[:, None]).flatten()


def _counted(like: Tensor) -> Tensor:
    """Count 0, 1, 2, ... along the second axis."""
    return torch.arange(like.shape[1], device=like.device).expand(like.shape)


def _look_up(values: Tensor, index: Tensor) -> Tensor:
    """Take values (B, n) at index (B, m); -1 where the index is."""
    return torch.where(index < 0, index, values.gather(1, index.clamp(min=0)))


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
