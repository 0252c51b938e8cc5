"""How an engine works: what a user may settle, and what it finds out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from revit.common.serving.choices import Compile
from revit.common.system.errors import UserError


@dataclass(frozen=True)
class Serving:
    """How an engine works; what is left open, it finds out."""

    device: str = "auto"
    """auto (CUDA where there is one), cpu, cuda, cuda:1, ..."""
    dtype: str = "auto"
    """float32, bfloat16, float16, int8 (weights, on CPUs), or auto: what is faster here of the first two."""
    compile: Compile = "auto"
    """Whether to use torch.compile; auto: where it saves more than it takes, see `choose_plan`."""
    max_batch: int | None = None
    """Views at the longest token grid that run together. Shorter grids take as many more as they have fewer tokens."""
    max_wait_seconds: float = 0.5
    """How long a view may wait for others of its token length; time in which others were computed does not count."""
    num_readers: int | None = None
    """Files that are read at once, ahead of a stream or for several threads."""
    damaged: Literal["salvage", "refuse"] = "salvage"
    """`salvage`: answer by what is whole of a damaged clip, with a warning. `refuse`: say what is wrong with it instead."""
    memory_mb: int = 1024
    """Of pixels that are under way."""
    num_inputs: int | None = None
    """How many are to come, if that is known: decides whether compiling is worth it."""

    @property
    def readers(self) -> int:
        """`num_readers`, or as many as suit this machine."""
        # Imported here: the command line is read before it is needed.
        import torch

        return self.num_readers or min(8, torch.get_num_threads())

    def __post_init__(self) -> None:
        if self.damaged not in ("salvage", "refuse"):
            raise UserError(f"damaged {self.damaged!r}: choose salvage or refuse")
        for name in ("max_batch", "num_readers"):
            if (number := getattr(self, name)) is not None and number < 1:
                raise UserError(f"{name} {number}: at least 1; leave it out to have it chosen")
        for name in ("max_wait_seconds", "memory_mb", "num_inputs"):
            if (number := getattr(self, name)) is not None and not number >= 0:
                raise UserError(f"{name} {number}: at least 0")
