"""How a model is served on this machine: dtype, compiler and batch size, by a short measurement that is kept."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, get_args

import torch
from pydantic import BaseModel, Field, FiniteFloat
from torch import nn

from revit.common.models.base import GridModel
from revit.common.serving.options import INT8, PRECISIONS, Compile
from revit.common.serving.runtime import Runtime
from revit.common.system.device import device_name, processor
from revit.common.system.errors import UserError
from revit.common.system.files import cache_folder, write_json
from revit.common.timing.clock import seconds_of

BATCHES = {"cpu": (1, 4), "cuda": (8, 32, 64)}
"""Inputs at the longest grid that are tried together."""
WORTH = 1.03
"""Factor by which a larger batch must be faster: below it is noise, and larger batches make inputs wait."""
PROBE_DEPTH = 2
"""Blocks of the model that is timed: all blocks cost alike, and the rest next to nothing."""
SECONDS = 2.0
"""Longest time that one candidate is timed for, after its first call."""
FIRST_CALLS = 3
TRIAL_SECONDS = 300.0
"""Seconds of work ahead from which on it is worth finding out what a compiler would save."""
VERSION = 1
"""Raised when the same model runs at another speed than before by a change of this project."""


@dataclass(frozen=True)
class Plan:
    """How to serve one model on one device."""

    dtype: str
    """One of `revit.common.serving.options.PRECISIONS`."""
    compiled: bool
    max_batch: int
    """Number of inputs at the longest grid that run together."""

    @property
    def how(self) -> str:
        """Words for dtype and compiler."""
        return f"{self.dtype}, {'compiled' if self.compiled else 'eager'}"

    def __str__(self) -> str:
        return f"{self.how}, batches of up to {self.max_batch}"


class Measured(BaseModel):
    """Measured times of one architecture on one device."""

    milliseconds: dict[str, Annotated[FiniteFloat, Field(gt=0)]] = {}
    """Milliseconds of an input by "dtype/batch/how"."""
    compile_seconds: Annotated[FiniteFloat, Field(ge=0)] | None = None
    """Seconds that compiling one graph of the whole model takes."""


def choose_plan(
    model: GridModel,
    input_shape: Sequence[int],
    device: torch.device,
    dtype: str = "auto",
    compile: Compile = "auto",
    max_batch: int | None = None,
    num_inputs: int | None = None,
) -> Plan:
    """Return the fastest way to serve `model` for inputs of `input_shape` (batch 1) among what is left open.

    What is measured is kept in `cache_folder()` for this architecture, device, number of threads and torch. `dtype` "auto"
    is float32 or bfloat16. `compile` "auto" compiles where the time that it saves over `num_inputs` is more than what the
    compiler takes; without that number it does not.

    Raises UserError for a dtype that there is not, int8 elsewhere than on a CPU, or another word than these for `compile`.
    """
    if dtype not in ("auto", *PRECISIONS):
        raise UserError(f"dtype {dtype}: write auto or one of {', '.join(PRECISIONS)}")
    if compile not in get_args(Compile):
        raise UserError(f"compile {compile}: write one of {', '.join(get_args(Compile))}")
    if dtype == INT8 and device.type != "cpu":
        raise UserError(f"dtype int8 is for CPUs, not for {device}; choose bfloat16")
    file = cache_folder() / f"{_key(model, input_shape, device)}.json"
    measured = _read(file)
    before = measured.model_copy(deep=True)
    timer = _Timer(model, input_shape, device, measured)
    first, *larger = (max_batch,) if max_batch is not None else BATCHES[device.type]
    if dtype == "auto":  # at the smallest batch; batches in the dtype that won
        names = ("float32", "bfloat16")
        times = timer.milliseconds(*((name, first, False) for name in names))
        dtype = names[times.index(min(times))]
    best = first
    if larger:
        fastest, *times = timer.milliseconds(*((dtype, size, False) for size in (first, *larger)))
        for size, ms in zip(larger, times):
            if fastest > WORTH * ms:
                best, fastest = size, ms
    compiled = compile == "compile"
    if compile == "auto" and num_inputs is not None:
        compiled = timer.compiler_pays(dtype, best, num_inputs, len(model.grids))
    if measured != before:
        with contextlib.suppress(UserError):  # a read-only home: it is measured again next time
            write_json(file, measured.model_dump())
    return Plan(dtype, compiled, best)


class _Timer:
    """Times candidates (dtype, batch, compiled) that were not timed yet, in turns, on a copy of the model's first blocks."""

    def __init__(self, model: GridModel, input_shape: Sequence[int], device: torch.device, measured: Measured) -> None:
        self._probe, self._share = _probe_of(model)
        self._shape = tuple(input_shape[1:])
        self._device = device
        self._measured = measured

    @torch.inference_mode()
    def milliseconds(self, *candidates: tuple[str, int, bool]) -> list[float]:
        """Return the milliseconds of an input; measure those of which nothing is known, each for some seconds at most."""
        known, runs = self._measured.milliseconds, {}
        names = [f"{dtype}/{batch}/{'compiled' if compiled else 'eager'}" for dtype, batch, compiled in candidates]
        for name, (dtype, batch, compiled) in zip(names, candidates):
            if name in known:
                continue
            runtime = Runtime(self._probe, self._device, dtype, compiled, batch)
            noise = torch.randn(batch, *self._shape, generator=torch.Generator().manual_seed(0)).to(self._device)
            start = time.perf_counter()
            runtime(noise)
            if compiled:
                self._measured.compile_seconds = (time.perf_counter() - start) / self._share
            runs[name] = partial(runtime, noise), batch
        samples: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(FIRST_CALLS):
            for name, (run, batch) in runs.items():
                if sum(samples[name]) * batch < SECONDS:
                    samples[name].append(seconds_of(run, self._device) / batch)
        for name, one in samples.items():
            known[name] = 1000 * statistics.median(one) / self._share
        return [known[name] for name in names]

    def compiler_pays(self, dtype: str, batch: int, num_inputs: int, num_grids: int) -> bool:
        """Say whether compiling all grids' graphs takes less time than they save over so many inputs."""
        (eager,) = self.milliseconds((dtype, batch, False))
        eager_seconds = num_inputs * eager / 1000
        if f"{dtype}/{batch}/compiled" not in self._measured.milliseconds and eager_seconds < TRIAL_SECONDS:
            return False
        (compiled,) = self.milliseconds((dtype, batch, True))
        saved = eager_seconds * (1 - compiled / eager)
        graphs = num_grids * batch.bit_length()
        return saved > graphs * (self._measured.compile_seconds or 0.0)


def _probe_of(model: GridModel) -> tuple[GridModel, float]:
    """Return a model to time in the place of `model`, and the share of its time that it takes."""
    blocks = getattr(model, "blocks", None)
    if not isinstance(blocks, nn.ModuleList) or len(blocks) <= PROBE_DEPTH or model.reducer is not None:
        return model, 1.0
    probe = copy.copy(model)
    probe._modules = dict(model._modules)
    probe.blocks = nn.ModuleList(list(blocks[:PROBE_DEPTH]))
    return probe, PROBE_DEPTH / len(blocks)


def _key(model: GridModel, input_shape: Sequence[int], device: torch.device) -> str:
    """Tell architectures, devices and versions apart; of the weights only their shapes matter."""
    shapes = [(name, tuple(weight.shape)) for name, weight in model.named_parameters()]
    shapes += [(repr(model.reducer), ())]  # some have no weights
    machine = (device_name(device), processor())
    said = repr((type(model).__name__, shapes, tuple(input_shape), machine, torch.__version__, VERSION))
    return hashlib.sha256(said.encode()).hexdigest()[:24]


def _read(file: Path) -> Measured:
    try:
        return Measured.model_validate_json(file.read_bytes())
    except (OSError, ValueError):  # none, or a damaged one: measure
        return Measured()
