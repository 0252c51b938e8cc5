"""How a model can be served, by name. Nothing slow is imported here: the tools' `--help` shows it."""

from __future__ import annotations

from typing import Literal

INT8 = "int8"
PRECISIONS = ("float32", "bfloat16", "float16", INT8)
"""What a model can be served in; int8 (weights, on CPUs) is never chosen by itself, as it changes answers a little."""
Compile = Literal["auto", "eager", "compile"]
"""Whether torch.compile makes graphs of it; auto: where that saves more time than it takes."""
