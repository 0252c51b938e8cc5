"""Token Expansion in TimeSformer: one choice of positions for all frames, in every kind of attention."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from revit.common.data.batch import Batch
from revit.common.methods.revit.task import ResizableTask
from revit.common.methods.toe import ToE, ToEOptions
from revit.common.models.reducer import restore_merged
from revit.video.models.timesformer import TimeSformer

KINDS = ("divided_space_time", "joint_space_time", "space_only")
TARGETS = torch.tensor([0, 1, 2])


def clips(num_frames: int = 4) -> torch.Tensor:
    return torch.randn(3, 3, num_frames, 32, 32, generator=torch.Generator().manual_seed(1))


def build(attention: str, grids=(8,)) -> TimeSformer:
    torch.manual_seed(0)
    std = {"pos_std": 0.5, "time_std": 0.5, "temporal_fc_std": 0.2, "linear_std": 0.2}
    return TimeSformer(32, grids, 4, 3, 16, 3, 2, attention, drop_path_rate=0.0, **std).train()


def with_toe(model: nn.Module, stage: int = 1, **settings) -> nn.Module:
    model = copy.deepcopy(model)
    ToE(ToEOptions(**settings)).attach(model)
    model.reducer.train()
    model.reducer.stage = stage
    return model


def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    batch = Batch(torch.empty(0), TARGETS, TARGETS)
    for _, loss in ResizableTask().losses(model, clips(), batch):
        loss.backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("attention", KINDS)
@pytest.mark.parametrize("settings", [{"keep_rates": (1.0,)}, {"stage": 3}])
def test_everything_kept_is_the_plain_model(attention, settings):
    plain = build(attention)
    toe = with_toe(plain, **settings)
    assert torch.allclose(plain(clips()).logits, toe(clips()).logits, atol=1e-6)
    first, second = gradients(plain), gradients(toe)
    assert first.keys() == second.keys()
    assert all(torch.allclose(first[name], second[name], atol=1e-6) for name in first)


@pytest.mark.parametrize("attention", KINDS)
def test_evaluation_uses_all_tokens(attention):
    plain = build(attention).eval()
    toe = with_toe(plain).eval()
    assert torch.equal(plain(clips()).logits, toe(clips()).logits)


@pytest.mark.parametrize("attention", KINDS)
def test_tokens_of_the_blocks_and_gradients(attention):
    model, seen = with_toe(build(attention)), []
    for block in model.blocks:
        block.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[:2]))
    reduction = model(clips()).reduction
    if attention == "space_only":  # frames run as samples, and each has its own choice
        assert seen == [(12, 65), (12, 33), (12, 33)]
        assert reduction.token_source_map.shape == (12, 64)
    else:
        assert seen == [(3, 1 + 64 * 4), (3, 1 + 32 * 4), (3, 1 + 32 * 4)]
        assert reduction.token_source_map.shape == (3, 64)
    plain = gradients(build(attention))
    found = gradients(model)
    assert found.keys() == plain.keys()
    assert all(torch.isfinite(gradient).all() for gradient in found.values())


def test_a_position_holds_the_same_place_of_every_frame():
    """What block 1 sees in frame t is the mean, group by group, of what block 0 put out in frame t."""
    model, seen = with_toe(build("divided_space_time")), []
    model.blocks[0].register_forward_hook(lambda *facts: seen.append(facts[2]))
    model.blocks[1].register_forward_pre_hook(lambda _, inputs: seen.extend(inputs))
    reduction = model(clips()).reduction
    before, after, layout = seen
    (decision,) = layout.decisions
    for t in range(4):
        for b in range(3):
            for slot, place in enumerate(reduction.kept[0][b].tolist()):
                group = (reduction.token_source_map[b] == place).nonzero().flatten()
                wanted = before[b, 1 + 4 * group + t].mean(dim=0)
                assert torch.allclose(after[b, 1 + 4 * slot + t], wanted, atol=1e-5)
    restored = restore_merged(after[:, 1:].unflatten(1, (32, 4)), [decision])
    assert restored.shape == (3, 64, 4, 16)


@pytest.mark.parametrize("attention", KINDS)
def test_a_revit_reduces_every_grid_and_another_clip_length(attention):
    model = with_toe(build(attention, grids=(8, 4)), stage=2)
    for num_frames in (4, 3):
        for grid, kept in zip(model.grids, (48, 12)):
            assert model(clips(num_frames), grid).reduction.kept[0].shape[1] == kept
