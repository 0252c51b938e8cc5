"""The views of a file in a test, and what reads them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True)
class Views:
    """Views that were read of a file."""

    pixels: Tensor
    """uint8 (V, C, ...)."""
    remark: str | None = None
    """Remark on a file that is not whole."""


class Reader(Protocol):
    """Reader of files, for any number of threads."""

    def read(self, path: str) -> Views:
        """Return all views of a file. BrokenSample for one that cannot be read."""

    def close(self) -> None:
        """Close whatever reading holds open."""
