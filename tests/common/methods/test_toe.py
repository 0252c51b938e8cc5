"""The method toe: its settings, its stages, and the task around a task."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from revit.common.methods.revit.task import ResizableTask
from revit.common.methods.task import OneProcess, Progress, SharesLengths, Task
from revit.common.methods.toe import Growth, ToE, ToEOptions, ToETask, TokenExpansion
from revit.common.system.errors import UserError
from revit.image.models.transformers import DeiT


def test_the_defaults_are_the_papers():
    assert ToEOptions().growth == Growth((0.5, 0.75, 1.0), 0.25, 2, "paper")
    assert ToEOptions(first_rate=0.4).growth == Growth((0.4, 0.7, 1.0), 0.2)
    assert ToEOptions(keep_rates=(0.3, 0.9)).growth == Growth((0.3, 0.9), 0.15)
    assert ToEOptions(first_rate=0.6, initial_rate=0.1, num_stages=2, repetitions=3).growth == Growth(
        (0.6, 1.0), 0.1, 3
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"first_rate": 0}, "greater than 0"),
        ({"first_rate": 1.2}, "less than or equal to 1"),
        ({"keep_rates": (0.5, 1), "first_rate": 0.5}, "leave one out"),
        ({"keep_rates": (0.5, 1), "num_stages": 2}, "leave one out"),
        ({"keep_rates": (0.5, 0.4)}, "only added"),
        ({"initial_rate": 0.6}, "only added"),
        ({"keep_rates": ()}, "at least 1"),
        ({"evaluation_stage": 4}, "of 3 stages"),
        ({"rounding": "up"}, "published"),
        ({"before_block": 0}, "greater than or equal to 1"),
        ({"keep_rate": 0.5}, "Extra inputs"),
    ],
)
def test_contradictions_are_refused(settings, message):
    with pytest.raises(ValidationError, match=message):
        ToEOptions(**settings)


def staged(num_stages, rule, epochs, **more):
    growth = Growth((1.0,) * num_stages, 0.5)
    return ToETask(ResizableTask(), TokenExpansion(growth, 8), rule, epochs, **more)


@pytest.mark.parametrize("num_stages", [1, 2, 3, 4, 7])
def test_by_updates_the_stage_is_the_papers_ceiling(num_stages):
    task = staged(num_stages, "updates", 3)
    for T in (1, 2, 3, 10, 12, 49, 300):
        for t in range(1, T + 1):
            wanted = -(-num_stages * t // T)
            assert task.stage_at(Progress(t - 1, (t - 1) / T, t / T)) == wanted


def test_by_epochs_the_stages_are_the_published_ones():
    published = staged(3, "epochs", 300)
    cooling = staged(3, "epochs", 300, cooldown_epochs=10)
    for epoch in range(300):
        wanted = sum(threshold <= epoch for threshold in (0, 100, 200))
        for within in (0.0, 0.5, 0.99):
            assert published.stage_at(Progress(0, (epoch + within) / 300, 1.0)) == wanted
            assert cooling.stage_at(Progress(0, (epoch + within) / 310, 1.0)) == wanted
    assert cooling.stage_at(Progress(0, 305 / 310, 1.0)) == 3


def test_a_place_that_is_not_known_is_told_by_the_samples():
    task = staged(3, "updates", 3)
    assert [task.stage_at(Progress(0, share)) for share in (0, 0.3, 0.4, 0.7, 1)] == [1, 1, 2, 3, 3]


@dataclass
class Listening(Task):
    """Keeps what it hears; its loss is the model's."""

    heard: list[Progress] = field(default_factory=list)

    def begin(self, progress):
        self.heard.append(progress)

    def losses(self, model, inputs, batch):
        yield "14x14", model(inputs)


def test_the_task_tells_the_reducer_and_leaves_the_losses_alone():
    reducer, inner = TokenExpansion(Growth((0.5, 0.75, 1.0), 0.25), 8), Listening()
    task = ToETask(inner, reducer, "updates", 3)
    progress = [Progress(t, t / 6, (t + 1) / 6) for t in range(6)]
    seen = []
    for one in progress:
        task.begin(one)
        seen.append(reducer.stage)
    assert seen == [1, 1, 2, 2, 3, 3]
    assert inner.heard == progress
    ((name, loss),) = task.losses(nn.Identity(), torch.ones(1), None)
    assert (name, float(loss)) == ("14x14", 1.0)


def test_grids_of_the_inner_task_can_be_shared_out():
    reducer = TokenExpansion(Growth((0.5,), 0.25), 8)
    inner, exchange = ResizableTask(), OneProcess()
    task = ToETask(inner, reducer, "updates", 3)
    assert isinstance(task, SharesLengths)
    task.exchange = exchange
    assert inner.exchange is exchange
    assert task.exchange is exchange
    with pytest.raises(TypeError, match="Listening has no exchange"):
        ToETask(Listening(), reducer, "updates", 3).exchange = exchange


def test_a_model_without_the_block_or_with_another_reducer_is_refused():
    model = DeiT(16, [4], 3, 8, 2, 2)
    with pytest.raises(UserError, match="choose from 1 to 1"):
        ToE(ToEOptions(before_block=2)).attach(model)
    with pytest.raises(UserError, match=r"model\.depth is 1; a model needs two blocks"):
        ToE(ToEOptions()).attach(DeiT(16, [4], 3, 8, 1, 2))
    ToE(ToEOptions()).attach(model)
    assert isinstance(model.reducer, TokenExpansion)
    with pytest.raises(UserError, match="another method"):
        ToE(ToEOptions()).attach(model)


def test_compiled_code_of_a_stage_is_forgotten_with_it(monkeypatch):
    resets = []
    monkeypatch.setattr(torch.compiler, "reset", lambda: resets.append(reducer.stage))
    reducer = TokenExpansion(Growth((0.5, 0.75, 1.0), 0.25), 8)
    task = ToETask(Listening(), reducer, "updates", 3, forget_compiled=True)
    for t in range(9):
        task.begin(Progress(t, t / 9, (t + 1) / 9))
    assert resets == [1, 2]
