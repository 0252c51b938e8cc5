"""What a view takes at every grid on this device, for budgets in milliseconds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from revit.common.methods.revit.adaptive import AdaptiveClassifier
from revit.common.methods.revit.budget import Milliseconds
from revit.common.system.device import autocast
from revit.common.timing.clock import seconds_of


@torch.inference_mode()
def measure_milliseconds(
    classifier: AdaptiveClassifier,
    input_shape: Sequence[int],
    device: torch.device,
    dtype: str,
    batch: int,
    served: str | None = None,
    rounds: int = 5,
) -> Milliseconds:
    """Milliseconds of one input at every grid and of the assigner, in batches of `batch` noise inputs: the median of
    interleaved rounds after two that warm up, so that a machine's other work meets all alike.

    dtype: of autocast. served: how the model is served where it has a dtype of its own, in words; then there is no autocast.
    """
    inputs = torch.randn(batch, *input_shape[1:], generator=torch.Generator().manual_seed(0)).to(device)
    model, assigner = classifier.model, classifier.assigner
    runs: list[tuple[nn.Module, tuple[Any, ...]]] = [(model, (inputs, grid)) for grid in model.grids]
    if assigner is not None:
        runs.append((assigner, (inputs,)))
    times: list[list[float]] = [[] for _ in runs]
    with autocast(device, dtype if served is None else "float32"):
        for number in range(rounds + 2):
            for (network, arguments), one in zip(runs, times):
                seconds = seconds_of(lambda net=network, args=arguments: net(*args), device)  # type: ignore[misc]
                if number >= 2:
                    one.append(1000 * seconds / batch)
    medians = [statistics.median(one) for one in times]
    if medians[0] <= medians[len(model.grids) - 1]:
        shown = ", ".join(f"{grid} {ms:.3g} ms" for grid, ms in zip(model.grids, medians))
        raise ValueError(
            f"shorter grids take no less time here ({shown}, batches of {batch}); ask for gmacs: or drop:, or for larger batches"
        )
    where = (
        torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device}, {torch.get_num_threads()} threads"
    )
    return Milliseconds(
        grids=tuple(medians[: len(model.grids)]),
        assigner=medians[-1] if assigner is not None else 0.0,
        how=f"measured on {where}, {served or dtype}, batches of {batch}, median of {rounds} rounds",
    )
