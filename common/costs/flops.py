"""Counting multiply-accumulates in a way that cannot be silently wrong.

Published "FLOPs" of this field are multiply-accumulates, and counters that do not know fused attention leave it out
without a word. Here three independent counts have to agree: fvcore with a handler for fused attention (its total is
what gets reported, as in the published numbers), torch's own counter, and a closed formula. Everything runs on meta
tensors: no memory for activations, no arithmetic, so the largest model takes seconds.
"""

from __future__ import annotations

import copy
import math
import re
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from revit.common.models.base import GridModel
from revit.common.models.grid import TokenGrid
from revit.common.models.layers.attention import Attention

TOLERANCE = 0.01
"""Largest relative difference between two counts of the same work."""

PRODUCTS = ("linear", "attention", "convolution")
"""The kinds of work that are matrix products, and so are compared. fvcore's total has norms and pooling on top."""


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


def count(model: nn.Module, input_shape: Sequence[int], grid: TokenGrid | None = None) -> Count:
    """Count `model(zeros(input_shape), grid)`, in evaluation mode; the model itself is not touched.

    The formula is the model's `closed_form_macs(input_shape, grid)`, which gives multiply-accumulates by kind
    (`PRODUCTS`), or where it has none the sum over its linear, convolution and Attention layers of what their weights and
    the sizes they met amount to. Raise CountError: two counts differ by more than `TOLERANCE`, or an operator that hides
    matrix products is unknown.
    """
    # Tracing does not work in inference mode, which callers may be in.
    with torch.inference_mode(False), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing warns of every Python number it makes a constant
        copied = on_meta(model).float().eval()
        inputs = torch.empty(tuple(input_shape), device="meta")
        arguments = (inputs,) if grid is None else (inputs, grid)
        traced, unknown = fvcore_macs(copied, arguments)
        by_torch = torch_macs(copied, arguments)
        by_formula = getattr(model, "closed_form_macs", None)
        formula = _macs_by_layers(copied, arguments) if by_formula is None else by_formula(input_shape, grid)
    if unknown:
        raise CountError(
            f"fvcore cannot count {', '.join(unknown)}, which may hide matrix products; "
            "add a handler to revit/common/costs/flops.py"
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


_KINDS = {
    "conv": "convolution",
    "linear": "linear",
    "addmm": "linear",
    "matmul": "attention",
    "bmm": "attention",
    "baddbmm": "attention",
    "einsum": "attention",
    "attention": "attention",
}
_HIDES_PRODUCTS = re.compile(
    r"^(?!_?upsample).*(mm|mv|matmul|linear|conv|attention|transformer|einsum|dot|lstm|gru|rnn|cdist)"
)


def fvcore_macs(model: nn.Module, arguments: tuple[Any, ...]) -> tuple[dict[str, float], list[str]]:
    """Count by kind of work, and name unknown operators that may hide matrix products.

    `model` and the tensors in `arguments` are on the meta device. Other unknown operators (additions, GELU, softmax)
    count as nothing, as in all published numbers; LayerNorm and pooling count as fvcore has them.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fvcore uses names that torch is phasing out
        from fvcore.nn import FlopCountAnalysis

    tensors = tuple(argument for argument in arguments if isinstance(argument, Tensor))
    rest = tuple(argument for argument in arguments if not isinstance(argument, Tensor))
    with _traceable_convolution():
        analysis = FlopCountAnalysis(_TensorsOnly(model, rest), tensors)
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
        analysis.set_op_handle("aten::scaled_dot_product_attention", _attention_macs)
        by_operator, unknown = analysis.by_operator(), analysis.unsupported_ops()
    macs: dict[str, float] = defaultdict(float)
    for operator, amount in by_operator.items():
        macs[_KINDS.get(operator, operator)] += float(amount)
    return dict(macs), sorted(name for name in unknown if _HIDES_PRODUCTS.match(name.split("::")[-1]))


class _TensorsOnly(nn.Module):
    """Tracing takes tensors in and out only: other arguments are bound, an output object gives its prediction."""

    def __init__(self, model: nn.Module, rest: Sequence[Any]) -> None:
        super().__init__()
        self.model = model
        self.rest = tuple(rest)

    def forward(self, *tensors: Tensor) -> Tensor:
        output = self.model(*tensors, *self.rest)
        return output if isinstance(output, Tensor) else output.prediction


def _attention_macs(inputs: list[Any], outputs: list[Any]) -> dict[str, float]:
    """Count query by key and weights by value, (..., N, E), (..., M, E), (..., M, V): batch * N * M * (E + V)."""
    query, key, value = (list(item.type().sizes()) for item in inputs[:3])
    return {"attention": float(math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1]))}


@contextmanager
def _traceable_convolution() -> Iterator[None]:
    """Make convolutions of meta tensors traceable inside, under the name that fvcore knows (`aten::_convolution`).

    Torch's own meta kernel for it is Python that branches on sizes, and under tracing sizes are tensors. These
    kernels answer with the shape alone, and are taken out again at the end.
    """

    def convolution(*arguments: Any) -> Tensor:
        return torch.ops.aten._convolution(*arguments, False, False, False, False)

    def _convolution(
        images: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
        transposed: bool,
        *_: Any,
    ) -> Tensor:
        if transposed:
            raise NotImplementedError("transposed convolutions are not counted")
        sides = zip(images.shape[2:], weight.shape[2:], stride, padding, dilation)
        out = [(size + 2 * pad - gap * (kernel - 1) - 1) // step + 1 for size, kernel, step, pad, gap in sides]
        return images.new_empty((images.shape[0], weight.shape[0], *out))

    library = torch.library.Library("aten", "IMPL", "Meta")
    try:
        library.impl("convolution", convolution, allow_override=True)
        library.impl("_convolution", _convolution, allow_override=True)
        yield
    finally:
        library._destroy()


@dataclass(frozen=True)
class Costs:
    """GMACs of one view, batch 1, attention included; parameters of the model without its assigner."""

    grids: Mapping[str, float]
    """GMACs by the grid's name, longest first."""
    assigner: float
    num_params: int
    num_assigner_params: int = 0

    def mean(self, shares: Mapping[str, float]) -> float:
        """Return the mean GMACs of inputs of which each grid gets its share, the assigner included."""
        return sum(share * self.grids[name] for name, share in shares.items()) + self.assigner


def count_costs(model: GridModel, assigner: nn.Module | None, input_shape: Sequence[int]) -> Costs:
    """Count model and assigner for inputs of `input_shape`, batch 1. Raise CountError if the counts disagree."""
    counts = {grid.name: count(model, input_shape, grid) for grid in model.grids}
    asking = None if assigner is None else count(assigner, input_shape)
    return Costs(
        grids={name: one.gmacs for name, one in counts.items()},
        assigner=0.0 if asking is None else asking.gmacs,
        num_params=sum(weight.numel() for weight in model.parameters()),
        num_assigner_params=0 if asking is None else asking.params,
    )
