"""fvcore's count of a model on meta tensors, fused attention included."""

from __future__ import annotations

import math
import re
import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

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
