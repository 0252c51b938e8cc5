from __future__ import annotations

from functools import lru_cache

import pytest
import torch
from torch import nn

import revit.common.models.layers.attention as attention_layer
from revit.common.models.base import Normalizer
from revit.common.models.grid import TokenGrid, longest_first
from revit.common.models.layers.attention import (
    Attention,
    attention_by_products,
    explicit_attention,
    fused_attention,
    products_are_faster,
)
from revit.common.models.layers.block import Block, DropPath, LengthAwareLayerNorm
from revit.common.models.reducer import TokenLayout

GRIDS = longest_first([14, 10, 7])


@pytest.mark.parametrize("shape", [(2, 9, 32), (2, 3, 9, 32), (2, 3, 4, 5, 32)])
def test_fused_and_written_out_attention_agree(shape):
    attention = Attention(32, 4)
    x = torch.randn(shape)
    fused = attention(x)
    with explicit_attention(attention):
        assert not attention.fused
        assert torch.allclose(attention(x), fused, atol=1e-6)
    assert attention.fused


@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-6), (torch.bfloat16, 3e-2)])
@pytest.mark.parametrize("num_tokens", [1, 8, 31, 32, 197])
@torch.no_grad()
def test_attention_by_products_equals_the_fused_kernel(num_tokens, dtype, error, monkeypatch):
    qkv = torch.randn(5, num_tokens, 3, 4, 16).to(dtype)
    exact = fused_attention(qkv.double())
    assert torch.allclose(attention_by_products(qkv).double(), exact, atol=error)
    monkeypatch.setattr(attention_layer, "SCORES_AT_ONCE", 1)  # sequence by sequence
    assert torch.allclose(attention_by_products(qkv).double(), exact, atol=error)


def test_gradients_always_take_the_fused_kernel(monkeypatch):
    attention = Attention(32, 4)
    x = torch.randn(2, 9, 32, requires_grad=True)
    plain = attention(x)
    monkeypatch.setattr(attention_layer, "products_are_faster", lambda qkv: True)
    assert torch.equal(attention(x), plain)
    attention(x).sum().backward()
    assert x.grad is not None
    with torch.no_grad():
        assert torch.allclose(attention(x), plain, atol=1e-6)


@torch.inference_mode()
def test_what_is_faster_is_measured_once_for_all_batches_and_near_shapes(monkeypatch):
    measured = []

    @lru_cache
    def measure(*shape):
        measured.append(shape)
        return len(measured) == 1

    monkeypatch.setattr(attention_layer, "_measured", measure)

    def chosen(*shape, dtype=torch.bfloat16):
        return products_are_faster(torch.zeros(*shape, 3, 2, 8, dtype=dtype))

    assert [chosen(1, 8), chosen(5, 8), chosen(2, 15)] == [True] * 3
    assert [chosen(1, 16), chosen(4, 31)] == [False] * 2
    threads = torch.get_num_threads()
    assert measured == [(4, 2, 8, threads), (5, 2, 8, threads)]
    assert not chosen(1, attention_layer.LONG_ROW)
    assert not chosen(1, 8, dtype=torch.float32)
    assert len(measured) == 2


def test_the_measurement_itself_draws_nothing_and_training_asks_for_none(monkeypatch):
    state = torch.get_rng_state()
    assert isinstance(attention_layer._measured(3, 2, 8, 1), bool)
    assert torch.equal(torch.get_rng_state(), state)
    monkeypatch.setattr(attention_layer, "_measured", lambda *shape: pytest.fail("training measures nothing"))
    attention = Attention(16, 2).bfloat16()
    attention(torch.zeros(1, 4, 16, dtype=torch.bfloat16)).sum().backward()


def test_attention_against_the_formula_per_head():
    attention = Attention(8, 2)
    x = torch.randn(5, 8)
    query, key, value = attention.qkv(x).split(8, dim=1)
    heads = [
        (query[:, part] @ key[:, part].T / 4**0.5).softmax(dim=1) @ value[:, part]
        for part in (slice(0, 4), slice(4, 8))
    ]
    assert torch.allclose(attention(x[None])[0], attention.proj(torch.cat(heads, dim=1)), atol=1e-6)


def test_heads_of_another_width():
    attention = Attention(30, 4, head_dim=5)
    assert attention.qkv.weight.shape == (3 * 20, 30)
    assert attention.proj.weight.shape == (30, 20)
    x = torch.randn(2, 9, 30)
    with explicit_attention(attention):
        explicit = attention(x)
    assert torch.allclose(attention(x), explicit, atol=1e-6)


@pytest.mark.parametrize("skip_lam", [1.0, 2.0, 3.0])
def test_residual_branches_are_divided_after_stochastic_depth(skip_lam):
    block = Block(16, 2, GRIDS[:1], drop_path_rate=0.5, skip_lam=skip_lam)
    layout = TokenLayout(GRIDS[0], num_prefix=1, num_positions=4)
    x = torch.randn(64, 5, 16)
    torch.manual_seed(1)
    ours = block(x, layout)
    torch.manual_seed(1)
    middle = x + block.drop_path(block.attn(block.norm1(x, GRIDS[0]))) / skip_lam
    expected = middle + block.drop_path(block.mlp(block.norm2(middle, GRIDS[0]))) / skip_lam
    assert torch.allclose(ours, expected, atol=1e-6)


def test_width_must_divide_by_heads():
    with pytest.raises(ValueError, match="30"):
        Attention(30, 4)


def test_equal_norms_equal_one_norm():
    norm = LengthAwareLayerNorm(16, GRIDS)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    norm.start_short_grids()
    plain = nn.LayerNorm(16, eps=1e-6)
    plain.load_state_dict({"weight": norm.weight, "bias": norm.bias})
    x = torch.randn(3, 5, 16)
    for grid in GRIDS:
        assert torch.equal(norm(x, grid), plain(x))


def test_each_grid_trains_its_own_norm_only():
    norm = LengthAwareLayerNorm(16, GRIDS)
    norm(torch.randn(2, 16), GRIDS[1]).square().sum().backward()
    assert {name for name, weight in norm.named_parameters() if weight.grad is not None} == {
        "short.10x10.weight",
        "short.10x10.bias",
    }


def test_a_plain_checkpoint_loads_into_the_longest_grid():
    norm = LengthAwareLayerNorm(16, GRIDS)
    missing = norm.load_state_dict(nn.LayerNorm(16).state_dict(), strict=False)
    assert not missing.unexpected_keys
    assert all(key.startswith("short.") for key in missing.missing_keys)


def test_unknown_grid_lists_the_known_ones():
    with pytest.raises(KeyError, match=r"9x9.*14x14, 10x10, 7x7"):
        LengthAwareLayerNorm(16, GRIDS)(torch.zeros(1, 16), TokenGrid(9, 9))


@pytest.mark.parametrize("batch_axes", [1, 2])
def test_drop_path_draws_once_per_batch_element_and_keeps_the_mean(batch_axes):
    drop = DropPath(0.25)
    x = torch.ones(400, 10, 3, 2)
    dropped = drop(x, batch_axes)
    assert dropped.unique().tolist() == [0.0, pytest.approx(1 / 0.75)]
    per_draw = dropped.flatten(batch_axes)
    assert (per_draw == per_draw[..., :1]).all()
    assert float(dropped.mean()) == pytest.approx(1, abs=0.15)
    assert torch.equal(drop.eval()(x, batch_axes), x)


@pytest.mark.parametrize("shape", [(2, 3, 4, 4), (2, 3, 5, 4, 4)])
def test_pixels_against_the_definition(shape):
    mean, std = (0.45, 0.4, 0.35), (0.225, 0.2, 0.25)
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8)
    per_channel = (1, 3, *[1] * (len(shape) - 2))
    expected = (pixels / 255 - torch.tensor(mean).view(per_channel)) / torch.tensor(std).view(per_channel)
    norm = Normalizer(mean, std)
    assert torch.allclose(norm(pixels), expected, atol=1e-6)
    assert not norm.state_dict()
