"""Files to the views of a test: what pictures and clips agree on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True)
class Views:
    """The views that were read of a file."""

    pixels: Tensor
    """uint8 (V, C, ...)."""
    remark: str | None = None
    """A remark on a file that is not whole."""


class Reader(Protocol):
    """Reads files, from any number of threads."""

    def read(self, path: str) -> Views:
        """All views of a file. Raises BrokenSample for one that cannot be read."""

    def close(self) -> None:
        """Let go of whatever reading holds open."""
