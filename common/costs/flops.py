"""Counting multiply-accumulates in a way that cannot be silently wrong.

Published "FLOPs" of this field are multiply-accumulates, and counters that do not know fused attention leave it out
without a word. Here three independent counts have to agree: fvcore with a handler for fused attention (its total is
what gets reported, as in the published numbers), torch's own counter, and a closed formula. Everything runs on meta
tensors: no memory for activations, no arithmetic, so the largest model takes seconds.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from revit.common.costs.fvcore_count import fvcore_macs
from revit.common.models.grid import TokenGrid
from revit.common.models.layers.attention import Attention

TOLERANCE = 0.01
"""Largest relative difference between two counts of the same work."""

PRODUCTS = ("linear", "attention", "convolution")
"""The kinds of work that are matrix products, and so are compared. fvcore's total has norms and pooling on top."""


@runtime_checkable
class HasClosedForm(Protocol):
    """A model that knows its cost by formula."""

    def closed_form_macs(self, input_shape: Sequence[int], grid: TokenGrid | None) -> Mapping[str, float]:
        """Count the multiply-accumulates of one input by kind: linear, attention, convolution."""


class CountError(RuntimeError):
    """The counts of one model disagree, so none of them can be believed."""


@dataclass(frozen=True)
class Count:
    """Cost of one forward pass of batch 1."""

    macs: Mapping[str, float]
    """Multiply-accumulates by kind of work; norms as fvcore counts them."""
    params: int
    """Parameters of the whole model, those of other grids included."""

    @property
    def gmacs(self) -> float:
        """Multiply-accumulates / 1e9, which papers of this field call GFLOPs."""
        return sum(self.macs.values()) / 1e9


def count(
    model: nn.Module,
    input_shape: Sequence[int],
    grid: TokenGrid | None = None,
    closed_form: Mapping[str, float] | None = None,
) -> Count:
    """Count `model(zeros(input_shape), grid)`, in evaluation mode; the model itself is not touched.

    The formula is `closed_form` where given, else the model's own (`closed_form_macs(input_shape, grid)`), else the
    sum over its linear, convolution and Attention layers of what their weights and the sizes they met amount to. Each
    gives multiply-accumulates by kind (`PRODUCTS`). Raise CountError: two counts differ by more than `TOLERANCE`, or an
    operator that hides matrix products is unknown.
    """
    # Tracing does not work in inference mode, which callers may be in.
    with torch.inference_mode(False), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing warns of every Python number it makes a constant
        copied = on_meta(model).float().eval()
        inputs = torch.empty(tuple(input_shape), device="meta")
        arguments = (inputs,) if grid is None else (inputs, grid)
        traced, unknown = fvcore_macs(copied, arguments)
        by_torch = torch_macs(copied, arguments)
        if closed_form is None and isinstance(model, HasClosedForm):
            closed_form = model.closed_form_macs(input_shape, grid)
        formula = dict(closed_form) if closed_form is not None else _macs_by_layers(copied, arguments)
    if unknown:
        raise CountError(
            f"fvcore cannot count {', '.join(unknown)}, which may hide matrix products; "
            "add a handler to revit/common/costs/fvcore_count.py"
        )
    _check(traced, by_torch, formula)
    return Count(traced, sum(parameter.numel() for parameter in model.parameters()))


def _check(traced: Mapping[str, float], by_torch: Mapping[str, float], formula: Mapping[str, float]) -> None:
    products = {kind: traced[kind] for kind in PRODUCTS if kind in traced}
    torch_convolution = sum(macs for operator, macs in by_torch.items() if "convolution" in operator)
    # A linear layer may run as a batched product, so torch's counter cannot tell it from attention.
    pairs = [(kind, products.get(kind, 0.0), formula.get(kind, 0.0)) for kind in PRODUCTS]
    pairs.append(("all products", sum(products.values()), sum(by_torch.values())))
    pairs.append(("convolution", products.get("convolution", 0.0), torch_convolution))
    wrong = dict.fromkeys(kind for kind, a, b in pairs if abs(a - b) > TOLERANCE * max(a, b))
    if wrong:
        raise CountError(
            f"the counts disagree by more than {TOLERANCE:.0%} on {', '.join(wrong)}: "
            f"fvcore {_shown(products)}; torch {_shown(by_torch)}; closed formula {_shown(formula)}"
        )


def _shown(counts: Mapping[str, float]) -> str:
    kinds = ", ".join(f"{kind} {macs / 1e9:.4g}" for kind, macs in counts.items())
    return f"{sum(counts.values()) / 1e9:.4f} GMACs ({kinds})"


def torch_macs(model: nn.Module, arguments: tuple[Any, ...]) -> dict[str, float]:
    """Count by torch's own counter, by operator."""
    with FlopCounterMode(display=False) as counter:
        model(*arguments)
    found = counter.get_flop_counts().get("Global", {})
    return {str(operator): flops / 2 for operator, flops in found.items()}


def _macs_by_layers(model: nn.Module, arguments: tuple[Any, ...]) -> dict[str, float]:
    macs = dict.fromkeys(PRODUCTS, 0.0)

    def note(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if isinstance(module, nn.Linear):
            macs["linear"] += output.numel() * module.in_features
        elif isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
            macs["convolution"] += output.numel() * module.weight[0].numel()
        elif isinstance(module, Attention):
            # Two products of (N, inner) by (inner, N) each; `proj` takes the inner width in.
            num_tokens = inputs[0].numel() // inputs[0].shape[-1]
            macs["attention"] += 2 * num_tokens * inputs[0].shape[-2] * module.proj.in_features

    handles = [module.register_forward_hook(note) for module in model.modules()]
    try:
        model(*arguments)
    finally:
        for handle in handles:
            handle.remove()
    return macs


def on_meta(model: nn.Module) -> nn.Module:
    """Copy a model to tensors that have shapes and no data, without copying the data first."""
    replaced: dict[int, Any] = {}
    for parameter in model.parameters():
        replaced[id(parameter)] = nn.Parameter(parameter.detach().to("meta"), parameter.requires_grad)
    for buffer in model.buffers():
        replaced[id(buffer)] = buffer.to("meta")
    return copy.deepcopy(model, replaced)
