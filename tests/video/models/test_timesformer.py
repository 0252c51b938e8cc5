"""Identities of TimeSformer and ReViT-TimeSformer; the published numbers are in tests/parity."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from revit.common.models.grid import TokenGrid
from revit.video.models.timesformer import TimeSformer

KINDS = ("divided_space_time", "joint_space_time", "space_only")
SMALL = {"img_size": 32, "num_frames": 4, "num_classes": 5, "embed_dim": 32, "depth": 2, "num_heads": 4}


def randomise(model: nn.Module) -> nn.Module:
    """Weights that leave no part of the model at zero or one."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
        for name, buffer in model.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                buffer.add_(torch.rand_like(buffer))
    return model.eval()


def clips(frames: int = 4, size: int = 32, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 3, frames, size, size)


@pytest.mark.parametrize("attention", KINDS)
def test_revit_with_one_grid_is_the_plain_model(attention):
    plain = randomise(TimeSformer(grids=[4], attention=attention, **SMALL))
    revit = TimeSformer(grids=[4, 2], attention=attention, **SMALL).eval()
    revit.load_state_dict(plain.state_dict(), strict=False)
    x = clips()
    assert torch.equal(revit(x).logits, plain(x).logits)
    assert torch.equal(revit(x, TokenGrid(4, 4)).prediction, plain(x).logits)


@pytest.mark.parametrize("attention", KINDS)
@pytest.mark.parametrize("patch_embed", ["patchify", "stem"])
def test_each_short_grid_is_a_plain_model_with_that_grids_parameters(attention, patch_embed):
    extra = {"patch_embed": patch_embed, "stem_widths": (8, 16)} if patch_embed == "stem" else {}
    extra["stem_widths"] = (8, 16, 16) if patch_embed == "stem" else None
    revit = randomise(TimeSformer(grids=[4, 2], attention=attention, distillation="none", **extra, **SMALL))
    plain = TimeSformer(grids=[2], attention=attention, **extra, **SMALL).eval()
    state = {}
    for name, tensor in revit.state_dict().items():
        if name == "short_pos_embed.2x2":
            state["pos_embed"] = tensor
        elif ".short.2x2." in name:
            state[name.replace(".short.2x2.", ".proj." if "patch_embed" in name else ".")] = tensor
    for name, tensor in revit.state_dict().items():
        if "short" not in name and ".4x4." not in name:
            state.setdefault(name, tensor)
    plain.load_state_dict(state)
    x = clips()
    assert torch.allclose(revit(x, TokenGrid(2, 2)).logits, plain(x).logits, atol=1e-6)


@pytest.mark.parametrize("attention", ["divided_space_time", "joint_space_time"])
def test_fresh_divided_model_does_not_see_the_order_of_frames(attention):
    model = TimeSformer(grids=[4, 2], attention=attention, **SMALL).eval()
    x = clips()
    for grid in model.grids:
        assert torch.allclose(model(x, grid).prediction, model(x.flip(2), grid).prediction, atol=1e-6)


def test_fresh_divided_model_is_the_image_model_on_equal_frames():
    """temporal_fc and the time table start at zero: equal frames give what one frame gives."""
    model = TimeSformer(grids=[4], **SMALL).eval()
    image = clips(frames=1)
    assert torch.allclose(model(image.expand(-1, -1, 4, -1, -1)).logits, model(image).logits, atol=1e-5)


def test_space_only_is_joint_attention_on_one_frame():
    joint = randomise(TimeSformer(grids=[4], attention="joint_space_time", **SMALL))
    with torch.no_grad():
        joint.time_embed.zero_()
    space = TimeSformer(grids=[4], attention="space_only", **SMALL).eval()
    space.load_state_dict({name: value for name, value in joint.state_dict().items() if name != "time_embed"})
    x = clips(frames=1)
    assert torch.allclose(space(x).logits, joint(x).logits, atol=1e-6)


@pytest.mark.parametrize("attention", KINDS)
@pytest.mark.parametrize(("frames", "size"), [(1, 32), (7, 32), (4, 48), (3, 24), (4, 40)])
def test_any_frame_count_and_size_at_run_time(attention, frames, size):
    model = randomise(TimeSformer(grids=[4, 2], attention=attention, **SMALL))
    for grid in model.grids:
        prediction = model(clips(frames, size), grid).prediction
        assert prediction.shape == (2, 5)
        assert prediction.isfinite().all()


def test_samples_do_not_see_each_other():
    model = randomise(TimeSformer(grids=[4, 2], **SMALL))
    x = clips(batch=3)
    for grid in model.grids:
        together = model(x, grid).prediction
        alone = torch.cat([model(x[index : index + 1], grid).prediction for index in range(3)])
        assert torch.allclose(together, alone, atol=1e-5)


def test_distillation_token_belongs_to_the_shorter_grids():
    model = randomise(TimeSformer(grids=[4, 2, 1], **SMALL))
    outputs = [model(clips(), grid) for grid in model.grids]
    assert outputs[0].distill_logits is None
    for output in outputs[1:]:
        assert torch.allclose(output.prediction, (output.logits + output.distill_logits) / 2)
    assert model.short_pos_embed["2x2"].shape == (1, 2 + 4, 32)
    assert len(model.head_dist) == 1
    assert sorted(TimeSformer(grids=[4, 2, 1], distillation="per_grid", **SMALL).head_dist) == ["1x1", "2x2"]
    assert not TimeSformer(grids=[4, 2, 1], distillation="none", **SMALL).head_dist


@pytest.mark.parametrize("positions", ["shared_zero_pad", "shared_interpolate"])
def test_shared_positions_own_one_table(positions):
    model = randomise(TimeSformer(grids=[4, 2], positions=positions, **SMALL))
    assert not model.short_pos_embed
    table = model.position_table(TokenGrid(2, 2), TokenGrid(2, 2))
    assert torch.equal(table[:, 0], model.pos_embed[:, 0])
    assert torch.equal(table[:, 1:2], model.dist_pos_embed)
    if positions == "shared_zero_pad":
        as_map = model.pos_embed[0, 1:].view(4, 4, 32)
        assert torch.equal(table[0, 2:].view(2, 2, 32), as_map[:2, :2])


def test_shorter_grids_start_from_the_longest():
    model = randomise(TimeSformer(grids=[4, 2], **SMALL))
    model.start_short_grids()
    block = model.blocks[1]
    assert torch.equal(block.temporal_norm1.short["2x2"].weight, block.temporal_norm1.weight)
    assert torch.equal(model.head_dist["shared"].weight, model.head.weight)
    assert torch.equal(model.dist_token["shared"], model.cls_token)
    assert torch.equal(model.short_pos_embed["2x2"][:, :2], model.pos_embed[:, :1].expand(-1, 2, -1))


def test_every_parameter_is_trained_by_some_grid():
    model = randomise(TimeSformer(grids=[4, 2], **SMALL)).train()
    for grid in model.grids:
        output = model(clips(), grid)
        output.prediction.square().sum().backward()
    assert [name for name, weight in model.named_parameters() if weight.grad is None] == []


def test_a_foreign_grid_is_refused_with_the_known_ones():
    with pytest.raises(KeyError, match=r"3x3.*4x4, 2x2"):
        TimeSformer(grids=[4, 2], **SMALL)(clips(), TokenGrid(3, 3))
