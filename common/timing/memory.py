"""Memory that a call needs, and that weights take."""

from __future__ import annotations

import contextlib
import ctypes
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


def peak_bytes(run: Callable[[], Any], device: torch.device) -> int:
    """Return the bytes that `run()` needs at its peak beyond what was held before: allocated on CUDA, resident on a CPU.

    On a CPU what earlier calls left free is given back to the system first, where its C library can (glibc); elsewhere it
    counts as held, and the figure is a lower bound. So it is where the system takes pages from this process meanwhile, or
    keeps no peak that can be set back: then only growth beyond everything before counts.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with contextlib.suppress(AttributeError, OSError):  # other C libraries do not know it
        ctypes.CDLL(None).malloc_trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5")  # Linux: sets the resident peak back to the present
    except OSError:
        before = _highest_ever()
        run()
        return _highest_ever() - before
    before = _resident("VmRSS")
    run()
    return max(0, _resident("VmHWM") - before)


def _resident(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(f"{key}:"))
    return int(line.split()[1]) * 1024


def _highest_ever() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def weight_bytes(module: nn.Module) -> int:
    """Count the bytes of parameters and buffers, and of the packed weights that layers made for serving hold instead."""
    held = (value for one in module.modules() for value in vars(one).values())
    packed = [value for value in held if isinstance(value, Tensor)]
    tensors = [*module.parameters(), *module.buffers(), *packed]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
