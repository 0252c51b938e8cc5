"""How many inputs a second a configuration's model takes, untrained, in tests and in training."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from revit.common.config.sections import ScheduleOptions
from revit.common.data.batch import Batch
from revit.common.methods.apply import optim_of, task_of
from revit.common.methods.revit.adaptive import AdaptiveClassifier
from revit.common.methods.task import Progress
from revit.common.modality.costs import build
from revit.common.modality.modality import Modality
from revit.common.system.device import autocast
from revit.common.system.errors import UserError
from revit.common.timing.cases import even_pass, noise
from revit.common.timing.throughput import seconds_of
from revit.common.training.optim import build_optimizer, build_scheduler
from revit.common.training.parallel.backend import LocalBackend

LARGEST_BATCH = {"cuda": 32}
"""Elsewhere 4: a CPU is busy with that many."""
EVEN = "even mix"
"""Every token grid for the same share of the inputs, the assigner included."""
MOST_CALLS = 50


@dataclass(frozen=True)
class ModelRates:
    """Inputs per second; an input is one view of a sample."""

    dtype: str
    batch: int
    grids: dict[str, float]
    """The longest grid and, where there are several, `EVEN`."""


def test_dtype(options: Any) -> str:
    """What tests compute in."""
    return "float32" if options.run.dtype == "auto" else options.run.dtype


@torch.inference_mode()
def measure_model(options: Any, modality: Modality[Any], device: torch.device, seconds: float) -> ModelRates:
    """Noise classified as a test does it, for about `seconds`, each kind of call in turn; once each in any case."""
    model, assigner = build(options, modality)
    networks = AdaptiveClassifier(model, assigner).to(device).eval()
    dtype = test_dtype(options)
    batch = min(options.test.batch_size, LARGEST_BATCH.get(device.type, 4))
    inputs = noise(modality.input_shape(options), batch, device, "float32")
    longest = networks.grids[0]
    calls: dict[str, tuple[Callable[[], Any], int]] = {
        longest.name: (lambda: networks.model(inputs, longest), 1)
    }
    if assigner is not None:
        calls[EVEN] = (even_pass(networks, inputs), len(networks.grids))
    times = _in_turn({name: call for name, (call, _) in calls.items()}, device, dtype, seconds)
    rates = {name: batch * calls[name][1] / statistics.median(taken) for name, taken in times.items()}
    return ModelRates(dtype, batch, rates)


def measure_training_step(
    options: Any, modality: Modality[Any], device: torch.device, batch: Batch, seconds: float
) -> float:
    """Samples per second of updates on a batch that the training loader gave, losses of all grids and the optimiser
    included.

    Raises:
        UserError: the run cannot be trained as it stands (a teacher that is not there).
    """
    model = build(options, modality)[0].to(device).train()
    task = task_of(options, modality.task(options), modality, model)
    pixels = modality.normalizer(options).to(device)
    augment = modality.batch_augment(options, model.num_classes)
    backend = LocalBackend(
        device, options.run.dtype, clip_grad_norm=options.train.clip_grad_norm, options=options.parallel
    )
    optimizer = build_optimizer(model, optim_of(options))
    called = backend.prepare(
        model, optimizer, build_scheduler(optimizer, ScheduleOptions(name="constant"), 1)
    )
    moved = batch.to(device)

    def step() -> None:
        task.begin(Progress(0, 0.0, 0.5))
        inputs, mixed = pixels(moved.inputs), moved
        if augment is not None:
            inputs, mixed = augment(inputs, moved)
        with backend.autocast():
            for _, loss in task.losses(called, inputs, mixed):
                backend.backward(loss)
        backend.step()

    if not len(batch):
        raise UserError("no sample of the training loader's first batch could be read")
    try:
        times = _in_turn({"step": step}, device, "float32", seconds)
    finally:
        backend.close()
    return len(batch) / statistics.median(times["step"])


def _in_turn(
    calls: dict[str, Callable[[], Any]], device: torch.device, dtype: str, seconds: float
) -> dict[str, list[float]]:
    """Seconds of every call. The first of each only warms up, unless the time is over with it."""
    with autocast(device, dtype):
        begin = time.perf_counter()
        first = {name: [seconds_of(call, device)] for name, call in calls.items()}
        times: dict[str, list[float]] = {name: [] for name in calls}
        for number in range(MOST_CALLS):
            spent = time.perf_counter() - begin
            if spent * (number + 2) / (number + 1) > seconds:  # the next round would not fit
                break
            for name, call in calls.items():
                times[name].append(seconds_of(call, device))
    return {name: taken or first[name] for name, taken in times.items()}
