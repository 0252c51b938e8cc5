"""The machine that something was measured on, in words."""

from __future__ import annotations

import os
import platform
import re
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

CPUINFO = Path("/proc/cpuinfo")
INSTRUCTION_SETS = {
    "avx2": "avx2",
    "avx512f": "avx512",
    "avx512_bf16": "avx512_bf16",
    "avx512_vnni": "vnni",
    "avx_vnni": "vnni",
    "amx_tile": "amx",
    "asimd": "neon",
    "bf16": "bf16",
}
"""Instruction sets that decide the rate of matrix products: the kernel's flag -> the name here."""


def device_name(device: torch.device) -> str:
    """Return the GPU's name, or "cpu" with the processor's name and the number of threads in use."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({processor()}, {_counted(torch.get_num_threads(), 'thread')})"


@cache
def processor() -> str:
    """Return the CPU's name, such as "AMD EPYC 9B45"; the architecture where the system tells no name."""
    return _field("model name", "Model", "Hardware") or platform.processor() or platform.machine()


@cache
def instruction_sets() -> str:
    """List those of `INSTRUCTION_SETS` that the CPU has, with spaces between; empty where the system does not tell."""
    flags = set(_field("flags", "Features").split())
    return " ".join(dict.fromkeys(name for flag, name in INSTRUCTION_SETS.items() if flag in flags))


def machine_name(device: torch.device | None = None) -> str:
    """Return a line for under a table: `device_name` and the CPU's instruction sets, or the GPU alone; without a device the CPU
    and the number of its cores."""
    if device is not None and device.type == "cuda":
        return device_name(device)
    cores = f"{processor()}, {_counted(num_cores(), 'core')}" if device is None else device_name(device)
    return f"{cores}, {instruction_sets()}" if instruction_sets() else cores


def num_cores() -> int:
    """Count the CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def package_versions(*packages: str) -> dict[str, str]:
    """Return the versions of Python and of those of the packages that are installed."""
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _field(*names: str) -> str:
    """Read the first of the fields that /proc/cpuinfo has; empty where there is none."""
    try:
        text = CPUINFO.read_text(encoding="utf-8")
    except OSError:
        return ""
    for name in names:
        found = re.search(rf"^{name}\s*: *(.*)$", text, re.MULTILINE)
        if found:
            return found[1].strip()
    return ""


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")
