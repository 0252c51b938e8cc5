"""How much memory a call needs."""

from __future__ import annotations

import contextlib
import ctypes
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


def peak_bytes(run: Callable[[], Any], device: torch.device) -> int:
    """Bytes that `run()` needed at its peak beyond what was held before: allocated on CUDA, resident on a CPU.

    On a CPU what earlier calls left free is given back to the system first, where its C library can (glibc); elsewhere it
    counts as held, and the figure is a lower bound. So it is where the system takes pages from this process meanwhile.
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
        _CLEAR.write_text("5")  # Linux: sets the resident peak back to the present
    except OSError:
        return _watched(run)
    before = _resident("VmRSS")
    run()
    return max(0, _resident("VmHWM") - before)


def _resident(key: str) -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"{_STATUS} has no {key}")


def _watched(run: Callable[[], Any]) -> int:
    """Where the system keeps no resettable peak: a thread that looks every 2 ms, with psutil."""
    try:
        import psutil
    except ImportError:
        run()
        return 0
    process = psutil.Process()
    before = peak = process.memory_info().rss
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.002):
            peak = max(peak, process.memory_info().rss)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        run()
    finally:
        done.set()
        watcher.join()
    return peak - before
