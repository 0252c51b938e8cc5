"""How an engine works: what a user may settle, and what it finds out. Nothing slow is imported: `--help` shows the choices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from revit.common.system.errors import UserError

INT8 = "int8"
PRECISIONS = ("float32", "bfloat16", "float16", INT8)
"""Number formats to serve a model in; int8 (weights, on CPUs) is never chosen by itself, as it changes answers a little."""
Compile = Literal["auto", "eager", "compile"]
"""Use of torch.compile; auto: where it saves more time than it takes."""


@dataclass(frozen=True)
class Serving:
    """How an engine works; what is left open, it finds out."""

    device: str = "auto"
    """Name of a device (cpu, cuda, cuda:1, ...); auto: CUDA where there is one."""
    dtype: str = "auto"
    """Number format: float32, bfloat16, float16, int8 (weights, on CPUs), or auto: the faster of the first two."""
    compile: Compile = "auto"
    """Use of torch.compile; auto: where it saves more than it takes, see `choose_plan`."""
    max_batch: int | None = None
    """Number of views at the longest token grid that run together; shorter grids take as many more as they have fewer tokens."""
    max_wait_seconds: float = 0.5
    """Longest wait of a view for others of its token grid; time in which others were computed does not count."""
    num_readers: int | None = None
    """Number of files that are read at once, ahead of a stream or for several threads; as many as suit this machine."""
    damaged: Literal["salvage", "refuse"] = "salvage"
    """Treatment of damaged clips. `salvage`: answer by their whole frames, with a warning. `refuse`: say what is wrong."""
    memory_mb: int = 1024
    """Megabytes of pixels that may be under way."""
    num_inputs: int | None = None
    """Number of inputs to come, if that is known: decides whether compiling is worth it."""

    def __post_init__(self) -> None:
        if self.damaged not in ("salvage", "refuse"):
            raise UserError(f"damaged {self.damaged!r}: choose salvage or refuse")
        for name in ("max_batch", "num_readers"):
            if (number := getattr(self, name)) is not None and number < 1:
                raise UserError(f"{name} {number}: at least 1; leave it out to have it chosen")
        for name in ("max_wait_seconds", "memory_mb", "num_inputs"):
            if (number := getattr(self, name)) is not None and not number >= 0:
                raise UserError(f"{name} {number}: at least 0")
