"""What a reducer decided about the positions of a token sequence, apart from the features it looked at.

A decision is made once and can then be carried out on any tensor with that axis of positions: features, dense targets,
a teacher's tokens, source maps for pictures (the idea of ToMe's merge functions).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from revit.common.models.layout import TokenLayout


class Decision(Protocol):
    """What becomes of S positions, for each of B samples and the same for all frames of a sample."""

    def carry_out(self, tokens: Tensor, layout: TokenLayout) -> tuple[Tensor, TokenLayout]:
        """(B, P + S * T, D) and its layout -> both afterwards. The prefix is never touched."""
        ...

    def places(self) -> Tensor:
        """(B, S) long: the place, in the sequence afterwards, of the token that now stands for each position: its own, or
        the one that it was merged into; -1 where it was dropped."""
        ...


@dataclass(frozen=True, eq=False)
class Shorter:
    """K of S positions go on, in the order of `kept`; the others are dropped, or merged into those."""

    kept: Tensor
    """(B, K) long, positions."""
    num_positions: int
    """S"""
    slots: Tensor | None = None
    """(B, S) long: which of the K places each position went into, a kept one into its own; None: those not kept are
    dropped."""

    def apply(self, x: Tensor) -> Tensor:
        """(B, S, ...) -> (B, K, ...): the kept positions; where others were merged, the plain mean over a position and all
        that went into it. Gradients pass."""
        if self.slots is None:
            return rows_of(x, self.kept)
        B, K = self.kept.shape
        rows = _flat(self.slots, K)  # adding whole rows is many times faster than scattering single numbers
        totals = x.new_zeros(B * K, *x.shape[2:]).index_add(0, rows, x.flatten(0, 1))
        ones = torch.ones_like(rows, dtype=torch.float32)  # bfloat16 cannot count beyond 256
        counts = ones.new_zeros(B * K).index_add(0, rows, ones).to(x.dtype)
        return (totals / counts.view(-1, *[1] * (x.ndim - 2))).unflatten(0, (B, K))

    def restore(self, x: Tensor) -> Tensor:
        """(B, K, ...) -> (B, S, ...): every token back at its place, zeros at the places of the others."""
        B, S = len(x), self.num_positions
        rows = x.new_zeros(B * S, *x.shape[2:])
        return rows.index_copy(0, _flat(self.kept, S), x.flatten(0, 1)).unflatten(0, (B, S))

    def carry_out(self, tokens: Tensor, layout: TokenLayout) -> tuple[Tensor, TokenLayout]:
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

    def places(self) -> Tensor:
        if self.slots is not None:
            return self.slots
        dropped = self.kept.new_full((len(self.kept), self.num_positions), -1)
        return dropped.scatter(1, self.kept, _counted(self.kept))


@dataclass(frozen=True, eq=False)
class Weighted:
    """All positions stay in the sequence, with a weight of 0 or 1 by which the others see them; gradients reach it."""

    keep: Tensor
    """(B, S)"""

    def carry_out(self, tokens: Tensor, layout: TokenLayout) -> tuple[Tensor, TokenLayout]:
        return tokens, replace(layout, keep=self.keep, decisions=(*layout.decisions, self))

    def places(self) -> Tensor:
        return _counted(self.keep).masked_fill(self.keep.detach() == 0, -1)


def trail_of(decisions: Sequence[Decision]) -> list[Tensor]:
    """After each of these decisions, which were carried out one after the other: (B, S) long over the positions before
    the first of them: the position whose token now stands for each. Itself: kept; another: merged; -1: dropped, for good.
    """
    trail: list[Tensor] = []
    place = held = None
    for decision in decisions:
        places = decision.places()
        place = places if place is None else _look_up(places, place)
        held = _held_after(decision, held, places)
        trail.append(_look_up(held, place))
    return trail


def fates_of(decisions: Sequence[Decision]) -> Tensor:
    """(B, S) long: the end of `trail_of`. Raises ValueError for no decision."""
    if not decisions:
        raise ValueError("nothing was decided about these positions")
    return trail_of(decisions)[-1]


def kept_positions(decisions: Sequence[Decision]) -> list[Tensor]:
    """For every decision that shortened, (B, K) long in the order of its tokens: positions of the first sequence."""
    kept: list[Tensor] = []
    for decision in decisions:
        if isinstance(decision, Shorter):
            kept.append(rows_of(kept[-1], decision.kept) if kept else decision.kept)
    return kept


def restore_merged(patches: Tensor, decisions: Sequence[Decision]) -> Tensor:
    """(B, K, ...) -> (B, S, ...): undo the decisions that merged, latest first, zeros at the places of what was merged away.

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
    """(B, S, ...) and positions (B, n) -> (B, n, ...). Gradients pass to x."""
    return x.flatten(0, 1).index_select(0, _flat(index, x.shape[1])).unflatten(0, tuple(index.shape))


def _flat(index: Tensor, size: int) -> Tensor:
    """(B, n) along an axis of `size` -> (B * n,) along the samples' axes one after the other."""
    samples = torch.arange(len(index), device=index.device)
    return (index + size * samples[:, None]).flatten()


def _counted(like: Tensor) -> Tensor:
    """0, 1, 2, ... along the second axis."""
    return torch.arange(like.shape[1], device=like.device).expand(like.shape)


def _look_up(values: Tensor, index: Tensor) -> Tensor:
    """values (B, n) at index (B, m); -1 where the index is."""
    return torch.where(index < 0, index, values.gather(1, index.clamp(min=0)))


def _held_after(decision: Decision, held: Tensor | None, places: Tensor) -> Tensor:
    """(B, K): the positions of the first sequence that hold the places after `decision`."""
    held = _counted(places) if held is None else held
    return rows_of(held, decision.kept) if isinstance(decision, Shorter) else held
