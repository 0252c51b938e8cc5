"""A network as a CPU serves it: what only training needs apart joined, weights packed once, or blocks on bytes.

In int8 (for CPUs that multiply bytes faster: VNNI, AMX) weights have one scale for each output channel, rounded once;
activations one for each token, found as it comes, so that no calibration is needed and no token suffers from another's
outliers. Products are summed in 32 bits, exactly.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from revit.common.models.layers.block import Block, Mlp
from revit.common.system.errors import UserError

LARGEST = 127
"""Largest value of a signed byte; -128 is left out, so that signs are alike."""
ZERO = 128
"""Byte that stands for 0 in activations: oneDNN's fast products take them without a sign."""
ROWS = 512
"""Tokens that go through a layer together: bytes, sums and results of that many stay in the processor's caches."""


class PackedLinear(nn.Module):
    """A linear layer whose weight lies in the order in which oneDNN's product reads it, and which may end in an exact GELU.

    For inference: it has no parameters and nothing in a state. (The residual addition is not part of it: oneDNN has that too,
    but as measured the product then takes longer by more than the addition alone.)
    """

    def __init__(self, linear: nn.Linear, gelu: bool = False) -> None:
        """Copy what it needs from `linear`, which stays as it is."""
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach())
        self.bias = None if linear.bias is None else linear.bias.detach().clone()
        self.after = ("gelu", "none") if gelu else ("none", "")
        """Operation on the result, and its algorithm (for a GELU "none" is the exact one)."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., D) to (..., D')."""
        kind, algorithm = self.after
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, kind, [], algorithm)
        return out

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, {self.packed.dtype}, then {self.after[0]}"


class Int8Linear(nn.Module):
    """A linear layer on bytes. For inference: it has no parameters and nothing in a state; answers have the dtype of what
    comes in. Rounding is its only difference from the layer it was made of."""

    def __init__(self, linear: nn.Linear, gelu: bool = False) -> None:
        """Copy what it needs from `linear`, which stays as it is. gelu: an exact one follows."""
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
        """Map (..., D) to (..., D')."""
        rows = x.flatten(0, -2)
        out = x.new_empty(len(rows), self.out_features)
        for part, result in zip(rows.split(ROWS), out.split(ROWS)):
            result.copy_(self._of_rows(part))
        return out.unflatten(0, x.shape[:-1])

    def _of_rows(self, rows: Tensor) -> Tensor:
        quantized, scale = to_bytes(rows)
        weight = (self.packed, self.scales, self.zeros)
        # No bias yet: every token has another scale.
        result: Any = (None, 1.0, 0, torch.float32, "none", [], "")
        sums = torch.ops.onednn.qlinear_pointwise(quantized, 1.0, ZERO, *weight, *result)
        out = torch.addcmul(self.bias, sums, scale, out=sums).to(rows.dtype)
        return nn.functional.gelu(out) if self.gelu else out

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, int8, then {'gelu' if self.gelu else 'none'}"


def to_bytes(x: Tensor) -> tuple[Tensor, Tensor]:
    """Round (..., D) -> uint8 (..., D), and scales (..., 1) in float32: x is nearly (bytes - 128) * scale, where the largest
    magnitude of each row is 127 scales. A row of zeros stays one."""
    largest = torch.maximum(x.amax(dim=-1, keepdim=True), -x.amin(dim=-1, keepdim=True)).float()
    scale = (largest / LARGEST).clamp(min=torch.finfo(torch.float32).tiny)
    # In float32: bfloat16 has no room for 127.5. Rounds to the nearest, since the cast cuts off.
    return (x * scale.reciprocal()).add_(ZERO + 0.5).to(torch.uint8), scale


def can_pack(device: torch.device, dtype: torch.dtype) -> bool:
    """Say whether this machine and this build of torch have packed products of that kind."""
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return dtype == torch.float32


def folded(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Copy `network` for inference, its weights in `dtype`, with layers joined that only training needs apart (see
    `Block.fold`). Equal to the original within rounding."""
    copy = deepcopy(network).eval().requires_grad_(False)
    for module in list(copy.modules()):
        if isinstance(module, Block):
            module.fold()
    return copy.to(dtype)


def pack(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Make a `folded` copy with every linear layer a `PackedLinear` where the machine has that: on a CPU, in float32 or
    bfloat16.

    The copy is for eager inference without gradients: it cannot be trained, saved, or moved to another device or dtype, and
    compilers do not see into packed weights.
    """
    copy = folded(network, dtype)
    _replace_linears(copy, PackedLinear)
    return copy


def to_int8(network: nn.Module, dtype: torch.dtype = torch.float32) -> nn.Module:
    """Make a copy as `pack` does whose blocks (projections and MLPs, which are nearly all of the work) compute on bytes.
    Everything else, embeddings and heads among it, is in `dtype`; inputs come in it.

    Raises UserError where the CPU has no products of bytes.
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
            _replace_linears(module, Int8Linear)
    copy.to(dtype)
    _replace_linears(copy, PackedLinear)
    return copy


def _replace_linears(network: nn.Module, make: Callable[[nn.Linear, bool], nn.Module]) -> None:
    """Replace every linear layer below `network` that can be packed, and an exact GELU after it, by `make(layer, gelu)`."""
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            # A subclass of nn.Linear may compute something else.
            if type(child) is nn.Linear and can_pack(child.weight.device, child.weight.dtype):
                gelu = isinstance(parent, Mlp) and child is parent.fc1 and _exact_gelu(parent.act)
                setattr(parent, name, make(child, gelu))
                if gelu:
                    parent.act = nn.Identity()


def _exact_gelu(layer: nn.Module) -> bool:
    return isinstance(layer, nn.GELU) and layer.approximate == "none"
