"""Multi-head self-attention, fused or written out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch.nn.functional as F
from torch import Tensor, nn


class Attention(nn.Module):
    """Self-attention over the second-last axis, with the parameter names of timm and TimeSformer.

    One projection gives query, key and value, split as (3, heads, head width); the softmax scale is the head
    width to the power of -0.5. The head width is width / heads unless `head_dim` says otherwise.
    """

    def __init__(
        self, width: int, num_heads: int, qkv_bias: bool = True, head_dim: int | None = None
    ) -> None:
        super().__init__()
        if head_dim is None and width % num_heads:
            raise ValueError(f"embed_dim {width} is not a multiple of num_heads {num_heads}")
        inner = num_heads * (head_dim or width // num_heads)
        self.num_heads = num_heads
        self.fused = True
        self.qkv = nn.Linear(width, 3 * inner, bias=qkv_bias)
        self.proj = nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        """(..., N, D) -> (..., N, D); all leading axes are batch."""
        leading = x.shape[:-2]
        # (..., N, 3D) -> three of (batch, heads, N, head width)
        qkv = self.qkv(x).flatten(0, -3).unflatten(-1, (3, self.num_heads, -1))
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        if self.fused:
            mixed = F.scaled_dot_product_attention(query, key, value)
        else:
            scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
            mixed = scores.softmax(dim=-1) @ value
        return self.proj(mixed.transpose(1, 2).flatten(2).unflatten(0, leading))


@contextmanager
def explicit_attention(model: nn.Module) -> Iterator[None]:
    """Inside, every Attention of the model writes its two matrix products out, where counters can see them."""
    layers = [layer for layer in model.modules() if isinstance(layer, Attention)]
    before = [layer.fused for layer in layers]
    for layer in layers:
        layer.fused = False
    try:
        yield
    finally:
        for layer, fused in zip(layers, before):
            layer.fused = fused
