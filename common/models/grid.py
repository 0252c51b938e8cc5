"""The token grid: how many tokens a picture, or one frame of a clip, is cut into."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated

from pydantic import AfterValidator


@dataclass(frozen=True)
class TokenGrid:
    """Rows and columns of tokens, "14x14" for instance.

    A grid names one token length of a model: it is the key of the length-aware parts (patch embedding, position
    table, LayerNorm), the class the assigner predicts, and the row of a report. It is nominal: at another input
    size than the model's own the map that really comes out of the patch embedding is larger or smaller, and the
    key stays the same.
    """

    rows: int
    cols: int

    def __post_init__(self) -> None:
        if self.rows < 1 or self.cols < 1:
            raise ValueError(f"a token grid needs at least one row and one column, not {self.rows}x{self.cols}")

    @classmethod
    def parse(cls, value: TokenGrid | int | str) -> TokenGrid:
        """Read `14`, `"14"` or `"14x14"`. Raise ValueError for anything else."""
        if isinstance(value, TokenGrid):
            return value
        try:
            sides = [int(side) for side in str(value).lower().split("x")]
            rows, cols = sides * 2 if len(sides) == 1 else sides
        except ValueError:
            raise ValueError(f"{value!r} is not a token grid; write 14 or 14x14") from None
        return cls(rows, cols)

    @property
    def name(self) -> str:
        return f"{self.rows}x{self.cols}"

    @property
    def num_positions(self) -> int:
        return self.rows * self.cols

    def __str__(self) -> str:
        return self.name


def longest_first(values: Iterable[TokenGrid | int | str]) -> tuple[TokenGrid, ...]:
    """Parse a list of grids. Raise ValueError unless it descends in token count, as ReViT section 3.1 defines the list L."""
    grids = tuple(TokenGrid.parse(value) for value in values)
    if not grids:
        raise ValueError("the list of token grids is empty; name at least one, such as 14x14")
    lengths = [grid.num_positions for grid in grids]
    if any(longer <= shorter for longer, shorter in pairwise(lengths)):
        names = ", ".join(grid.name for grid in grids)
        raise ValueError(f"token grids must differ and go from the longest to the shortest, not {names}")
    return grids


def _names(values: tuple[str | int, ...]) -> tuple[str | int, ...]:
    return tuple(grid.name for grid in longest_first(values))


GridNames = Annotated[tuple[str | int, ...], AfterValidator(_names)]
"""Token grids in a configuration, longest first."""
