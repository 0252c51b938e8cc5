"""Other people's implementations, to be timed beside ours: with our weights if they agree, or as another architecture."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from revit.common.grid_model import GridModel
from revit.common.report.flops import TOLERANCE, on_meta, torch_macs
from revit.common.report.fvcore_count import fvcore_macs

LARGEST_DIFFERENCE = 1e-4
"""Of the logits, relative to their largest: float32 sums in another order."""


@dataclass(frozen=True)
class Twin:
    """An implementation of the same model, made from ours and filled with its weights."""

    name: str
    make: Callable[[Any], nn.Module]
    """Raises UserError where there is no such implementation."""


@dataclass(frozen=True)
class Reference:
    """Another architecture, with random weights, at the input size that its builder is made for."""

    name: str
    make: Callable[[], nn.Module]
    """Takes one tensor of `input_shape`. Raises UserError that says what to install."""
    input_shape: tuple[int, ...]
    """Batch 1."""

    @property
    def input_name(self) -> str:
        """Frames and pixels, such as "16x224x224"."""
        return "x".join(map(str, self.input_shape[2:]))


@dataclass(frozen=True)
class Peers:
    """What is timed beside the models of one kind."""

    twins: tuple[Twin, ...] = ()
    references: tuple[Reference, ...] = ()


@torch.no_grad()
def checked_twin(make_twin: Callable[[Any], nn.Module], model: GridModel, inputs: Tensor) -> nn.Module:
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


def foreign_gmacs(model: nn.Module, input_shape: Sequence[int]) -> float | None:
    """GMACs of a model that has no closed formula here, by fvcore and torch; None where they disagree or cannot count."""
    try:
        with torch.inference_mode(False), torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            copied = on_meta(model).float().eval()
            inputs = (torch.empty(tuple(input_shape), device="meta"),)
            traced, unknown = fvcore_macs(copied, inputs)
            by_torch = sum(torch_macs(copied, inputs).values())
    except Exception:  # whatever tracing makes of foreign code: an unknown cost is no reason not to time it
        return None
    products = sum(traced.get(kind, 0.0) for kind in ("linear", "attention", "convolution"))
    if unknown or abs(products - by_torch) > TOLERANCE * by_torch:
        return None
    return sum(traced.values()) / 1e9
