"""How complex a network is before it was trained: what it makes of a circle in the space of its inputs.

A circle h(theta) goes through the network; v and a are the first and second derivative of what comes out with respect to
theta (As-ViT section 3.2). Measured is the mean over the tokens of the last stage, before the final norm, with every
LayerNorm replaced by the identity (published code; the paper says neither). Derivatives are taken in forward mode, in one
pass for all thetas, where the published code runs one backward pass per output number: the same figures, two orders of
magnitude sooner.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import jvp

from revit.common.models.layers.attention import explicit_attention
from revit.image.models.asvit import AsViT
from revit.image.models.asvit_cost import split_side, stage_maps
from revit.image.search.tangent import slope_along

Radius = Literal["unit", "sqrt_n"]
"""Of the circle: 1 (published code), or the square root of the number of input values (paper)."""
Thetas = Literal["closed", "open"]
"""Evenly spaced from 0 to 2 pi with both ends, which are one point (published code), or without the second (paper)."""
Measure = Literal["length", "curvature", "length_curvature", "length_curvature_published"]


@dataclass(frozen=True)
class Circle:
    """h(theta) = radius * (u0 cos theta + u1 sin theta), u0 and u1 orthonormal."""

    u0: Tensor
    """(C, H, W)"""
    u1: Tensor
    """(C, H, W)"""
    radius: float = 1.0

    @classmethod
    def draw(
        cls, shape: tuple[int, int, int], generator: torch.Generator, radius: Radius = "unit", **kind: Any
    ) -> Circle:
        """Two directions of a normal random plane; `kind`: dtype and device of the tensors."""
        plane = torch.randn(2, math.prod(shape), generator=generator, dtype=torch.float64)
        basis = torch.linalg.qr(plane.T)[0].T.to(**kind)
        size = math.sqrt(math.prod(shape)) if radius == "sqrt_n" else 1.0
        return cls(basis[0].view(shape), basis[1].view(shape), size)

    def at(self, thetas: Tensor) -> Tensor:
        """(n,) -> pictures (n, C, H, W)"""
        cos, sin = (wave.view(-1, 1, 1, 1) for wave in (thetas.cos(), thetas.sin()))
        return self.radius * (self.u0 * cos + self.u1 * sin)

    def tangent(self, thetas: Tensor) -> Tensor:
        """(n,) -> d h / d theta, (n, C, H, W)"""
        return self.at(thetas + math.pi / 2)


def thetas_of(number: int, kind: Thetas = "closed") -> Tensor:
    """(number,) float64 angles."""
    angles = torch.linspace(0, 2 * math.pi, number + (kind == "open"), dtype=torch.float64)
    return angles[:number]


class _Through(nn.Module):
    """In a norm's place."""

    def forward(self, x: Tensor, *_: object) -> Tensor:
        return x


@contextmanager
def without_norms(model: nn.Module) -> Iterator[None]:
    """Inside, every LayerNorm of the model passes its input on."""
    found = [
        (parent, name, child)
        for parent in list(model.modules())
        for name, child in parent.named_children()
        if isinstance(child, nn.LayerNorm)
    ]
    for parent, name, _ in found:
        setattr(parent, name, _Through())
    try:
        yield
    finally:
        for parent, name, child in found:
            setattr(parent, name, child)


def pooled(model: AsViT, images: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, D): the mean over the tokens of the last stage, before the final norm."""
    return model.feature_maps(images)[-1].flatten(1, 2).mean(dim=1)


@dataclass(frozen=True)
class Curve:
    """What comes out of a network as the input goes round a circle, at n angles."""

    v: Tensor
    """(n, D), first derivative with respect to the angle."""
    a: Tensor | None = None
    """(n, D), second derivative."""

    def length_distortion(self) -> float:
        """L^E: the sum over the angles of |v| (published code). The paper prints an integral of sqrt(|v|_2), where the root
        is taken twice over; the steps' width, a constant, is left out by both."""
        return float(self.v.norm(dim=1).sum())

    def curvature(self) -> float:
        """kappa: sum over the angles of (v.v)^(-3/2) sqrt((v.v)(a.a) - (v.a)^2), the reciprocal radius of the osculating
        circle."""
        vv, va, aa = self._products()
        return float((vv ** (-1.5) * (vv * aa - va**2).clamp(min=0).sqrt()).sum())

    def length_curvature(self) -> float:
        """L^E_kappa: the sum over the angles of |d(v / |v|) / d theta| = sqrt(a.a - (v.a)^2 / v.v) / |v| (the paper's
        definition). The published code takes |v| for a constant and mixes angles up: `length_curvature_published`."""
        vv, va, aa = self._products()
        return float(((aa - va**2 / vv).clamp(min=0).sqrt() / vv.sqrt()).sum())

    def measure(self, name: Measure) -> float:
        """The measure of that name; all but length need the second derivative."""
        return {
            "length": self.length_distortion,
            "curvature": self.curvature,
            "length_curvature": self.length_curvature,
            "length_curvature_published": self.length_curvature_published,
        }[name]()

    def length_curvature_published(self, batches: int | tuple[int, ...] = 6) -> float:
        """What the published code computes under this name: per batch of angles, (sum_j |a_j|) * (sum_i 1 / |v_i|), where
        |v| counts as a constant and a broadcast multiplies every angle with every other. For comparison only."""
        assert self.a is not None
        sizes = batches if isinstance(batches, int) else list(batches)
        parts = zip(self.a.norm(dim=1).split(sizes), self.v.norm(dim=1).split(sizes))
        return float(sum(a.sum() * (1 / v).sum() for a, v in parts))

    def _products(self) -> tuple[Tensor, Tensor, Tensor]:
        assert self.a is not None, "the curve was made without its second derivative"
        return (self.v * self.v).sum(1), (self.v * self.a).sum(1), (self.a * self.a).sum(1)


LARGEST_BATCH = 2**24
"""Elements of the attention maps of all angles that are differentiated at once: a larger batch leaves the caches of a CPU
and gains nothing."""


def curve_of(model: AsViT, circle: Circle, thetas: Tensor, second: bool = False) -> Curve:
    """The network's curve, norms off, by forward-mode differentiation.

    `thetas` (n,), of the model's dtype. `second`: the second derivative too. Stochastic depth is off. The first derivative
    alone goes through attention by hand (`revit.image.search.tangent`); with the second, through the framework's own.
    """

    def out(angles: Tensor) -> Tensor:
        return pooled(model, circle.at(angles))

    def by_hand(angles: Tensor) -> tuple[Tensor, ...]:
        function = partial(pooled, model)
        return (slope_along(model, function, circle.at(angles), circle.tangent(angles)),)

    def slope(angles: Tensor) -> Tensor:
        return jvp(out, (angles,), (torch.ones_like(angles),))[1]

    def both(angles: Tensor) -> tuple[Tensor, ...]:
        return jvp(slope, (angles,), (torch.ones_like(angles),))

    batch = max(1, LARGEST_BATCH // _largest_attention(model))
    training = model.training
    model.eval()
    try:
        with without_norms(model), explicit_attention(model), torch.no_grad():
            parts = [(both if second else by_hand)(angles) for angles in thetas.split(batch)]
    finally:
        model.train(training)
    return Curve(*(torch.cat(part) for part in zip(*parts)))


def _largest_attention(model: AsViT) -> int:
    """Elements of the largest attention map of one picture."""
    genotype = model.genotype
    maps = stage_maps(model.full_grid, len(genotype.stages))
    return max(
        heads
        * grid.num_positions**2
        // (split_side(grid.rows, one.splits) * split_side(grid.cols, one.splits))
        for one, heads, grid in zip(genotype.stages, genotype.heads_per_stage, maps)
    )
