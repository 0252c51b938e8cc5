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

from revit.common.tokens.layout import TokenLayout


class Decision(Protocol):
    """What becomes of S positions, for each of B samples and the same for all frames of a sample."""

    def carry_out(self, tokens: Tensor, layout: TokenLayout) -> tuple[Tensor, TokenLayout]:
        """(B, P + S * T, D) and its layout -> both afterwards. The prefix is never touched."""
        ...

    def fates(self) -> Tensor:
        """(B, S) long: for each position the one whose token now stands for it: itself where it is kept, another where
        it was merged, -1 where it was dropped."""
        ...


@dataclass(frozen=True, eq=False)
class Shorter:
    """K of S positions go on, in the order of `kept`; the others are dropped, or merged into those."""

    kept: Tensor
    """(B, K) long, positions."""
    num_positions: int
    """S"""
    slots: Tensor | None = None
    """(B, S) long: which of the K places each position went into; None: those not kept are dropped."""

    def apply(self, x: Tensor) -> Tensor:
        """(B, S, ...) -> (B, K, ...): the kept positions; where others were merged, the plain mean over a position and all
        that went into it. Gradients pass."""
        if self.slots is None:
            return torch.gather(x, 1, _over(self.kept, x))
        shape = (x.shape[0], self.kept.shape[1], *x.shape[2:])
        total = x.new_zeros(shape).scatter_add(1, _over(self.slots, x), x)
        ones = torch.ones_like(self.slots, dtype=x.dtype)
        counts = x.new_zeros(shape[:2]).scatter_add(1, self.slots, ones)
        return total / counts.view(*shape[:2], *[1] * (x.ndim - 2))

    def restore(self, x: Tensor) -> Tensor:
        """(B, K, ...) -> (B, S, ...): every token back at its place, zeros at the places of the others."""
        places = x.new_zeros((x.shape[0], self.num_positions, *x.shape[2:]))
        return places.scatter(1, _over(self.kept, x), x)

    def carry_out(self, tokens: Tensor, layout: TokenLayout) -> tuple[Tensor, TokenLayout]:
        P = layout.num_prefix
        patches = tokens[:, P:].unflatten(1, (layout.num_positions, layout.num_frames))  # (B, S, T, D)
        shorter = self.apply(patches).flatten(1, 2)
        after = replace(
            layout,
            num_positions=self.kept.shape[1],
            keep=None if layout.keep is None else self.apply(layout.keep),
            decisions=(*layout.decisions, self),
        )
        return torch.cat([tokens[:, :P], shorter], dim=1), after

    def fates(self) -> Tensor:
        if self.slots is not None:
            return self.kept.gather(1, self.slots)
        dropped = self.kept.new_full((len(self.kept), self.num_positions), -1)
        return dropped.scatter(1, self.kept, self.kept)


@dataclass(frozen=True, eq=False)
class Weighted:
    """All positions stay in the sequence, with a weight of 0 or 1 by which the others see them; gradients reach it."""

    keep: Tensor
    """(B, S)"""

    def carry_out(self, tokens: Tensor, layout: TokenLayout) -> tuple[Tensor, TokenLayout]:
        return tokens, replace(layout, keep=self.keep, decisions=(*layout.decisions, self))

    def fates(self) -> Tensor:
        places = torch.arange(self.keep.shape[1], device=self.keep.device).expand(self.keep.shape)
        return places.masked_fill(self.keep.detach() == 0, -1)


def trail_of(decisions: Sequence[Decision]) -> list[Tensor]:
    """After each of these decisions, which were carried out one after the other: (B, S) long over the positions before
    the first of them, as `Decision.fates`: what became of each position so far."""
    trail: list[Tensor] = []
    held: Tensor | None = None  # positions of the first sequence that hold the slots of the present one
    for decision in decisions:
        later = decision.fates()  # in places of the present sequence
        if not trail:
            trail.append(later)
        else:
            fates = trail[-1]
            if held is not None:
                place_of = torch.zeros_like(fates).scatter(1, held, _places(held))  # asked of those held only
                stands = torch.where(later < 0, later, held.gather(1, later.clamp(min=0)))
            else:
                place_of, stands = _places(fates), later
            now = place_of.gather(1, fates.clamp(min=0))  # the place of whoever stands for it
            trail.append(torch.where(fates < 0, fates, stands.gather(1, now)))
        if isinstance(decision, Shorter):
            held = decision.kept if held is None else held.gather(1, decision.kept)
    return trail


def fates_of(decisions: Sequence[Decision]) -> Tensor:
    """(B, S) long: the end of `trail_of`. Raises ValueError for no decision."""
    if not decisions:
        raise ValueError("nothing was decided about these positions")
    return trail_of(decisions)[-1]


def kept_positions(decisions: Sequence[Decision]) -> list[Tensor]:
    """For every decision that shortened, (B, K) long in the order of its tokens: positions of the first sequence."""
    held: list[Tensor] = []
    for decision in decisions:
        if isinstance(decision, Shorter):
            held.append(held[-1].gather(1, decision.kept) if held else decision.kept)
    return held


def restore_merged(patches: Tensor, decisions: Sequence[Decision]) -> Tensor:
    """(B, K, ...) -> (B, S, ...): undo the decisions that merged, latest first, zeros at the places of what was merged away.

    What was dropped stays dropped: nothing stands for it.
    """
    for decision in reversed(decisions):
        if isinstance(decision, Shorter):
            if decision.slots is None:
                break
            patches = decision.restore(patches)
    return patches


def _over(index: Tensor, x: Tensor) -> Tensor:
    """(B, n) -> (B, n, ...) as wide as x, for gather and scatter."""
    return index.view(*index.shape, *[1] * (x.ndim - 2)).expand(-1, -1, *x.shape[2:])


def _places(held: Tensor) -> Tensor:
    return torch.arange(held.shape[1], device=held.device).expand(held.shape)
