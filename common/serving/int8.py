"""Weights and activations of 8 bits in the blocks of a transformer, for CPUs that multiply them faster (VNNI, AMX).

Weights: one scale for each output channel, rounded once. Activations: one scale for each token, found as it comes, so that
no calibration is needed and no token suffers from another's outliers. Products are summed in 32 bits, exactly.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from revit.common.models.layers.block import Block
from revit.common.serving.packed import PackedLinear, folded, replace_linears
from revit.common.system.errors import UserError

LARGEST = 127
"""Of a signed byte; -128 is left out, so that signs are alike."""
ZERO = 128
"""The byte that stands for 0 in activations: oneDNN's fast products take them without a sign."""
ROWS = 512
"""Tokens that go through a layer together: bytes, sums and results of that many stay in the processor's caches."""


def to_bytes(x: Tensor) -> tuple[Tensor, Tensor]:
    """(..., D) -> uint8 (..., D), and scales (..., 1) in float32: x is nearly (bytes - 128) * scale, where the largest
    magnitude of each row is 127 scales. A row of zeros stays one."""
    largest = torch.maximum(x.amax(dim=-1, keepdim=True), -x.amin(dim=-1, keepdim=True)).float()
    scale = (largest / LARGEST).clamp(min=torch.finfo(torch.float32).tiny)
    # In float32: bfloat16 has no room for 127.5. Rounds to the nearest, since the cast cuts off.
    return (x * scale.reciprocal()).add_(ZERO + 0.5).to(torch.uint8), scale


class Int8Linear(nn.Module):
    """A linear layer on bytes. For inference: it has no parameters and nothing in a state; answers have the dtype of what
    comes in. Rounding is its only difference from the layer it was made of."""

    def __init__(self, linear: nn.Linear, gelu: bool = False) -> None:
        """Copies what it needs from `linear`, which stays as it is. gelu: an exact one follows."""
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        weight = linear.weight.detach().float()
        self.scales = (weight.abs().amax(dim=1) / LARGEST).clamp(min=torch.finfo(torch.float32).tiny)
        rounded = (weight / self.scales[:, None]).round().to(torch.int8)
        self.packed: Tensor = torch.ops.onednn.qlinear_prepack(rounded, None)
        self.zeros = torch.zeros(self.out_features, dtype=torch.int32)
        bias = torch.zeros(self.out_features) if linear.bias is None else linear.bias.detach().float()
        self.bias = bias.clone()
        self.gelu = gelu

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D')"""
        rows = x.flatten(0, -2)
        out = x.new_empty(len(rows), self.out_features)
        for part, result in zip(rows.split(ROWS), out.split(ROWS)):
            result.copy_(self._of_rows(part))
        return out.unflatten(0, x.shape[:-1])

    def _of_rows(self, rows: Tensor) -> Tensor:
        """(N, D) -> (N, D')"""
        quantized, scale = to_bytes(rows)
        weight = (self.packed, self.scales, self.zeros)
        # No bias yet: every token has another scale.
        result: Any = (None, 1.0, 0, torch.float32, "none", [], "")
        sums = torch.ops.onednn.qlinear_pointwise(quantized, 1.0, ZERO, *weight, *result)
        out = torch.addcmul(self.bias, sums, scale, out=sums).to(rows.dtype)
        return nn.functional.gelu(out) if self.gelu else out

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, int8, then {'gelu' if self.gelu else 'none'}"


def to_int8(network: nn.Module, dtype: torch.dtype = torch.float32) -> nn.Module:
    """A copy of `network` for inference whose blocks (projections and MLPs, which are nearly all of the work) compute on
    bytes. Everything else, embeddings and heads among it, is in `dtype` and packed; inputs come in it.

    `network` stays as it is; what `pack` says of copies holds. Raises UserError where the CPU has no products of bytes.
    """
    device = next(network.parameters()).device
    if device.type != "cpu" or not torch.backends.mkldnn.is_available() or not torch.cpu._is_vnni_supported():
        raise UserError(
            f"int8: needs a CPU with VNNI instructions and a torch with oneDNN, and this is {device.type} without; choose "
            "float32 or bfloat16"
        )
    copy = folded(network, torch.float32)  # bytes are rounded from what is exact
    for module in list(copy.modules()):
        if isinstance(module, Block):
            replace_linears(module, Int8Linear)
    copy.to(dtype)
    replace_linears(copy, PackedLinear)
    return copy
