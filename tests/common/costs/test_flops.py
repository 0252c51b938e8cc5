"""Costs agree with the published ones, and a count that misses something is refused."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from revit.common.costs.flops import CountError, count, fvcore_macs
from revit.common.methods.revit.adaptive import TokenLengthAssigner
from revit.common.models.layers.attention import Attention, explicit_attention


class Known(nn.Module):
    """A convolution, a linear layer and an attention, whose cost one can work out by hand."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 4, stride=4)
        self.attn = Attention(8, 2)
        self.norm = nn.LayerNorm(8)

    def forward(self, images):
        tokens = self.conv(images).flatten(2).transpose(1, 2)
        return self.attn(self.norm(tokens))


def test_kinds_of_work():
    macs = count(Known(), (1, 3, 16, 24)).macs
    positions = 4 * 6
    assert macs["convolution"] == positions * 8 * 3 * 16
    assert macs["linear"] == positions * 4 * 8 * 8
    assert macs["attention"] == 2 * positions**2 * 8
    assert macs["layer_norm"] == positions * 8 * 5


def test_explicit_and_fused_attention_cost_the_same():
    model = Known()
    fused = count(model, (1, 3, 16, 16))
    with explicit_attention(model):
        assert count(model, (1, 3, 16, 16)).macs == fused.macs


def test_attention_left_out_is_caught(monkeypatch):
    monkeypatch.setattr("revit.common.costs.flops._attention_macs", lambda inputs, outputs: {"attention": 0.0})
    with pytest.raises(CountError, match=r"disagree by more than 1% on attention.*fvcore .*torch .*closed formula"):
        count(Known(), (1, 3, 32, 32))


def test_attention_missing_from_the_formula_is_caught(monkeypatch):
    whole = count(Known(), (1, 3, 32, 32)).macs
    monkeypatch.setattr(Known, "closed_form_macs", lambda *given: {**whole, "attention": 0.0}, raising=False)
    with pytest.raises(CountError, match="attention"):
        count(Known(), (1, 3, 32, 32))


def test_convolution_left_out_is_caught_however_small(monkeypatch):
    whole = count(Known(), (1, 3, 32, 32)).macs
    formula = {**whole, "convolution": 0.98 * whole["convolution"]}
    monkeypatch.setattr(Known, "closed_form_macs", lambda *given: formula, raising=False)
    with pytest.raises(CountError, match="convolution"):
        count(Known(), (1, 3, 32, 32))


def test_work_outside_known_layers_is_caught():
    class Hidden(nn.Module):
        def forward(self, x):
            return F.scaled_dot_product_attention(x, x, x)

    with pytest.raises(CountError, match="attention"):
        count(Hidden(), (1, 2, 16, 8))


def test_an_operator_that_may_hide_products_is_an_error():
    class Distances(nn.Module):
        def forward(self, x):
            return torch.cdist(x, x)

    with pytest.raises(CountError, match="aten::cdist"):
        count(Distances(), (1, 16, 8))


def test_harmless_operators_are_silent(capfd, caplog, recwarn):
    class Harmless(nn.Module):
        def forward(self, x):
            return F.interpolate(F.gelu(x + 1).softmax(-1), scale_factor=2, mode="linear")

    assert count(Harmless(), (1, 4, 8)).gmacs < 1e-6
    assert not caplog.records
    assert capfd.readouterr().err == ""


@torch.inference_mode()
def test_counts_do_not_depend_on_dtype_or_mode():
    model = Known()
    expected = count(model, (1, 3, 16, 16))
    assert count(model.to(torch.bfloat16), (1, 3, 16, 16)) == expected
    assert model.norm.weight.dtype == torch.bfloat16


def test_the_model_is_left_as_it_was():
    model = Known().train()
    before = [parameter.clone() for parameter in model.parameters()]
    count(model, (1, 3, 16, 16))
    assert model.training
    for parameter, old in zip(model.parameters(), before):
        torch.testing.assert_close(parameter, old)


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation", "groups"), [(3, 2, 1, 1, 1), (5, 3, 0, 2, 4), (1, 1, 0, 1, 2)]
)
def test_traced_convolution_sizes(kernel, stride, padding, dilation, groups):
    conv = nn.Conv2d(4, 8, kernel, stride, padding, dilation, groups)
    out = conv(torch.zeros(2, 4, 23, 30))
    traced, unknown = fvcore_macs(conv.to("meta"), (torch.zeros(2, 4, 23, 30, device="meta"),))
    assert traced["convolution"] == out.numel() * 4 // groups * kernel**2
    assert unknown == []


def test_assigner_costs_what_its_docstring_says():
    one = count(TokenLengthAssigner(3, size=112), (1, 3, 8, 224, 224))
    assert one.gmacs == pytest.approx(0.021, abs=0.002)
    assert one.params == pytest.approx(0.66e6, rel=0.03)
    three = count(TokenLengthAssigner(3, size=112, num_frames=3), (1, 3, 8, 224, 224))
    assert three.gmacs == pytest.approx(3 * one.gmacs, rel=0.02)
