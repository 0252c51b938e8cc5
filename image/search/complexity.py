"""Complexity of an untrained network, the length and curvature of its output as the input goes round a circle, and the
condition of its neural tangent kernel, which tells how evenly it can learn single pictures.

A circle h(theta) goes through the network; v and a are the first and second derivative of the output with respect to theta
(As-ViT section 3.2). The output is the mean over the tokens of the last stage, before the final norm, with every LayerNorm
replaced by the identity (published code; the paper says neither). Derivatives are taken in forward mode, in one pass for
all thetas, where the published code runs one backward pass per output number: the same figures, two orders of magnitude
sooner.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call, jvp, vjp, vmap

from revit.common.models.layers.attention import Attention, explicit_attention
from revit.image.models.asvit import AsViT
from revit.image.models.genotype import num_windows, stage_maps

Radius = Literal["unit", "sqrt_n"]
"""Radius of the circle: 1 (published code), or the square root of the number of input values (paper)."""
Thetas = Literal["closed", "open"]
"""Angles evenly spaced from 0 to 2 pi with both ends, which are one point (published code), or without the second (paper)."""
Measure = Literal["length", "curvature", "length_curvature", "length_curvature_published"]

Layer = TypeVar("Layer", bound=nn.Module)

ANGLES_AT_ONCE = 2**24
"""Elements of the attention maps of all angles that are differentiated at once: a larger batch leaves a CPU's caches."""
MAPS_AT_ONCE = 2**19
"""Elements of the attention maps that `attention_with_slope` works on at once (2 MB in float32)."""


@dataclass(frozen=True)
class Circle:
    """h(theta) = radius * (u0 cos theta + u1 sin theta), with u0 and u1 (C, H, W) orthonormal."""

    u0: Tensor
    u1: Tensor
    radius: float = 1.0

    @classmethod
    def draw(
        cls, shape: torch.Size, generator: torch.Generator, radius: Radius = "unit", *, dtype: torch.dtype
    ) -> Circle:
        """Draw two directions (C, H, W) of a normal random plane."""
        plane = torch.randn(2, math.prod(shape), generator=generator, dtype=torch.float64)
        basis = torch.linalg.qr(plane.T)[0].T.to(dtype)
        size = math.sqrt(math.prod(shape)) if radius == "sqrt_n" else 1.0
        return cls(basis[0].view(shape), basis[1].view(shape), size)

    def at(self, thetas: Tensor) -> Tensor:
        """Return the pictures (n, C, H, W) at angles (n,)."""
        cos, sin = (wave.view(-1, 1, 1, 1) for wave in (thetas.cos(), thetas.sin()))
        return self.radius * (self.u0 * cos + self.u1 * sin)

    def tangent(self, thetas: Tensor) -> Tensor:
        """Return d h / d theta (n, C, H, W) at angles (n,)."""
        return self.at(thetas + math.pi / 2)


def thetas_of(number: int, kind: Thetas = "closed") -> Tensor:
    """Return angles (number,) in float64."""
    angles = torch.linspace(0, 2 * math.pi, number + (kind == "open"), dtype=torch.float64)
    return angles[:number]


@dataclass(frozen=True)
class Curve:
    """Derivatives of a network's output with respect to the angle, at n angles of a circle."""

    v: Tensor
    """First derivative (n, D)."""
    a: Tensor | None = None
    """Second derivative (n, D); all measures but the length need it."""

    def measure(self, name: Measure) -> float:
        """Return the measure of that name."""
        return getattr(self, name)()

    def length(self) -> float:
        """Return the length distortion L^E, the sum over the angles of |v| (published code). The paper prints an integral of
        sqrt(|v|_2), where the root is taken twice over; the steps' width, a constant, is left out by both."""
        return float(self.v.norm(dim=1).sum())

    def curvature(self) -> float:
        """Return kappa, the sum over the angles of (v.v)^(-3/2) sqrt((v.v)(a.a) - (v.a)^2): the reciprocal radius of the
        osculating circle."""
        vv, va, aa = self._products()
        return float((vv ** (-1.5) * (vv * aa - va**2).clamp(min=0).sqrt()).sum())

    def length_curvature(self) -> float:
        """Return L^E_kappa, the sum over the angles of |d(v / |v|) / d theta| = sqrt(a.a - (v.a)^2 / v.v) / |v| (the paper's
        definition). The published code takes |v| for a constant and mixes angles up: `length_curvature_published`."""
        vv, va, aa = self._products()
        return float(((aa - va**2 / vv).clamp(min=0).sqrt() / vv.sqrt()).sum())

    def length_curvature_published(self, batches: int | tuple[int, ...] = 6) -> float:
        """Return the published code's number of this name: per batch of angles, (sum_j |a_j|) * (sum_i 1 / |v_i|), where |v|
        counts as a constant and a broadcast multiplies every angle with every other. For comparison only."""
        assert self.a is not None
        sizes = batches if isinstance(batches, int) else list(batches)
        parts = zip(self.a.norm(dim=1).split(sizes), self.v.norm(dim=1).split(sizes))
        return float(sum(a.sum() * (1 / v).sum() for a, v in parts))

    def _products(self) -> tuple[Tensor, Tensor, Tensor]:
        assert self.a is not None, "the curve was made without its second derivative"
        return (self.v * self.v).sum(1), (self.v * self.a).sum(1), (self.a * self.a).sum(1)


def curve_of(model: AsViT, circle: Circle, thetas: Tensor, second: bool = False) -> Curve:
    """Return the network's curve at `thetas` (n,) of its own dtype, norms and stochastic depth off.

    The first derivative alone goes through `SlopeAttention`; with the second, through the framework's own derivatives.
    """

    def first(angles: Tensor) -> tuple[Tensor, ...]:
        return (slope_along(model, circle.at(angles), circle.tangent(angles)),)

    def slope(angles: Tensor) -> Tensor:
        return jvp(lambda theta: pooled(model, circle.at(theta)), (angles,), (torch.ones_like(angles),))[1]

    def both(angles: Tensor) -> tuple[Tensor, ...]:
        return jvp(slope, (angles,), (torch.ones_like(angles),))

    at_once = max(1, ANGLES_AT_ONCE // _largest_attention(model))
    training = model.training
    model.eval()
    try:
        with without_norms(model), explicit_attention(model), torch.no_grad():
            parts = [both(angles) if second else first(angles) for angles in thetas.split(at_once)]
    finally:
        model.train(training)
    return Curve(*(torch.cat(part) for part in zip(*parts)))


def pooled(model: AsViT, images: Tensor) -> Tensor:
    """Return the mean over the tokens of the last stage, before the final norm: (B, C, H, W) -> (B, D)."""
    return model.feature_maps(images)[-1].flatten(1, 2).mean(dim=1)


def slope_along(model: AsViT, images: Tensor, direction: Tensor) -> Tensor:
    """Return the derivative of `pooled` along `direction`, of the pictures' shape."""
    with forward_ad.dual_level(), _replaced(model, Attention, SlopeAttention):
        _, slope = forward_ad.unpack_dual(pooled(model, forward_ad.make_dual(images, direction)))
    assert slope is not None, "the features do not depend on the pictures"
    return slope


def without_norms(model: nn.Module) -> AbstractContextManager[None]:
    """Make every LayerNorm of the model pass its input on, inside the context."""
    return _replaced(model, nn.LayerNorm, lambda _: PassOn())


class PassOn(nn.Module):
    """Return the input, whatever else is given (norms are also told the grid)."""

    def forward(self, x: Tensor, *_: object) -> Tensor:
        return x


class SlopeAttention(nn.Module):
    """Attention inside `torch.autograd.forward_ad.dual_level` with the same weights and a derivative written by hand, so that
    the large maps stay in a CPU's cache."""

    def __init__(self, layer: Attention) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor, keys: Tensor | None = None) -> Tensor:
        """Map (..., N, D) with a derivative to the same. `keys` is not used: As-ViT weighs none."""
        layer, leading = self.layer, x.shape[:-2]
        # (..., N, 3D) -> (batch, N, 3, heads, d) -> three of (batch * heads, N, d)
        qkv = layer.qkv(x).flatten(0, -3).unflatten(-1, (3, layer.num_heads, -1))
        three = qkv.permute(2, 0, 3, 1, 4).flatten(1, 2)
        primal, tangent = forward_ad.unpack_dual(three)
        assert tangent is not None, "the input has no derivative"
        out, slope = attention_with_slope(primal, tangent)
        mixed = forward_ad.make_dual(out, slope).unflatten(0, (-1, layer.num_heads))
        return layer.proj(mixed.transpose(1, 2).flatten(2).unflatten(0, leading))


def attention_with_slope(qkv: Tensor, slopes: Tensor) -> tuple[Tensor, Tensor]:
    """Return softmax attention (M, N, d) and its derivative, of query, key and value (3, M, N, d) and their derivatives.

    With p = softmax(s), s = q k^T / sqrt(d), and d for derivatives along the direction: ds = (dq k^T + q dk^T) / sqrt(d),
    and with m = p * ds the output's derivative is p dv + m v - rowsum(m) (p v). So no map but p and m is ever needed, and
    of these one group of windows and heads at a time.
    """
    (query, key, value), (dq, dk, dv) = qkv, slopes
    M, N, d = query.shape
    query, dq = query * d**-0.5, dq * d**-0.5
    keys = key.transpose(1, 2).contiguous()  # (M, d, N)
    both_queries = torch.cat([dq, query], dim=2)
    both_keys = torch.cat([keys, dk.transpose(1, 2)], dim=1)  # (M, 2d, N)
    both_values = torch.cat([value, dv], dim=2)
    # The last column sums the rows of m.
    with_sum = torch.cat([value, torch.ones_like(value[..., :1])], dim=2)
    out, slope = torch.empty_like(value), torch.empty_like(value)
    group = min(M, max(1, MAPS_AT_ONCE // N**2))
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


@contextmanager
def _replaced(model: nn.Module, kind: type[Layer], make: Callable[[Layer], nn.Module]) -> Iterator[None]:
    """Put `make(layer)` in the place of every layer of a class, inside the context."""
    found = [
        (parent, name, child)
        for parent in list(model.modules())
        for name, child in parent.named_children()
        if isinstance(child, kind)
    ]
    for parent, name, layer in found:
        setattr(parent, name, make(layer))
    try:
        yield
    finally:
        for parent, name, layer in found:
            setattr(parent, name, layer)


def _largest_attention(model: AsViT) -> int:
    """Count the elements of the largest attention map of one picture."""
    genotype = model.genotype
    maps = stage_maps(model.full_grid, len(genotype.stages))
    return max(
        heads * grid.num_positions**2 // num_windows(grid, stage.splits)
        for stage, heads, grid in zip(genotype.stages, genotype.heads_per_stage, maps)
    )


def weight_gradients(model: AsViT, images: Tensor) -> Tensor:
    """Return the gradients (B, M) of the sum of each picture's pooled features, norms on, with respect to every parameter
    called "weight" that takes part in them: no biases, not the final norm, not the head (published code).

    One picture after the other: the definition, which `ntk` is tested against.
    """
    weights = [parameter for name, parameter in model.named_parameters() if "weight" in name]
    rows = []
    for image in images.split(1):
        grads = torch.autograd.grad(pooled(model, image).sum(), weights, allow_unused=True)
        rows.append(torch.cat([grad.flatten() for grad in grads if grad is not None]))
    return torch.stack(rows)


def ntk(model: AsViT, images: Tensor) -> Tensor:
    """Return the Gram matrix (B, B) of the `weight_gradients` of pictures (B, C, H, W).

    One pass for all pictures: as no picture acts on another, what reaches a layer's output in the backward pass of their
    common sum is each picture's own gradient, and with the layer's input it gives the products without the gradients.
    """
    calls: list[tuple[nn.Module, Tensor, Tensor]] = []

    def note(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        calls.append((layer, inputs[0].detach(), output))

    # The stem is one layer: it uses its convolution's weight by itself.
    stem, inside = model.patch_embed, set(model.patch_embed.modules())
    layers = [one for one in model.modules() if isinstance(one, nn.Linear | nn.LayerNorm) and one not in inside]
    hooks = [layer.register_forward_hook(note) for layer in [stem, *layers]]
    try:
        with torch.enable_grad():
            total = pooled(model, images).sum()
    finally:
        for hook in hooks:
            hook.remove()
    gradients = torch.autograd.grad(total, [output for *_, output in calls], allow_unused=True)
    kernel = images.new_zeros(len(images), len(images))
    with torch.no_grad():
        for (layer, x, _), gradient in zip(calls, gradients):
            if gradient is not None:
                kernel += _products(layer, x, gradient)
    return kernel


def condition(kernel: Tensor) -> float:
    """Return the largest over the smallest eigenvalue of a symmetric matrix (B, B); infinite where the smallest is not
    positive, as rounding makes it for pictures that the network cannot tell apart, and NaN where an entry is not finite.

    The published code answers -1 for NaN, which a ranking would take for the best of all.
    """
    if not bool(kernel.isfinite().all()):
        return math.nan
    eigenvalues = torch.linalg.eigvalsh(kernel)
    smallest, largest = float(eigenvalues[0]), float(eigenvalues[-1])
    return largest / smallest if smallest > 0 else math.inf


def _products(layer: nn.Module, x: Tensor, gradient: Tensor) -> Tensor:
    """Return the products (B, B) of the pictures' gradients with respect to the layer's weights, from its inputs and the
    gradients at its outputs, both (B, ...)."""
    if isinstance(layer, nn.LayerNorm):
        normal = F.layer_norm(x, layer.normalized_shape, eps=layer.eps)
        rows = (normal * gradient).flatten(1, -2).sum(dim=1)  # (B, D)
    elif isinstance(layer, nn.Linear):
        x, gradient = x.flatten(1, -2), gradient.flatten(1, -2)  # (B, T, D) and (B, T, D')
        (B, T, D), wide = x.shape, gradient.shape[2]
        if B * T**2 * (D + wide) <= (T + B) * D * wide:  # the products of all pairs of tokens cost less
            x, gradient = x.flatten(0, 1), gradient.flatten(0, 1)
            pairs = (x @ x.T) * (gradient @ gradient.T)  # (B * T, B * T)
            return pairs.view(B, T, B, T).sum(dim=(1, 3))
        rows = (gradient.transpose(1, 2) @ x).flatten(1)
    else:
        weights = {name: weight for name, weight in layer.named_parameters() if "weight" in name}

        def pull(image: Tensor, at_output: Tensor) -> dict[str, Tensor]:
            back = vjp(lambda values: functional_call(layer, values, (image[None],)), weights)[1]
            return back(at_output[None])[0]

        rows = torch.cat([each.flatten(1) for each in vmap(pull)(x, gradient).values()], dim=1)
    return rows @ rows.T
