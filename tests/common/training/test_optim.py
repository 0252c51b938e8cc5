"""What is decayed, and the learning rate over time."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.optim import Optimizer

from revit.common.config.sections import OptimOptions, ScheduleOptions
from revit.common.training.optim import build_optimizer, build_scheduler
from revit.common.training.parallel.optimizer_state import load_optimizer_state, optimizer_state
from revit.image.models.transformers import DeiT
from revit.video.models.timesformer import TimeSformer


def decayed(model: nn.Module, **options) -> set[str]:
    """Names of the parameters whose group has weight decay."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    optimizer = build_optimizer(model, OptimOptions(weight_decay=0.1, **options))
    assert {group["weight_decay"] for group in optimizer.param_groups} <= {0.0, 0.1}
    groups = [group for group in optimizer.param_groups if group["weight_decay"]]
    return {names[id(parameter)] for group in groups for parameter in group["params"]}


MODELS = {
    "deit": lambda: DeiT(32, ["4x4", "2x2"], 3, 16, 1, 2),
    "distilled": lambda: DeiT(32, ["4x4", "2x2"], 3, 16, 1, 2, distillation="every_grid"),
    "timesformer": lambda: TimeSformer(32, ["4x4", "2x2"], 2, 3, 16, 1, 2),
}


@pytest.mark.parametrize("name", MODELS)
def test_deit_spares_one_dimensional_parameters_tokens_and_tables(name):
    model = MODELS[name]()
    found = decayed(model, name="adamw", decay_one_dimensional=False)
    tables = ("cls_token", "dist_token", "pos_embed", "short_pos_embed", "dist_pos_embed", "time_embed")
    expected = {
        name for name, parameter in model.named_parameters() if parameter.ndim > 1 and name.split(".")[0] not in tables
    }
    assert found == expected
    assert found


@pytest.mark.parametrize("name", MODELS)
def test_the_published_timesformer_decays_everything(name):
    model = MODELS[name]()
    assert decayed(model) == {name for name, _ in model.named_parameters()}


def test_adamw_gets_its_betas_and_eps():
    options = OptimOptions(name="adamw", betas=(0.8, 0.95), eps=1e-6)
    defaults = build_optimizer(nn.Linear(2, 2), options).defaults
    assert (defaults["betas"], defaults["eps"]) == ((0.8, 0.95), 1e-6)


@pytest.mark.parametrize(("name", "setting"), [("sgd", {"betas": (0.8, 0.9)}), ("adamw", {"momentum": 0.5})])
def test_settings_of_another_optimiser_are_refused(name, setting):
    with pytest.raises(ValueError, match=f"{name} has no {next(iter(setting))}"):
        OptimOptions(name=name, **setting)
    again = OptimOptions(name=name).model_dump()
    assert OptimOptions(**again).name == name  # defaults written out, as in the config beside results


@pytest.mark.parametrize("name", ["cosine", "multistep", "constant"])
def test_the_rate_stays_where_it_ended_through_the_cool_down(name):
    options = ScheduleOptions(name=name, epochs=20, cooldown_epochs=10, warmup_epochs=5, min_lr=1e-5, warmup_lr=1e-6)
    assert options.total_epochs == 30
    optimizer = build_optimizer(nn.Linear(2, 2), OptimOptions(name="adamw", lr=1.6e-3))
    scheduler = build_scheduler(optimizer, options, updates_per_epoch=10)
    rates = []
    for update in range(300):
        scheduler.step_update(update)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates[0] == pytest.approx(1e-6)
    assert max(rates) <= 1.6e-3
    assert len(set(rates[200:])) == 1
    assert rates[-1] == pytest.approx({"cosine": 1e-5, "multistep": 1.6e-5, "constant": 1.6e-3}[name])


def test_published_recipe_moves_the_learning_rate_as_published():
    """x1 to epoch 10, x0.1 for 11 to 13, x0.01 for 14 (within timm's offset of one update)."""
    model = nn.Linear(2, 2)
    optimizer = build_optimizer(model, OptimOptions())
    assert optimizer.defaults["nesterov"]
    assert {group["weight_decay"] for group in optimizer.param_groups} == {1e-4}
    scheduler = build_scheduler(optimizer, ScheduleOptions(), updates_per_epoch=100)
    rates = []
    for epoch in range(15):
        scheduler.step_update(epoch * 100 + 50)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([5e-3] * 11 + [5e-4] * 3 + [5e-5])


def test_decay_can_spare_one_dimensional_parameters():
    optimizer = build_optimizer(nn.LayerNorm(4), OptimOptions(name="adamw", decay_one_dimensional=False))
    assert {group["weight_decay"] for group in optimizer.param_groups if group["params"]} == {0.0}


def updates(name: str, fused: bool, num_updates: int = 5) -> tuple[nn.Module, Optimizer]:
    """A small TimeSformer after some updates with made gradients; those of its shorter grid come from update 2 on."""
    torch.manual_seed(0)
    model = MODELS["timesformer"]()
    optimizer = build_optimizer(model, OptimOptions(name=name, lr=1e-2, weight_decay=0.1))
    for group in optimizer.param_groups:
        group["fused"] = fused
    make_updates(model, optimizer, 0, num_updates)
    return model, optimizer


def make_updates(model: nn.Module, optimizer: Optimizer, first: int, last: int) -> None:
    for number in range(first, last):
        generator = torch.Generator().manual_seed(number)
        for parameter_name, parameter in model.named_parameters():
            gradient = torch.randn(parameter.shape, generator=generator)
            parameter.grad = None if number < 2 and "short" in parameter_name else gradient
        optimizer.step()


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_one_fused_kernel_updates_as_pytorchs_plain_code_does(name):
    fused, optimizer = updates(name, True)
    assert optimizer.defaults["fused"]
    plain, _ = updates(name, False)
    for key, weight in plain.state_dict().items():
        torch.testing.assert_close(fused.state_dict()[key], weight, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
@pytest.mark.parametrize("before", [1, 3])
def test_a_state_of_the_plain_optimiser_goes_on_in_the_fused_one(name, before):
    """As older runs have saved it; after update 1 it knows nothing of the shorter grid."""
    whole, _ = updates(name, True)
    model, plain = updates(name, False, before)
    saved = copy.deepcopy(optimizer_state(plain, model))
    going_on = build_optimizer(model, OptimOptions(name=name, lr=1e-2, weight_decay=0.1))
    load_optimizer_state(going_on, model, saved)
    assert all(group["fused"] for group in going_on.param_groups)
    make_updates(model, going_on, before, 5)
    for key, weight in whole.state_dict().items():
        torch.testing.assert_close(model.state_dict()[key], weight, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_an_update_that_overflows_leaves_the_state_as_it_was(name):
    model = nn.Linear(2, 2)
    before = copy.deepcopy(model.state_dict())
    optimizer = build_optimizer(model, OptimOptions(name=name, lr=1e-2))
    scaler = torch.amp.GradScaler("cpu")
    for factor in (float("inf"), 1.0):
        scaler.scale(factor * model(torch.ones(1, 2)).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        if factor != 1.0:
            assert not optimizer.state
            assert all(torch.equal(weight, before[key]) for key, weight in model.state_dict().items())
    assert all(weight.isfinite().all() for weight in model.state_dict().values())
    assert not any(torch.equal(weight, before[key]) for key, weight in model.state_dict().items())
