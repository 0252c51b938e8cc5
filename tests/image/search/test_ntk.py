"""The kernel of all pictures at once against gradients of one picture after the other."""

from __future__ import annotations

import math

import pytest
import torch

from revit.image.models.asvit import AsViT
from revit.image.search.complexity import condition, ntk, weight_gradients


@pytest.mark.parametrize(
    ("genotype", "side", "position"),
    [
        ("6,2,2|3,2,2|2,1,2,2|3,1,2|8,8", 32, "none"),
        ("8,4,3,2|2,1,2|4,2,2|2,1,3|16,9", 64, "absolute"),
        ("4,1,2|2,1,2|2,1,2|2,1,2|8,8", 36, "none"),
    ],
)
def test_one_pass_gives_the_loops_kernel(genotype, side, position):
    model = AsViT(genotype, side, num_classes=5, position=position).double()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    images = torch.randn(5, 3, side, side, dtype=torch.float64)
    rows = weight_gradients(model, images)
    torch.testing.assert_close(ntk(model, images), rows @ rows.T, rtol=1e-9, atol=1e-9)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


def test_gradients_are_of_weights_before_the_final_norm():
    model = AsViT("4,1,2|2,1,2|2,1,2|2,1,2|8,8", 32, num_classes=5)
    names = [name for name, _ in model.named_parameters() if "weight" in name]
    inside = [name for name in names if not name.startswith(("norm.", "head."))]
    size = sum(model.get_parameter(name).numel() for name in inside)
    assert weight_gradients(model, torch.randn(2, 3, 32, 32)).shape == (2, size)


def test_conditions():
    assert condition(torch.diag(torch.tensor([4.0, 1.0, 2.0]))) == pytest.approx(4)
    assert condition(torch.ones(2, 2) * torch.tensor([[1.0, 2.0], [2.0, 1.0]])) == math.inf
    assert math.isnan(condition(torch.tensor([[1.0, math.nan], [math.nan, 1.0]])))
