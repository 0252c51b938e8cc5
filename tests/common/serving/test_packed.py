from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import nn

from revit.common.methods.dynamicvit.reducer import DynamicViTReducer
from revit.common.methods.revit.adaptive import TokenLengthAssigner
from revit.common.methods.toe import Growth, TokenExpansion
from revit.common.serving.packed import ROWS, Int8Linear, PackedLinear, can_pack, folded, pack, to_bytes, to_int8
from revit.image.models.asvit import AsViT
from revit.image.models.transformers import DeiT, LVViT
from revit.video.models.timesformer import TimeSformer

PACKS = [dtype for dtype in (torch.float32, torch.bfloat16) if can_pack(torch.device("cpu"), dtype)]
SMALL = {"img_size": 32, "grids": (4, 2), "num_classes": 5, "embed_dim": 64, "depth": 3, "num_heads": 4}
CLIPS, PICTURES = (2, 3, 4, 32, 32), (2, 3, 32, 32)


def clip_model(**changes):
    return TimeSformer(num_frames=4, **SMALL, linear_std=0.1, temporal_fc_std=0.1, time_std=0.5, **changes)


def with_reducer(model, reducer):
    model.reducer = reducer
    return model


FAMILIES = {
    "divided": (clip_model, CLIPS),
    "joint": (lambda: clip_model(attention="joint_space_time"), CLIPS),
    "space": (lambda: clip_model(attention="space_only"), CLIPS),
    "deit": (lambda: DeiT(**SMALL, linear_std=0.1), PICTURES),
    "lvvit": (lambda: LVViT(**SMALL, linear_std=0.1), PICTURES),
    "asvit": (lambda: AsViT("5,2,3,2|3,2,2,1|2,1,4,1|4,1,2,1|8,8", 64, num_classes=5), (2, 3, 64, 64)),
    "dynamicvit": (lambda: with_reducer(clip_model(), DynamicViTReducer(64, (1, 2), (0.7, 0.5))), CLIPS),
    "toe": (lambda: with_reducer(clip_model(), TokenExpansion(Growth((0.5, 1.0), 0.25), 64, 1, 1)), CLIPS),
}


@pytest.fixture(params=FAMILIES)
def family(request):
    torch.manual_seed(0)
    make, shape = FAMILIES[request.param]
    return make().eval(), torch.randn(shape)


def distance(model, other, inputs, dtype, grid):
    ours = other(inputs.to(dtype), grid).prediction.float()
    exact = model(inputs, grid).prediction
    return float((ours - exact).abs().max() / exact.abs().max())


@pytest.mark.parametrize("dtype", PACKS)
@torch.inference_mode()
def test_every_family_packed_equals_itself_within_rounding_and_stays_as_it_was(family, dtype):
    model, inputs = family
    before = deepcopy(model.state_dict())
    packed = pack(model, dtype)
    assert any(isinstance(layer, PackedLinear) for layer in packed.modules())
    assert not any(type(layer) is nn.Linear for layer in packed.modules())
    if dtype == torch.float32:  # in bfloat16 near ties of a reducer may fall the other way
        for grid in model.grids:
            assert distance(model, packed, inputs, dtype, grid) < 1e-4
    elif model.reducer is None:
        for grid in model.grids:
            assert distance(model, packed, inputs, dtype, grid) < 0.1
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)


@torch.inference_mode()
def test_the_assigner_packed():
    torch.manual_seed(0)
    assigner = TokenLengthAssigner(3, size=32, width=0.25).eval()
    inputs = torch.randn(2, 3, 4, 48, 48)
    assert torch.allclose(pack(assigner, torch.float32)(inputs), assigner(inputs), atol=1e-4)


@torch.inference_mode()
def test_folding_joins_time_attentions_two_projections():
    model = clip_model().eval()
    block = folded(model, torch.float32).blocks[0]
    assert isinstance(block.temporal_fc, nn.Identity)
    assert isinstance(model.blocks[0].temporal_fc, nn.Linear)
    x = torch.randn(7, 64)
    plain = model.blocks[0].temporal_fc(model.blocks[0].temporal_attn.proj(x))
    assert torch.allclose(block.temporal_attn.proj(x), plain, atol=1e-5)


@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@torch.inference_mode()
def test_a_packed_layer_against_the_layer(gelu, bias):
    layer = nn.Linear(48, 32, bias=bias)
    x = torch.randn(2, 5, 7, 48)
    plain = nn.functional.gelu(layer(x)) if gelu else layer(x)
    assert torch.allclose(PackedLinear(layer, gelu)(x), plain, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bytes_are_within_half_a_step_of_their_values(dtype):
    x = (torch.randn(6, 40) * torch.tensor([1e-3, 1.0, 1e3, 5.0, 0.1, 0.0])[:, None]).to(dtype)
    quantized, scale = to_bytes(x)
    back = (quantized.float() - 128) * scale
    assert ((back - x.float()).abs() <= 0.501 * scale + 1e-6 * x.float().abs()).all()
    assert quantized.min() >= 1  # -127
    assert (quantized[-1] == 128).all()


@torch.inference_mode()
def test_an_int8_layer_is_exact_on_whole_numbers():
    layer = nn.Linear(16, 8)
    layer.weight.copy_(torch.randint(-126, 127, (8, 16)))
    layer.weight[:, 0] = 127
    x = torch.randint(-126, 127, (5, 16)).float()
    x[:, 0] = 127
    assert torch.allclose(Int8Linear(layer)(x), layer(x), atol=1e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("gelu", [False, True])
@torch.inference_mode()
def test_rows_that_go_through_an_int8_layer_apart_have_the_bytes_of_all_at_once(dtype, gelu):
    layer = Int8Linear(nn.Linear(24, 40), gelu)
    x = (torch.randn(2, ROWS + 3, 24) * torch.logspace(-3, 3, ROWS + 3)[:, None]).to(dtype)
    assert torch.equal(layer(x), layer._of_rows(x.flatten(0, 1)).unflatten(0, (2, -1)))
    assert layer(x[:, :0]).shape == (2, 0, 40)


@torch.inference_mode()
def test_int8_blocks_are_near_the_exact_ones_and_heads_are_exact(family):
    model, inputs = family
    served = to_int8(model)
    assert any(isinstance(layer, Int8Linear) for layer in served.modules())
    if model.reducer is None:
        for grid in model.grids:
            assert distance(model, served, inputs, torch.float32, grid) < 0.1
    if isinstance(getattr(model, "head", None), nn.Linear):
        assert isinstance(served.head, PackedLinear)
