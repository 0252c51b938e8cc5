"""DeepSpeed itself: imported quietly, and its hooks put aside for a while."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from revit.common.errors import UserError


def import_deepspeed(device: torch.device) -> Any:
    """The library, quiet. Raises UserError that says what to install where it is missing."""
    if device.type == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # read when it is imported
    try:
        import deepspeed
        from deepspeed.utils import logger
    except ImportError as error:
        raise UserError(
            f"engine.backend deepspeed, which several processes take by default, needs DeepSpeed, and it cannot be "
            f'imported ({error}). Install it on Linux with: pip install "revit-video[train]" (or pip install deepspeed); '
            "without it one process trains: engine.backend=local, started by python alone"
        ) from error
    logger.setLevel(logging.WARNING)
    # For inference on CPUs only. It would be compiled at the start, behind a lock that a killed process leaves closed.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


@contextmanager
def without_hooks(network: nn.Module) -> Iterator[None]:
    """Forward passes of plain modules: DeepSpeed's hooks of ZeRO 3 would wait for other ranks and split the weights."""
    kept = [(module, module._forward_pre_hooks, module._forward_hooks) for module in network.modules()]
    try:
        for module, before, after in kept:
            module._forward_pre_hooks, module._forward_hooks = type(before)(), type(after)()
        yield
    finally:
        for module, before, after in kept:
            module._forward_pre_hooks, module._forward_hooks = before, after
