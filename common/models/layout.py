"""What the token axis of a running forward pass holds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor

from revit.common.models.grid import TokenGrid

if TYPE_CHECKING:
    from revit.common.models.decision import Decision


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
