"""Other people's implementations of a model, to be timed beside ours: with our weights, and only if they agree."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from revit.common.grid_model import GridModel

LARGEST_DIFFERENCE = 1e-4
"""Of the logits, relative to their largest: float32 sums in another order."""


@torch.no_grad()
def checked_twin(
    make_twin: Callable[[Any], nn.Module], model: GridModel, inputs: Tensor
) -> nn.Module:
    """The other implementation with our weights, after both gave the same logits for `inputs` (float32, on the CPU).

    Parameters that start at zero are filled with noise first, in `model` too: otherwise whatever they multiply would
    take no part in the comparison.

    Raises:
        UserError: as `make_twin`, where there is no such implementation.
        RuntimeError: the two differ, so timing them against each other would mean nothing.
    """
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if not parameter.any():
            parameter.copy_(0.02 * torch.randn(parameter.shape, generator=generator))
    twin = make_twin(model).eval()
    training = model.training
    ours, theirs = model.eval()(inputs).prediction, twin(inputs)
    model.train(training)
    difference = float((ours - theirs).abs().max() / ours.abs().max())
    if difference > LARGEST_DIFFERENCE:
        raise RuntimeError(
            f"{type(twin).__name__}: its logits differ from ours by {difference:.2g} of the largest "
            f"(limit {LARGEST_DIFFERENCE:g})"
        )
    return twin
