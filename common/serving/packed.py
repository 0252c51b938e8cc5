"""A network as a CPU serves it: weights packed once for its matrix kernels, and what only training needs apart joined."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import torch
from torch import Tensor, nn

from revit.common.models.layers.block import Block, Mlp


class PackedLinear(nn.Module):
    """A linear layer whose weight lies in the order in which oneDNN's product reads it, and which may end in an exact GELU.

    For inference: it has no parameters and nothing in a state. (The residual addition is not part of it: oneDNN has that too,
    but as measured the product then takes longer by more than the addition alone.)
    """

    def __init__(self, linear: nn.Linear, gelu: bool = False) -> None:
        """Copies what it needs from `linear`, which stays as it is."""
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach())
        self.bias = None if linear.bias is None else linear.bias.detach().clone()
        self.after = ("gelu", "none") if gelu else ("none", "")
        """The operation on the result, and its algorithm (for a GELU "none" is the exact one)."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D')"""
        kind, algorithm = self.after
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, kind, [], algorithm)
        return out

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, {self.packed.dtype}, then {self.after[0]}"


def can_pack(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether this machine and this build of torch have packed products of that kind."""
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return dtype == torch.float32


def folded(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A copy of `network` for inference, its weights in `dtype`, with layers joined that only training needs apart (see
    `Block.fold`). Equal to the original within rounding."""
    copy = deepcopy(network).eval().requires_grad_(False)
    for module in list(copy.modules()):
        if isinstance(module, Block):
            module.fold()
    return copy.to(dtype)


def pack(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    """`folded`, with every linear layer a `PackedLinear` where the machine has that: on a CPU, in float32 or bfloat16.

    `network` itself is never changed, and shares nothing with the copy. The copy is for eager inference without gradients:
    it cannot be trained, saved, or moved to another device or dtype, and compilers do not see into packed weights.
    """
    copy = folded(network, dtype)
    replace_linears(copy, PackedLinear)
    return copy


def replace_linears(network: nn.Module, make: Callable[[nn.Linear, bool], nn.Module]) -> None:
    """Puts what `make` makes of a linear layer, and of whether an exact GELU follows it, in the place of both: of every linear
    layer below `network` that can be packed."""
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
