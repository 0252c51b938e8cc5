"""Attention and its derivative along one direction, written by hand so that the large maps stay in a CPU's cache.

With p = softmax(s), s = q k^T / sqrt(d), and a dot for derivatives along the direction: ds = (dq k^T + q dk^T) / sqrt(d),
and with m = p * ds the output's derivative is p dv + m v - rowsum(m) (p v). So no map but p and m is ever needed, and of
these one group of windows and heads at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from revit.common.models.layers.attention import Attention

GROUP = 2**19
"""Numbers of a map that are worked on at once (2 MB in float32)."""


def attention_with_slope(
    query: Tensor, key: Tensor, value: Tensor, slopes: tuple[Tensor, Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """Softmax attention and its derivative; `slopes` are the derivatives of query, key and value. All (M, N, d)."""
    M, N, d = query.shape
    dq, dk, dv = slopes
    scale = d**-0.5
    query, dq = query * scale, dq * scale
    keys = key.transpose(1, 2).contiguous()  # (M, d, N)
    both_queries = torch.cat([dq, query], dim=2)
    both_keys = torch.cat([keys, dk.transpose(1, 2)], dim=1)  # (M, 2d, N)
    both_values = torch.cat([value, dv], dim=2)
    with_sum = torch.cat(
        [value, torch.ones_like(value[..., :1])], dim=2
    )  # the last column sums the rows of m
    out, slope = torch.empty_like(value), torch.empty_like(value)
    group = min(M, max(1, GROUP // N**2))
    p, m = query.new_empty(2, group, N, N).unbind(0)
    for first in range(0, M, group):
        part = slice(first, first + group)
        size = len(query[part])
        torch.bmm(query[part], keys[part], out=p[:size])
        torch.softmax(p[:size], dim=-1, out=p[:size])
        torch.bmm(both_queries[part], both_keys[part], out=m[:size])
        m[:size].mul_(p[:size])
        pv, p_dv = torch.bmm(p[:size], both_values[part]).split(d, dim=2)
        mv, row = torch.bmm(m[:size], with_sum[part]).split([d, 1], dim=2)
        out[part] = pv
        slope[part] = p_dv + mv - row * pv
    return out, slope


class SlopeAttention(nn.Module):
    """In an Attention's place inside `torch.autograd.forward_ad.dual_level`: same weights, derivative by hand."""

    def __init__(self, layer: Attention) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor, keys: Tensor | None = None) -> Tensor:
        """(..., N, D), with a derivative -> (..., N, D), with a derivative. `keys` is not used: As-ViT weighs none."""
        layer, leading = self.layer, x.shape[:-2]
        # (..., N, 3D) -> (batch, N, 3, heads, d) -> three of (batch * heads, N, d)
        qkv = layer.qkv(x).flatten(0, -3).unflatten(-1, (3, layer.num_heads, -1))
        three = qkv.permute(2, 0, 3, 1, 4).flatten(1, 2)
        primal, tangent = forward_ad.unpack_dual(three)
        assert tangent is not None, "what comes in has no derivative"
        query, key, value = primal.unbind(0)
        dq, dk, dv = tangent.unbind(0)
        out, slope = attention_with_slope(query, key, value, (dq, dk, dv))
        mixed = forward_ad.make_dual(out, slope).unflatten(0, (-1, layer.num_heads))
        return layer.proj(mixed.transpose(1, 2).flatten(2).unflatten(0, leading))


@contextmanager
def attention_by_hand(model: nn.Module) -> Iterator[None]:
    """Inside, every Attention of the model is a `SlopeAttention`."""
    found = [
        (parent, name, child)
        for parent in list(model.modules())
        for name, child in parent.named_children()
        if isinstance(child, Attention)
    ]
    for parent, name, layer in found:
        setattr(parent, name, SlopeAttention(layer))
    try:
        yield
    finally:
        for parent, name, layer in found:
            setattr(parent, name, layer)


def slope_along(
    model: nn.Module, function: Callable[[Tensor], Tensor], images: Tensor, direction: Tensor
) -> Tensor:
    """The derivative along `direction`, of the pictures' shape, of a function of pictures that goes through the model."""
    with forward_ad.dual_level(), attention_by_hand(model):
        _, slope = forward_ad.unpack_dual(function(forward_ad.make_dual(images, direction)))
    assert slope is not None, "the function does not depend on the pictures"
    return slope
