"""The device that computes and its dtypes, what the compiler is allowed there, and the machine in words."""

from __future__ import annotations

import os
import platform
import re
from contextlib import AbstractContextManager
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
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
    return f"{device.type} ({processor()}, {counted(torch.get_num_threads(), 'thread')})"


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
    cores = f"{processor()}, {counted(num_cores(), 'core')}" if device is None else device_name(device)
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


def counted(number: int, noun: str) -> str:
    """Return "1 core", "2 cores", "2 processes"."""
    plural = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{number} {noun if number == 1 else plural}"
