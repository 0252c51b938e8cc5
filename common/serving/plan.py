"""How a model is served on this machine: dtype, compiler and batch size, by a short measurement that is kept."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import math
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn

from revit.common.models.base import GridModel
from revit.common.serving.choices import INT8, PRECISIONS, Compile
from revit.common.serving.runtime import Runtime
from revit.common.system.errors import UserError
from revit.common.system.files import cache_folder, write_json
from revit.common.system.machine import device_name
from revit.common.timing.clock import seconds_of

BATCHES = {"cpu": (1, 4), "cuda": (8, 32, 64)}
"""Inputs at the longest grid that are tried together."""
WORTH = 1.03
"""A larger batch, or a compiler, must be faster by this factor: below it is noise, and larger batches make inputs wait."""
PROBE_DEPTH = 2
"""Blocks of the model that is timed: all blocks cost alike, and the rest next to nothing."""
SECONDS = 2.0
"""Longest time that one candidate is timed for, after its first call."""
FIRST_CALLS = 3


@dataclass(frozen=True)
class Plan:
    """How to serve one model on one device."""

    dtype: str
    """A name of `revit.common.serving.choices.PRECISIONS`."""
    compiled: bool
    max_batch: int
    """Inputs at the longest grid that run together."""

    @property
    def how(self) -> str:
        """Without the batch size."""
        return f"{self.dtype}, {'compiled' if self.compiled else 'eager'}"

    def __str__(self) -> str:
        return f"{self.how}, batches of up to {self.max_batch}"


@dataclass
class Measured:
    """What was timed of one architecture on one device: milliseconds of an input, by "dtype/batch/how"."""

    milliseconds: dict[str, float]
    compile_seconds: float | None = None
    """For one graph of the whole model."""


def choose_plan(
    model: GridModel,
    input_shape: Sequence[int],
    device: torch.device,
    dtype: str = "auto",
    compile: Compile = "auto",
    max_batch: int | None = None,
    num_inputs: int | None = None,
) -> Plan:
    """The fastest way to serve `model` for inputs of `input_shape` (batch 1) among what is left open.

    What is measured is kept in `cache_folder()` for this architecture, device, number of threads and torch. `dtype` "auto"
    is float32 or bfloat16. `compile` "auto" compiles where the time that it saves over `num_inputs` is more than what the
    compiler takes; without that number it does not.

    Raises UserError for a dtype that there is not, int8 elsewhere than on a CPU, or another word than these for `compile`.
    """
    _check(dtype, compile, device)
    file = cache_folder() / f"{_key(model, input_shape, device)}.json"
    measured = _read(file)
    before = dict(measured.milliseconds), measured.compile_seconds
    batches = (max_batch,) if max_batch is not None else BATCHES[device.type]
    dtypes = ("float32", "bfloat16") if dtype == "auto" else (dtype,)
    timer = _Timer(model, input_shape, device, measured)
    # dtypes at the smallest batch; batches in the dtype that won.
    if len(dtypes) > 1:
        timer.time([(name, batches[0], False) for name in dtypes])
        dtypes = (min(dtypes, key=lambda name: timer.of(name, batches[0], False)),)
    chosen = dtypes[0]
    if len(batches) > 1:
        timer.time([(chosen, size, False) for size in batches])
    best = batches[0]
    for size in batches[1:]:
        if timer.of(chosen, best, False) > WORTH * timer.of(chosen, size, False):
            best = size
    compiled = compile == "compile"
    if compile == "auto" and num_inputs is not None:
        compiled = timer.compiler_pays(chosen, best, num_inputs, len(model.grids))
    if (measured.milliseconds, measured.compile_seconds) != before:
        _write(file, measured)
    return Plan(chosen, compiled, best)


def _check(dtype: str, compile: str, device: torch.device) -> None:
    if dtype not in ("auto", *PRECISIONS):
        raise UserError(f"dtype {dtype}: write auto or one of {', '.join(PRECISIONS)}")
    if compile not in get_args(Compile):
        raise UserError(f"compile {compile}: write one of {', '.join(get_args(Compile))}")
    if dtype == INT8 and device.type != "cpu":
        raise UserError(f"dtype int8 is for CPUs, not for {device}; choose bfloat16")


class _Timer:
    """Times candidates that were not timed yet, taking turns, on a copy of the model's first blocks."""

    def __init__(self, model: GridModel, input_shape: Sequence[int], device: torch.device, measured: Measured) -> None:
        self._probe, self._share = _probe_of(model)
        self._shape = tuple(input_shape[1:])
        self._device = device
        self._measured = measured

    def of(self, dtype: str, batch: int, compiled: bool) -> float:
        """Milliseconds of an input."""
        return self._measured.milliseconds[_name(dtype, batch, compiled)]

    @torch.inference_mode()
    def time(self, candidates: Sequence[tuple[str, int, bool]]) -> None:
        """Measure those of which nothing is known, each for some seconds at most."""
        runs: dict[str, tuple[Callable[[], Any], int]] = {}
        for dtype, batch, compiled in candidates:
            name = _name(dtype, batch, compiled)
            if name in self._measured.milliseconds:
                continue
            runtime = Runtime(self._probe, self._device, dtype, compiled, batch)
            inputs = self._noise(batch)
            start = time.perf_counter()
            runtime(inputs)
            if compiled:
                self._measured.compile_seconds = (time.perf_counter() - start) / self._share
            runs[name] = (lambda runtime=runtime, inputs=inputs: runtime(inputs)), batch  # type: ignore[misc]
        samples: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(FIRST_CALLS):
            for name, (run, batch) in runs.items():
                if sum(samples[name]) * batch < SECONDS:
                    samples[name].append(seconds_of(run, self._device) / batch)
        for name, one in samples.items():
            self._measured.milliseconds[name] = 1000 * statistics.median(one) / self._share

    def compiler_pays(self, dtype: str, batch: int, num_inputs: int, num_grids: int) -> bool:
        """Whether compiling all grids' graphs takes less time than they save over so many inputs."""
        self.time([(dtype, batch, False)])
        eager_seconds = num_inputs * self.of(dtype, batch, False) / 1000
        name = _name(dtype, batch, True)
        if name not in self._measured.milliseconds:
            if eager_seconds < TRIAL_SECONDS:
                return False
            self.time([(dtype, batch, True)])
        saved = eager_seconds * (1 - self.of(dtype, batch, True) / self.of(dtype, batch, False))
        graphs = num_grids * batch.bit_length()
        return saved > graphs * (self._measured.compile_seconds or 0.0)

    def _noise(self, batch: int) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        return torch.randn(batch, *self._shape, generator=generator).to(self._device)


TRIAL_SECONDS = 300.0
"""Of work ahead from which on it is worth finding out what a compiler would save."""


def _probe_of(model: GridModel) -> tuple[GridModel, float]:
    """A model to time in the place of `model`, and the share of its time that it takes."""
    blocks = getattr(model, "blocks", None)
    if not isinstance(blocks, nn.ModuleList) or len(blocks) <= PROBE_DEPTH or model.reducer is not None:
        return model, 1.0
    probe = copy.copy(model)
    probe._modules = dict(model._modules)
    probe.blocks = nn.ModuleList(list(blocks[:PROBE_DEPTH]))
    return probe, PROBE_DEPTH / len(blocks)


def _name(dtype: str, batch: int, compiled: bool) -> str:
    return f"{dtype}/{batch}/{'compiled' if compiled else 'eager'}"


def _key(model: GridModel, input_shape: Sequence[int], device: torch.device) -> str:
    """Tells architectures, devices and versions apart; of the weights only their shapes matter."""
    shapes = [(name, tuple(weight.shape)) for name, weight in model.named_parameters()]
    shapes += [(repr(model.reducer), ())]  # some have no weights
    machine = (device_name(device), platform.processor() or platform.machine(), _cpu_model())
    said = repr((type(model).__name__, shapes, tuple(input_shape), machine, torch.__version__, VERSION))
    return hashlib.sha256(said.encode()).hexdigest()[:24]


VERSION = 1
"""Raised when the same model runs at another speed than before by a change of this project."""


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def _read(file: Path) -> Measured:
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
        times = {str(name): float(value) for name, value in stored["milliseconds"].items()}
        seconds = None if stored["compile_seconds"] is None else float(stored["compile_seconds"])
        if not all(math.isfinite(value) and value > 0 for value in (*times.values(), seconds or 1.0)):
            return Measured({})
        return Measured(times, seconds)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # none, or a damaged one: measure
        return Measured({})


def _write(file: Path, measured: Measured) -> None:
    with contextlib.suppress(UserError):  # a read-only home: it is measured again next time
        write_json(file, asdict(measured))
