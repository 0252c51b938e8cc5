"""The softmax over weighted keys, and attention with it."""

from __future__ import annotations

import math

import pytest
import torch

from revit.common.models.layers.attention import Attention, masked_softmax


def scores_and_keys(batch=3, heads=2, length=7):
    torch.manual_seed(0)
    keys = (torch.rand(batch, length, dtype=torch.float64) < 0.5).double()
    keys[:, 0] = 1
    return torch.randn(batch, heads, length, length, dtype=torch.float64), keys


def test_it_is_the_softmax_of_the_kept_subset_and_oneself_as_eps_goes_to_0():
    scores, keys = scores_and_keys()
    found = masked_softmax(scores, keys, eps=0)
    for b in range(3):
        for i in range(7):
            seen = [j for j in range(7) if keys[b, j] == 1 or j == i]
            assert torch.allclose(found[b, :, i, seen], scores[b, :, i, seen].softmax(-1), atol=1e-14)
            hidden = [j for j in range(7) if j not in seen]
            assert not found[b, :, i, hidden].any()


def test_of_ones_it_is_the_softmax_to_within_eps():
    scores, _ = scores_and_keys()
    found = masked_softmax(scores, torch.ones(3, 7, dtype=torch.float64))
    assert float((found - scores.softmax(-1)).abs().max()) < 1e-6


def test_the_formula_element_by_element():
    scores, keys = scores_and_keys()
    eps, found = 1e-2, masked_softmax(scores, keys, eps=1e-2)
    b, h, i = 1, 1, 4
    row = [float(score) for score in scores[b, h, i]]
    masses = [math.exp(s - max(row)) * (1 if j == i else float(keys[b, j])) for j, s in enumerate(row)]
    wanted = [(mass + eps / 7) / (sum(masses) + eps) for mass in masses]
    assert found[b, h, i].tolist() == pytest.approx(wanted)
    assert found.sum(-1).allclose(torch.ones_like(found.sum(-1)))


def test_a_dropped_key_has_a_gradient():
    scores, keys = scores_and_keys()
    keys.requires_grad_()
    (masked_softmax(scores, keys) * torch.randn_like(scores)).sum().backward()
    assert bool(keys.grad[keys == 0].all())


def test_gradients_are_those_of_differences():
    scores, _ = scores_and_keys(1, 1, 4)
    keys = torch.tensor([[1.0, 0.3, 0.0, 0.8]], dtype=torch.float64)
    inputs = (scores.requires_grad_(), keys.requires_grad_())
    assert torch.autograd.gradcheck(masked_softmax, inputs, eps=1e-7, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_computes_in_float32(dtype):
    scores, keys = scores_and_keys()
    halves = masked_softmax((30 * scores).to(dtype), keys.to(dtype))
    wanted = masked_softmax((30 * scores).to(dtype).float(), keys.float())
    assert halves.dtype == dtype
    assert torch.equal(halves, wanted.to(dtype))


@torch.no_grad()
def test_attention_without_keys_is_fused_and_with_ones_the_same():
    torch.manual_seed(0)
    layer = Attention(16, 4).double()
    tokens = torch.randn(2, 3, 5, 16, dtype=torch.float64)  # two leading axes
    ones = torch.ones(2, 3, 5, dtype=torch.float64)
    plain = layer(tokens)
    assert float((layer(tokens, ones) - plain).abs().max()) < 1e-6
    layer.fused = False
    assert torch.allclose(layer(tokens), plain, atol=1e-14)


@torch.no_grad()
def test_nobody_but_itself_sees_a_dropped_token():
    torch.manual_seed(0)
    layer = Attention(16, 4).double()
    tokens = torch.randn(1, 5, 16, dtype=torch.float64)
    keys = torch.tensor([[1.0, 1.0, 0.0, 1.0, 1.0]], dtype=torch.float64)
    changed = tokens.clone()
    changed[:, 2] += 0.1
    difference = (layer(tokens, keys) - layer(changed, keys)).abs().amax(dim=-1)[0]
    assert float(difference[2]) > 1e-3
    assert float(difference[[0, 1, 3, 4]].max()) < 1e-6
