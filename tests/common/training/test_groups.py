"""Groups of parameters: slower ones, frozen ones, and nothing changed where there are none."""

from __future__ import annotations

import json
from itertools import pairwise

import groups_runs
import pytest
import torch
import torch.nn.functional as F
from ranks import run_ranks
from torch import nn

from revit.common.config.sections import GroupOptions, OptimOptions, ScheduleOptions
from revit.common.system.errors import UserError
from revit.common.training.optim import MovedSchedule, build_optimizer, build_scheduler, parameter_groups
from revit.common.training.parallel.backend import LocalBackend
from revit.image.models.transformers import DeiT

GROUPS = (
    GroupOptions(match="head"),
    GroupOptions(match="cls_token|pos_embed", lr_scale=0),
    GroupOptions(match="blocks", lr_scale=0.1, frozen_epochs=1.5, weight_decay=0.3),
    GroupOptions(match=r"blocks\.0", lr_scale=7),  # behind the one above: takes what that one leaves, which is nothing
)
ADAMW = {"name": "adamw", "lr": 0.01, "weight_decay": 0.1, "decay_one_dimensional": False}


def small() -> DeiT:
    torch.manual_seed(0)
    return DeiT(16, [4], 3, 16, 2, 2, drop_path_rate=0.0)


def facts_by_name(model: nn.Module, options: OptimOptions) -> dict[str, tuple[float, float, float]]:
    names = {parameter: name for name, parameter in model.named_parameters()}
    return {
        names[parameter]: (group["lr_scale"], group["frozen_epochs"], group["weight_decay"])
        for group in parameter_groups(model, options)
        for parameter in group["params"]
    }


def test_the_first_match_counts_and_the_rest_is_trained_as_ever():
    model = small()
    found = facts_by_name(model, OptimOptions(**ADAMW, groups=GROUPS[:3]))
    assert found.keys() == {name for name, _ in model.named_parameters()}
    assert found["head.weight"] == (1, 0, 0.1)
    assert found["head.bias"] == (1, 0, 0)
    assert found["pos_embed"] == (0, 0, 0)
    assert found["blocks.0.attn.qkv.weight"] == (0.1, 1.5, 0.3)
    assert found["blocks.0.attn.qkv.bias"] == (0.1, 1.5, 0)
    assert found["patch_embed.proj.weight"] == (1, 0, 0.1)
    everything = facts_by_name(model, OptimOptions(**{**ADAMW, "decay_one_dimensional": True}, groups=GROUPS[:3]))
    assert everything["blocks.1.norm1.bias"] == (0.1, 1.5, 0.3)
    assert everything["pos_embed"] == (0, 0, 0.1)


def test_a_group_of_nothing_is_an_error_that_says_what_there_is():
    with pytest.raises(UserError, match=r"groups\.3\.match .*blocks.*names begin like cls_token, pos_embed"):
        build_optimizer(small(), OptimOptions(**ADAMW, groups=GROUPS))


def test_a_broken_expression_is_told_with_its_key():
    with pytest.raises(ValueError, match="no regular expression"):
        GroupOptions(match="blocks(")


def schedule(optimizer, updates_per_epoch: int) -> MovedSchedule:
    options = ScheduleOptions(name="cosine", epochs=4, warmup_epochs=1, warmup_lr=0.0)
    return MovedSchedule(build_scheduler(optimizer, options, updates_per_epoch), updates_per_epoch)


def rates(moved: MovedSchedule) -> dict[float, float]:
    """Scale -> learning rate."""
    return {group["lr_scale"]: group["lr"] for group in moved.inside.optimizer.param_groups}


def test_rates_follow_the_schedule_times_their_scale_after_the_frozen_epochs():
    optimizer = build_optimizer(small(), OptimOptions(**ADAMW, groups=GROUPS[:3]))
    plain = build_optimizer(small(), OptimOptions(**ADAMW))
    moved, straight = schedule(optimizer, 10), schedule(plain, 10)
    for update in range(40):
        moved.step_update(update)
        straight.step_update(update)
        rate = plain.param_groups[0]["lr"]
        assert rates(moved) == pytest.approx({1: rate, 0: 0, 0.1: 0.1 * rate if update >= 15 else 0})
    assert optimizer.param_groups[0]["lr_scale"] == 1  # what logs show


def test_frozen_epochs_are_epochs_after_a_resume_with_another_batch():
    optimizer = build_optimizer(small(), OptimOptions(**ADAMW, groups=GROUPS[:3]))
    moved = schedule(optimizer, 20)  # before: 10 updates an epoch, stopped after 12 of them
    moved.load_state_dict({"updates_per_epoch": 10, "shift": 0}, num_updates=12, epochs=1.2)
    thawed = [update for update in range(12, 30) if (moved.step_update(update), rates(moved)[0.1])[1] > 0]
    assert thawed[0] == 12 + (30 - 24)  # 30 updates of the new size are one epoch and a half, and 24 are behind


def trained(groups, num_updates=12, name="adamw", stop_at=None) -> tuple[DeiT, list[dict[str, torch.Tensor]]]:
    """The model, and its weights before every update; 4 updates an epoch."""
    model = small()
    options = {**ADAMW, "name": name}
    optimizer = build_optimizer(model, OptimOptions(**options, groups=groups))
    backend = LocalBackend(torch.device("cpu"))
    backend.prepare(model, optimizer, schedule(optimizer, 4))
    generator = torch.Generator().manual_seed(5)
    seen = []
    for _ in range(num_updates):
        seen.append({key: value.clone() for key, value in model.state_dict().items()})
        images = torch.randn(4, 3, 16, 16, generator=generator)
        backend.backward(F.cross_entropy(model(images).logits, torch.tensor([0, 1, 2, 0])))
        if stop_at == backend.num_updates:
            backend.load_state_dict(backend.state_dict())
        backend.step()
    return model, seen


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_one_group_of_everything_changes_nothing(name):
    one, other = trained((), name=name)[0], trained((GroupOptions(match=""),), name=name)[0]
    for key, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[key]), key


def test_frozen_parameters_stand_still_and_get_gradients():
    model, seen = trained(GROUPS[:3], stop_at=9)
    key = "blocks.1.mlp.fc1.weight"
    moved = [not torch.equal(before[key], after[key]) for before, after in pairwise(seen)]
    assert moved == [False] * 6 + [True] * 5  # 1.5 epochs of 4
    assert torch.equal(seen[0]["pos_embed"], model.pos_embed)
    assert not torch.equal(seen[1]["head.weight"], seen[2]["head.weight"])
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory) -> dict[str, float]:
    """What groups_runs.py found."""
    folder = tmp_path_factory.mktemp("groups")
    run_ranks(2, groups_runs.main, folder, folder=folder)
    return json.loads((folder / "found.json").read_text())


@pytest.mark.parametrize("stage", [1, 3])
def test_groups_and_dropping_tokens_are_the_same_under_deepspeed(two_processes, stage):
    """A DynamicViT with its groups, over two processes, against one: weights after frozen and thawed updates, and the
    optimiser's state. ZeRO 3 hooks the model's nested output; blocks are recomputed."""
    assert two_processes[f"{stage} end"] < 1e-5
    assert two_processes[f"{stage} frozen"] == 0
    assert two_processes[f"{stage} predictors stand still"] == 0
    assert two_processes[f"{stage} again"] == 0
