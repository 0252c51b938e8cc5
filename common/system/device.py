"""The device that computes, its dtypes, and what the compiler is allowed there."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from revit.common.system.errors import UserError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
GRAPHS_PER_GRID = 8
"""Compiled graphs a token grid may have: batches of training, evaluation and labelling, a last short one of each, and room."""


def pick_device(name: str) -> torch.device:
    """Choose the device; "auto" is CUDA where there is one. Raises UserError for a device that cannot compute here."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # a number comes back from every device that can compute
    except (RuntimeError, AssertionError) as error:  # none such, torch without it, or meta
        raise UserError(f"device {name}: {str(error).splitlines()[0]}; choose auto, cpu or cuda") from error
    return device


def autocast(device: torch.device, dtype: str) -> AbstractContextManager[Any]:
    """Return a context that computes in `dtype`; for float32 it does nothing."""
    return torch.autocast(device.type, dtype=DTYPES[dtype], enabled=dtype != "float32")


def to_cpu(state: Any) -> Any:
    """Copy all tensors in nested dictionaries to the CPU: what is saved must not move with the next update."""
    if isinstance(state, dict):
        return {key: to_cpu(value) for key, value in state.items()}
    return state.detach().to("cpu", copy=True) if isinstance(state, Tensor) else state


def allow_graphs(network: nn.Module, at_least: int = 0) -> None:
    """Let the compiler keep a graph for every token grid, and at least so many; past its limits it silently stops compiling."""
    wanted = max(GRAPHS_PER_GRID * max(len(getattr(network, "grids", ())), 1), at_least)
    dynamo = torch._dynamo.config
    dynamo.recompile_limit = max(dynamo.recompile_limit, wanted)
    # Of functions that all blocks share, over all their copies.
    dynamo.accumulated_recompile_limit = max(dynamo.accumulated_recompile_limit, wanted * len(list(network.modules())))
