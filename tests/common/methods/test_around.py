"""Methods that change something before each batch pass all else on, so that grids can still be shared out."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch

from revit.common.data.batch import Batch
from revit.common.methods.retokenize import RetokenizeOptions, RetokenizeTask
from revit.common.methods.revit.task import AssignerTask, ResizableTask
from revit.common.methods.task import OneProcess, Progress, SharesLengths, TaskAround
from revit.common.methods.toe import Growth, ToETask, TokenExpansion
from revit.image.models.transformers import DeiT

BATCH = Batch(torch.empty(0), torch.tensor([0, 1]), torch.tensor([0, 1]))


def model(depth: int = 2) -> DeiT:
    torch.manual_seed(0)
    return DeiT(32, [8, 4], num_classes=3, embed_dim=16, depth=depth, num_heads=2).train()


def around(name: str, task, network) -> TaskAround:
    if name == "retokenize":
        return RetokenizeTask(task, network.patch_embed, RetokenizeOptions())
    return ToETask(task, TokenExpansion(Growth((0.5,), 0.25), 16), "updates", 3)


@dataclass
class OwnGrids(OneProcess):
    """Runs the grids of one process among two; the longest grid's logits come from the other."""

    own: slice = field(default_factory=lambda: slice(None))

    def begin(self, grids):
        super().begin(grids)
        return grids[self.own]

    def teacher_logits(self, like):
        return torch.zeros_like(like)


@pytest.mark.parametrize("name", ["retokenize", "toe"])
def test_the_grids_of_the_task_within_are_shared_out(name):
    network, inner = model(), ResizableTask()
    task = around(name, inner, network)
    assert isinstance(task, SharesLengths)
    for own, names in ((slice(0, 1), ["8x8"]), (slice(1, 2), ["4x4"])):
        exchange = OwnGrids(own=own)
        task.exchange = exchange
        assert inner.exchange is exchange is task.exchange
        task.begin(Progress(0, 0.0))
        assert [grid for grid, _ in task.losses(network, torch.randn(2, 3, 32, 32), BATCH)] == names


@pytest.mark.parametrize("name", ["retokenize", "toe"])
def test_a_task_without_grids_stays_without(name):
    task = around(name, AssignerTask(torch.zeros(2)), model())
    with pytest.raises(TypeError, match="AssignerTask has no exchange"):
        task.exchange = OneProcess()


def test_shared_out_coarse_tokens_have_the_losses_of_one_process():
    """Re-tokenised twice: all grids here, and each for itself with the logits of the longest."""
    network, images = model(), torch.randn(2, 3, 32, 32)
    task = around("retokenize", ResizableTask(), network)
    task.begin(Progress(0, 0.5))
    alone = {name: loss.item() for name, loss in task.losses(network, images, BATCH)}
    assert network.patch_embed.coarser == 2
    logits = network(images, network.grids[0]).logits.detach()
    shared = {}
    for own in (slice(0, 1), slice(1, 2)):
        exchange = OwnGrids(own=own)
        exchange.teacher_logits = lambda like: logits
        task.exchange = exchange
        shared |= {name: loss.item() for name, loss in task.losses(network, images, BATCH)}
    assert shared == pytest.approx(alone)
