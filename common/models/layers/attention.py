"""Multi-head self-attention, fused or written out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from threading import Lock

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def masked_softmax(scores: Tensor, keys: Tensor, eps: float = 1e-6) -> Tensor:
    """Compute attention weights (B, heads, N, N) of scores over keys (B, N) that are seen from 0 (by nobody) to 1 (DynamicViT).

    A token always sees itself, so that no row is empty. With e = exp(scores - row maximum) times the weights, the result
    is (e + eps / N) / (sum of e + eps), as published: of ones it is the softmax to within eps, and eps keeps the gradient of
    a dropped key alive. Computed in float32 at least; gradients reach scores and keys.
    """
    N = scores.shape[-1]
    diagonal = torch.eye(N, dtype=keys.dtype, device=keys.device)
    seen = keys[:, None, None, :] * (1 - diagonal) + diagonal  # (B, 1, N, N)
    exact = scores.to(torch.promote_types(scores.dtype, torch.float32))
    masses = (exact - exact.amax(dim=-1, keepdim=True)).exp() * seen
    weights = (masses + eps / N) / (masses.sum(dim=-1, keepdim=True) + eps)
    return weights.to(scores.dtype)


def fused_attention(qkv: Tensor) -> Tensor:
    """Attend, (B, N, 3, heads, head width) -> (B, N, heads * head width), by the framework's one kernel."""
    query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    return F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)


SCORES_AT_ONCE = 2**20
"""Scores that one core keeps near: in bfloat16 two megabytes, a usual second-level cache."""
SHORT_ROW = 32
"""Keys that fill a vector register; with fewer the softmax runs along the other axes."""
MEASURED_TOKENS = 1024
"""Tokens of a measurement of what is faster: some milliseconds each time."""
CLEARLY = 1.1
"""Factor by which the fused kernel must be faster to be chosen: where both are alike, processes should not differ by chance."""
LONG_ROW = 640
"""Keys from which on the scores would take too much memory."""


def attention_by_products(qkv: Tensor) -> Tensor:
    """Attend by two batched matrix products, without gradients: a part of the batch at a time, as large as its scores stay in
    the cache. Scores and weights are rounded to the dtype of `qkv`, where the fused kernel keeps float32."""
    B, N, _, heads, head_dim = qkv.shape
    mixed = qkv.new_empty(B, N, heads, head_dim)
    at_once = max(1, SCORES_AT_ONCE * _num_threads() // (heads * N * N))
    for part, result in zip(qkv.split(at_once), mixed.split(at_once)):
        # The one copy: three of (batch * heads, N, head width).
        query, key, value = part.permute(2, 0, 3, 1, 4).contiguous().flatten(1, 2).unbind(0)
        unused = query.new_empty(1, 1, 1)
        scores = torch.baddbmm(unused, query, key.transpose(1, 2), beta=0, alpha=head_dim**-0.5)
        if N < SHORT_ROW:
            weights = scores.permute(2, 0, 1).contiguous().softmax(dim=0).permute(1, 2, 0)
        else:
            weights = scores.softmax(dim=-1)
        result.copy_((weights @ value).unflatten(0, (-1, heads)).transpose(1, 2))
    return mixed.flatten(2)


@torch.compiler.assume_constant_result
def _num_threads() -> int:
    # A constant to a compiler, which would otherwise break the graph here.
    return torch.get_num_threads()


def products_are_faster(qkv: Tensor) -> bool:
    """Say whether two products beat the fused kernel, for (B, N, 3, heads, head width).

    In question is only bfloat16 on a CPU. It depends on the processor's instructions, so it is measured, once in a process
    for each power of two of N and each size of a head: equal shapes always go the same way, whatever their batch.
    """
    _, N, _, heads, head_dim = qkv.shape
    if qkv.device.type != "cpu" or qkv.dtype != torch.bfloat16 or N >= LONG_ROW:
        return False
    return _products_win(N.bit_length(), heads, head_dim, _num_threads())


_MEASURING = Lock()


@torch.compiler.assume_constant_result
def _products_win(bits: int, heads: int, head_dim: int, num_threads: int) -> bool:
    with _MEASURING:  # two threads that ask at once get one answer
        return _measured(bits, heads, head_dim, num_threads)


@cache
@torch.inference_mode()
def _measured(bits: int, heads: int, head_dim: int, num_threads: int) -> bool:
    """Measure at three quarters of the largest number of tokens that has so many bits."""
    N = max(1, 3 * 2**bits // 4)
    B = max(1, MEASURED_TOKENS // N)
    # Times do not depend on the values.
    qkv = torch.zeros(B, N, 3, heads, head_dim, dtype=torch.bfloat16, device="cpu")
    times: dict[Callable[[Tensor], Tensor], list[float]] = {attention_by_products: [], fused_attention: []}
    # In turns, and the fastest counts: what else the machine does falls on both, or on neither.
    for _ in range(5):
        for attend, seconds in times.items():
            start = time.perf_counter()
            attend(qkv)
            seconds.append(time.perf_counter() - start)
    return min(times[attention_by_products]) < CLEARLY * min(times[fused_attention])


class Attention(nn.Module):
    """Self-attention over the second-last axis, with the parameter names of timm and TimeSformer.

    One projection gives query, key and value, split as (3, heads, head width); the softmax scale is the head
    width to the power of -0.5. The head width is width / heads unless `head_dim` says otherwise.
    """

    def __init__(self, width: int, num_heads: int, qkv_bias: bool = True, head_dim: int | None = None) -> None:
        super().__init__()
        if head_dim is None and width % num_heads:
            raise ValueError(f"embed_dim {width} is not a multiple of num_heads {num_heads}")
        inner = num_heads * (head_dim or width // num_heads)
        self.num_heads = num_heads
        self.fused = True
        self.qkv = nn.Linear(width, 3 * inner, bias=qkv_bias)
        self.proj = nn.Linear(inner, width)

    def forward(self, x: Tensor, keys: Tensor | None = None) -> Tensor:
        """Attend, (..., N, D) -> (..., N, D). keys (..., N): how much each token is seen, see `masked_softmax`; None: fully."""
        leading = x.shape[:-2]
        # (..., N, 3D) -> (B, N, 3, heads, head width)
        qkv = self.qkv(x).flatten(0, -3).unflatten(-1, (3, self.num_heads, -1))
        if self.fused and keys is None:
            by_products = not torch.is_grad_enabled() and products_are_faster(qkv)
            mixed = attention_by_products(qkv) if by_products else fused_attention(qkv)
        else:
            query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
            scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
            weights = scores.softmax(dim=-1) if keys is None else masked_softmax(scores, keys.flatten(0, -2))
            mixed = (weights @ value).transpose(1, 2).flatten(2)
        return self.proj(mixed.unflatten(0, leading))


@contextmanager
def explicit_attention(model: nn.Module) -> Iterator[None]:
    """Let every Attention of the model write its two matrix products out, where counters can see them."""
    layers = [layer for layer in model.modules() if isinstance(layer, Attention)]
    for layer in layers:
        layer.fused = False
    try:
        yield
    finally:
        for layer in layers:
            layer.fused = True
