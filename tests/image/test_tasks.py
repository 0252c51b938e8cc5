from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from revit.common.data.batch import Batch
from revit.common.methods.revit.task import SelfDistillation
from revit.common.models.base import ModelOutput
from revit.common.models.grid import TokenGrid
from revit.image.data.options import TokenLabelOptions
from revit.image.models.transformers import LVViT, MixDraw
from revit.image.tasks import TokenLabelTask, densify, region_align

CLASSES = 6
GRIDS = (TokenGrid(4, 4), TokenGrid(3, 2))
ON, OFF = 0.9 + 0.1 / CLASSES, 0.1 / CLASSES


class Answers(nn.Module):
    """A network whose answers are its parameters; it notes the draws it is given."""

    num_classes = CLASSES

    def __init__(self, batch: int = 4) -> None:
        super().__init__()
        self.grids = GRIDS
        self.cls, self.dist, self.patch = (
            nn.ParameterList(torch.randn(batch, *shape, CLASSES) for shape in shapes)
            for shapes in ([()] * 2, [()] * 2, [(grid.num_positions,) for grid in GRIDS])
        )
        self.seen: list[Any] = []

    def forward(self, inputs: Tensor, grid: TokenGrid, mix: MixDraw | None) -> ModelOutput:
        self.seen.append(mix)
        number = self.grids.index(grid)
        return ModelOutput(self.cls[number], self.dist[number] if number else None, patch_logits=self.patch[number])


def labelled(batch: int = 4, maps: bool = True) -> Batch:
    numbers = torch.rand(batch, CLASSES, 9, 9).argsort(dim=1)[:, :3].float()
    extras = {"label_map": torch.stack([torch.randn(numbers.shape) * 3, numbers], dim=1)}
    extras["crop"] = torch.rand(batch, 4) / 2
    targets = torch.randint(CLASSES, (batch,))
    return Batch(torch.empty(batch), targets, torch.arange(batch), extras=extras if maps else {})


def soft_ce(logits: Tensor, targets: Tensor) -> Tensor:
    """Over every row of both."""
    rows = zip(logits.reshape(-1, CLASSES), targets.reshape(-1, CLASSES))
    return torch.stack([-(target * (row - row.logsumexp(0))).sum() for row, target in rows]).mean()


def run(task: TokenLabelTask, network: nn.Module, batch: Batch, inputs: Tensor | None = None) -> dict[str, Tensor]:
    return dict(task.losses(network, torch.empty(len(batch)) if inputs is None else inputs, batch))


def wanted_targets(batch: Batch, grid: TokenGrid) -> tuple[Tensor, Tensor]:
    dense = densify(batch.extras["label_map"], CLASSES)
    whole, patches = (
        region_align(dense, batch.extras["crop"], *size).softmax(1) * ON + OFF
        for size in ((1, 1), (grid.rows, grid.cols))
    )
    return whole[:, :, 0, 0], patches.flatten(2).mT


@pytest.mark.parametrize("weight", [0.9, 0.0])
@pytest.mark.parametrize("mix_token", [True, False])
def test_losses_are_the_sum_of_class_and_dense_terms(weight, mix_token):
    network, batch = Answers(), labelled()
    task = TokenLabelTask(
        SelfDistillation(weight), mix_token, TokenLabelOptions(folder="", cls_weight=0.7, dense_weight=0.4)
    )
    losses = run(task, network, batch)
    assert list(losses) == ["4x4", "3x2"]
    for number, grid in enumerate(GRIDS):
        whole, patches = wanted_targets(batch, grid)
        if mix_token:
            box = network.seen[number].box(grid)
            area = (box.bottom - box.top) * (box.right - box.left)
            share = 1 - area / grid.num_positions
            whole = share * whole + (1 - share) * whole.flip(0)
        term = soft_ce(network.cls[number], whole)
        if number == 1 and weight == 0:
            term = (term + soft_ce(network.dist[1], whole)) / 2
        elif number == 1:
            p, q = network.cls[0].softmax(1), network.dist[1].softmax(1)
            term = (1 - weight) * term + weight * (p * (p / q).log()).sum(1).mean()
        expected = 0.7 * term + 0.4 * soft_ce(network.patch[number], patches)
        assert torch.allclose(losses[grid.name], expected, atol=1e-5)


def test_one_draw_per_batch_for_all_grids_in_training_only():
    network, task, batch = Answers(), TokenLabelTask(), labelled()
    for _ in range(3):
        run(task, network, batch)
    first, second = network.seen[0], network.seen[2]
    assert all(draw is first for draw in network.seen[:2])
    assert second is not first
    network.eval().seen.clear()
    run(task, network, batch)
    assert network.seen == [None, None]


@pytest.mark.parametrize("soft", [False, True])
def test_without_label_maps_every_patch_learns_the_class_target(soft):
    network, batch = Answers(), labelled(maps=False)
    if soft:
        batch = Batch(batch.inputs, torch.rand(4, CLASSES).softmax(1), batch.ids)
    one_hot = batch.targets if soft else torch.eye(CLASSES)[batch.targets]
    target = 0.8 * one_hot + 0.2 / CLASSES
    losses = run(TokenLabelTask(SelfDistillation(0.0, label_smoothing=0.2), mix_token=False), network, batch)
    expected = soft_ce(network.cls[0], target) + soft_ce(network.patch[0], target[:, None].expand_as(network.patch[0]))
    assert torch.allclose(losses["4x4"], expected, atol=1e-5)


def test_label_smoothing_of_the_model_leaves_token_labels_alone():
    network, batch = Answers(), labelled()
    plain, smoothed = (
        run(TokenLabelTask(SelfDistillation(0.9, label_smoothing=s), mix_token=False), network, batch)
        for s in (0.0, 0.3)
    )
    assert all(torch.equal(plain[name], smoothed[name]) for name in plain)


def test_ground_truth_moves_the_class_target_towards_the_label():
    network, batch = Answers(), labelled()
    whole, patches = wanted_targets(batch, GRIDS[0])
    corrected = []
    for target, label in zip(whole, batch.targets):
        share = 0.5 if target.argmax() == label else 0.9
        corrected.append(share * target + (1 - share) * ((ON - OFF) * torch.eye(CLASSES)[label] + OFF))
    losses = run(
        TokenLabelTask(mix_token=False, labels=TokenLabelOptions(folder="", ground_truth=True)), network, batch
    )
    expected = soft_ce(network.cls[0], torch.stack(corrected)) + soft_ce(network.patch[0], patches)
    assert torch.allclose(losses["4x4"], expected, atol=1e-5)


def test_a_model_without_the_grids_patches_is_refused():
    network, batch = Answers(), labelled()
    network.patch[1] = torch.randn(4, 5, CLASSES)
    with pytest.raises(ValueError, match=r"6 patch logits.* 5"):
        run(TokenLabelTask(), network, batch)


def tiny() -> LVViT:
    network = LVViT(
        (32, 48), [TokenGrid(4, 6), TokenGrid(2, 2)], CLASSES, 24, 2, 2, drop_path_rate=0.0, stem_widths=(4, 4, 4)
    )
    return network.train()


@pytest.mark.parametrize("maps", [True, False])
def test_every_parameter_of_a_resizable_lvvit_learns(maps):
    network, batch = tiny(), labelled(maps=maps)
    for loss in run(TokenLabelTask(SelfDistillation(0.5)), network, batch, torch.randn(4, 3, 32, 48)).values():
        loss.backward()
    without = [name for name, parameter in network.named_parameters() if parameter.grad is None]
    assert without == []
    flat = [name for name, parameter in network.named_parameters() if not parameter.grad.abs().sum() > 0]
    assert flat == []


def test_the_teacher_gets_no_gradient_from_its_students():
    network, batch = tiny(), labelled()
    losses = TokenLabelTask(SelfDistillation(0.5)).losses(network, torch.randn(4, 3, 32, 48), batch)
    next(losses)
    next(losses)[1].backward()
    assert network.patch_embed.proj.weight.grad is None
    assert network.patch_embed.short["2x2"].proj.weight.grad is not None
    assert network.aux_head.weight.grad is not None


def test_a_picture_that_learns_its_map_answers_with_it():
    """Quarters of four kinds, told by their colour alone: after a few steps each patch has its quarter's class."""
    network = tiny()
    quarter = torch.tensor([[0, 1], [2, 3]])
    colours = torch.tensor([[2.0, 0, 0], [0, 2.0, 0], [0, 0, 2.0], [-2.0, 0, 0]])
    numbers = torch.stack([quarter, quarter.flip(0), quarter.flip(1), quarter.T])  # four pictures
    inputs = colours[numbers].permute(0, 3, 1, 2).repeat_interleave(16, 2).repeat_interleave(24, 3)
    cells = numbers.repeat_interleave(6, 1).repeat_interleave(6, 2).float()
    label_map = torch.stack([torch.full_like(cells, 9.0), cells], dim=1)[:, :, None]
    whole = torch.tensor([[0.0, 0.0, 1.0, 1.0]]).expand(4, 4)
    batch = Batch(
        inputs, torch.zeros(4, dtype=torch.int64), torch.arange(4), extras={"label_map": label_map, "crop": whole}
    )
    task, optimiser = TokenLabelTask(SelfDistillation(0.5)), torch.optim.AdamW(network.parameters(), lr=1e-2)
    for _ in range(40):
        optimiser.zero_grad()
        for loss in run(task, network, batch, inputs).values():
            loss.backward()
        optimiser.step()
    network.eval()
    for grid in network.grids:
        seen = network(inputs, grid).patch_logits.argmax(-1).view(4, grid.rows, grid.cols)
        wanted = numbers.repeat_interleave(grid.rows // 2, 1).repeat_interleave(grid.cols // 2, 2)
        assert (seen == wanted).float().mean() > 0.95
