"""Complexity measures: two routes to every derivative, circles, and the conventions that can be chosen."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from revit.common.models.layers.attention import Attention
from revit.image.models.asvit import AsViT
from revit.image.search import complexity
from revit.image.search.complexity import (
    Circle,
    Curve,
    attention_with_slope,
    curve_of,
    pooled,
    thetas_of,
    without_norms,
)

SMALL = "6,2,2|3,2,2|2,1,2,2|3,1,2|8,8"


def circle(side=32, radius="unit", seed=0):
    generator = torch.Generator().manual_seed(seed)
    return Circle.draw(torch.Size((3, side, side)), generator, radius, dtype=torch.float64)


def model_of(genotype=SMALL, side=32):
    model = AsViT(genotype, side, num_classes=0).double()
    for name, parameter in model.named_parameters():
        if "bias" in name:
            nn.init.normal_(parameter, std=0.1)
        elif parameter.ndim > 1:
            nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    return model


@pytest.mark.parametrize("genotype", [SMALL, "8,8,3|2,4,2|4,2,2|2,1,3|16,9", "4,1,2|2,1,2|2,1,2|2,1,2|8,8"])
def test_the_hand_made_derivative_is_the_framework_s(genotype):
    model, thetas = model_of(genotype), thetas_of(5)
    by_hand, other = (curve_of(model, circle(), thetas, second=second) for second in (False, True))
    torch.testing.assert_close(by_hand.v, other.v, rtol=1e-9, atol=1e-12)
    assert by_hand.a is None


def test_derivatives_are_differences_quotients():
    model, round_ = model_of(), circle(radius="sqrt_n")
    thetas, h = thetas_of(3, "open"), 1e-4
    with without_norms(model), torch.no_grad():
        before, at, after = (pooled(model, round_.at(thetas + step)) for step in (-h, 0, h))
    curve = curve_of(model, round_, thetas, second=True)
    for exact, quotient in ((curve.v, (after - before) / (2 * h)), (curve.a, (after - 2 * at + before) / h**2)):
        assert (exact - quotient).abs().max() < 1e-3 * exact.abs().max()


def test_the_model_is_as_before():
    model = model_of().train()
    names = [type(module) for module in model.modules()]
    curve_of(model, circle(), thetas_of(2))
    curve_of(model, circle(), thetas_of(2), second=True)
    assert [type(module) for module in model.modules()] == names
    assert model.training
    assert all(layer.fused for layer in model.modules() if isinstance(layer, Attention))


@pytest.mark.parametrize("shape", [(3, 5, 4), (1, 1, 2), (7, 64, 3)])
def test_attention_with_its_slope(shape, monkeypatch):
    """In groups of any size."""
    three = torch.randn(3, *shape, dtype=torch.float64)
    slopes = torch.randn(3, *shape, dtype=torch.float64)

    def attention(query, key, value):
        return (query @ key.mT / shape[-1] ** 0.5).softmax(-1) @ value

    expected = torch.func.jvp(attention, tuple(three), tuple(slopes))
    for group in (1, 2 * shape[1] ** 2, 2**19):
        monkeypatch.setattr(complexity, "MAPS_AT_ONCE", group)
        found = attention_with_slope(three, slopes)
        for one, other in zip(found, expected):
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def test_circles_are_circles():
    for radius, size in (("unit", 1.0), ("sqrt_n", math.sqrt(3 * 32 * 32))):
        points = circle(radius=radius).at(thetas_of(6)).flatten(1)
        assert points.norm(dim=1).tolist() == pytest.approx([size] * 6)
        assert torch.allclose(points[0], points[-1])
    drawn = circle()
    assert float((drawn.u0 * drawn.u1).sum()) == pytest.approx(0, abs=1e-12)
    slope = drawn.tangent(thetas_of(4))
    assert float((drawn.at(thetas_of(4)) * slope).sum()) == pytest.approx(0, abs=1e-12)


def test_thetas_are_closed_or_open():
    assert thetas_of(5, "closed").tolist() == pytest.approx([0, math.pi / 2, math.pi, 1.5 * math.pi, 2 * math.pi])
    assert thetas_of(4, "open").tolist() == pytest.approx([0, math.pi / 2, math.pi, 1.5 * math.pi])


def test_a_circle_of_a_linear_network_has_the_curvature_of_an_ellipse():
    """Through the identity: radius r gives lengths r, curvature 1 / r, and v / |v| that turns once a radian."""
    thetas, r = thetas_of(8, "open"), 3.0
    v = r * torch.stack([-thetas.sin(), thetas.cos()], 1)
    a = r * torch.stack([-thetas.cos(), -thetas.sin()], 1)
    curve = Curve(v, a)
    assert curve.measure("length") == pytest.approx(8 * r)
    assert curve.measure("curvature") == pytest.approx(8 / r)
    assert curve.measure("length_curvature") == pytest.approx(8)
    assert curve.measure("length_curvature_published") == pytest.approx(6 * 6 + 2 * 2)


def test_only_turning_counts_as_curvature():
    """A straight line run through at a changing speed: the published measure sees curvature, the definition none."""
    curve = Curve(torch.tensor([[1.0, 0.0], [2.0, 0.0]]), torch.tensor([[3.0, 0.0], [1.0, 0.0]]))
    assert curve.curvature() == 0
    assert curve.length_curvature() == 0
    assert curve.length_curvature_published() > 0
