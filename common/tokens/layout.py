"""What the token axis of a running forward pass holds."""

from __future__ import annotations

from dataclasses import dataclass

from revit.common.tokens.grid import TokenGrid


@dataclass(frozen=True)
class TokenLayout:
    """The parts of a token axis of length P + S * T: P prefix tokens, then S positions of T frames each.

    Positions are in row order; the frames of one position lie side by side (time is the fastest axis), the order
    of the published TimeSformer. Pictures have one frame.
    """

    grid: TokenGrid
    """The nominal grid: the key of everything length-aware."""
    num_prefix: int
    num_positions: int
    num_frames: int = 1
