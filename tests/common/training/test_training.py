"""Algorithm 1, accumulation, and training that goes on bit for bit after an interruption."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from revit.common.config.sections import OptimOptions, RunOptions, ScheduleOptions, TrainOptions
from revit.common.data.batch import Batch
from revit.common.data.broken import BrokenFiles
from revit.common.data.dataset import RobustDataset, Sample
from revit.common.data.loader import Loader
from revit.common.data.sampler import EpochSampler
from revit.common.methods.revit.task import ResizableTask, SelfDistillation
from revit.common.models.base import Normalizer
from revit.common.system.errors import UserError
from revit.common.system.log import RunLog
from revit.common.training.optim import build_optimizer, build_scheduler
from revit.common.training.parallel.backend import LocalBackend
from revit.common.training.state import random_states, restore_random_states, seed_all
from revit.common.training.trainer import Trainer
from revit.video.models.timesformer import TimeSformer

CPU = torch.device("cpu")
PIXELS = Normalizer((0.45,) * 3, (0.225,) * 3)


def batch_of(numbers: torch.Tensor) -> Batch:
    """A batch with these targets, and the same for ids."""
    return Batch(torch.empty(0, dtype=torch.uint8), numbers, numbers)


def small_model() -> TimeSformer:
    torch.manual_seed(3)
    return TimeSformer(16, [4, 2], 2, 3, 16, 2, 2, drop_path_rate=0.5, pos_std=0.5, time_std=0.5)


def make_loader(num_samples: int = 12, batch_size: int = 2, workers: int = 0) -> Loader:
    def load(index: int, generator: torch.Generator) -> Sample:
        pixels = torch.randint(0, 256, (1, 3, 2, 16, 16), dtype=torch.uint8, generator=generator)
        return Sample(pixels, index % 3)

    dataset = RobustDataset(load, num_samples, seed=1, training=True)
    sampler = EpochSampler(num_samples, seed=1, shuffle=True)
    return Loader(dataset, sampler, BrokenFiles(num_samples), batch_size, num_workers=workers, drop_last=True)


def make_trainer(folder, epochs: int = 3, accumulate: int = 2, save_every: int | None = 1, **changes) -> Trainer:
    options = TrainOptions(
        batch_size=2,
        effective_batch=2 * accumulate,
        clip_grad_norm=1.0,
        optim=OptimOptions(name="adamw", lr=1e-2),
        schedule=ScheduleOptions(name="cosine", epochs=epochs, warmup_epochs=1),
    )
    return Trainer(
        "model",
        changes.pop("model", None) or small_model(),
        ResizableTask(),
        lambda rank, num_ranks: make_loader(),
        options,
        RunOptions(dir=folder, log_every=1, save_every=save_every),
        device=CPU,
        normalizer=PIXELS,
        log=RunLog(folder / "log.jsonl"),
    )


def test_algorithm_1_is_one_step_on_the_sum_of_all_grids_losses():
    model = small_model().eval()  # eval: no stochastic depth between the two routes
    inputs, targets = torch.randn(4, 3, 2, 16, 16), torch.tensor([0, 1, 2, 0])
    task = ResizableTask(SelfDistillation(0.7, 2.0))
    for _, loss in task.losses(model, inputs, batch_of(targets)):
        loss.backward()
    one_by_one = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}

    model.zero_grad()
    outputs = [model(inputs, grid) for grid in model.grids]
    total = nn.functional.cross_entropy(outputs[0].logits, targets) + task.distill(
        outputs[1], outputs[0].logits.detach(), targets
    )
    total.backward()
    assert set(one_by_one) == {name for name, weight in model.named_parameters() if weight.grad is not None}
    for name, weight in model.named_parameters():
        if weight.grad is not None:
            assert torch.allclose(one_by_one[name], weight.grad, atol=1e-6), name


def test_losses_come_longest_first_and_one_at_a_time():
    """The second grid's forward pass must not run before the first one's backward: memory holds one graph."""
    model, seen = small_model(), []
    model.register_forward_hook(lambda _, args, __: seen.append(args[1].name))
    losses = ResizableTask().losses(model, torch.randn(2, 3, 2, 16, 16), batch_of(torch.tensor([0, 1])))
    name, _ = next(losses)
    assert (name, seen) == ("4x4", ["4x4"])
    name, _ = next(losses)
    assert (name, seen) == ("2x2", ["4x4", "2x2"])


def test_accumulated_batches_equal_one_large_batch():
    models = [small_model().eval() for _ in range(2)]
    inputs, targets = torch.randn(4, 3, 2, 16, 16), torch.tensor([0, 1, 2, 0])
    for model, pieces in zip(models, (1, 2)):
        backend = LocalBackend(CPU, accumulate=pieces)
        optimizer = build_optimizer(model, OptimOptions(lr=0.1))
        backend.prepare(model, optimizer, build_scheduler(optimizer, ScheduleOptions(name="constant"), 1))
        updates = []
        for x, y in zip(inputs.chunk(pieces), targets.chunk(pieces)):
            for _, loss in ResizableTask().losses(model, x, batch_of(y)):
                backend.backward(loss)
            updates.append(backend.step())
        assert updates == [False] * (pieces - 1) + [True]
    for one, two in zip(models[0].parameters(), models[1].parameters()):
        assert torch.allclose(one, two, atol=1e-6)


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("stop_after", [1, 3, 4, 7, 11])
@pytest.mark.parametrize("save_every", [1, 2, None])
def test_an_interrupted_training_ends_with_the_same_weights(tmp_path, stop_after, save_every):
    whole = make_trainer(tmp_path / "whole", save_every=save_every)
    whole.train()
    history = whole.position.losses

    broken_off = make_trainer(tmp_path / "parts", save_every=save_every)
    steps = iter(range(stop_after))
    original = broken_off.backend.step

    def step() -> bool:
        if next(steps, None) is None:
            raise Interrupted
        return original()

    broken_off.backend.step = step
    with pytest.raises(Interrupted):
        broken_off.train()
    torch.manual_seed(99)  # another process has another random state
    resumed = make_trainer(tmp_path / "parts", save_every=save_every)
    resumed.train()
    position = resumed.position
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(weight, resumed.model.state_dict()[name]), name
    assert len(position.losses) == 3
    if save_every is None:  # interrupted between epochs' ends: the meters saw whole epochs
        assert position.losses == history


def mixing(inputs, batch):
    """Draws from all three global generators, as timm's mixing and erasing do."""
    share = (random.random() + np.random.rand() + torch.rand(1).item()) / 3  # noqa: NPY002
    one_hot = nn.functional.one_hot(batch.targets, 3).float()
    soft = share * one_hot + (1 - share) * one_hot.flip(0)
    return share * inputs + (1 - share) * inputs.flip(0), replace(batch, targets=soft)


def test_augmentation_of_batches_goes_on_bit_for_bit(tmp_path):
    random.seed(5)
    np.random.seed(5)  # noqa: NPY002
    whole = make_trainer(tmp_path / "whole")
    whole.augment = mixing
    states = random_states()
    whole.train()
    history = whole.position.losses
    plain = make_trainer(tmp_path / "plain")
    plain.train()
    assert plain.position.losses != history  # it does something

    restore_random_states(states)
    broken_off = make_trainer(tmp_path / "parts")
    batches = iter(range(7))

    def until_interrupted(inputs, batch):
        if next(batches, None) is None:
            raise Interrupted
        return mixing(inputs, batch)

    broken_off.augment = until_interrupted
    with pytest.raises(Interrupted):
        broken_off.train()
    seed_all(99)  # another process
    resumed = make_trainer(tmp_path / "parts")
    resumed.augment = mixing
    resumed.train()
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(weight, resumed.model.state_dict()[name]), name


def test_a_finished_training_is_not_done_again(tmp_path):
    make_trainer(tmp_path).train()
    again = make_trainer(tmp_path)
    again.backend.step = None  # would raise if a batch were trained
    again.train()
    assert again.position.epoch == 3


def test_a_loss_that_is_not_finite_stops_with_the_ids(tmp_path):
    model = small_model()
    with torch.no_grad():
        model.head.bias.fill_(float("nan"))
    with pytest.raises(UserError, match=r"not finite at update 0.*sample ids of the batch: \["):
        make_trainer(tmp_path, model=model).train()


def test_a_list_too_short_for_one_update_is_refused(tmp_path):
    with pytest.raises(UserError, match="12 samples do not fill one update of 8 x 2"):
        make_trainer(tmp_path, accumulate=8).train()


def test_the_loss_falls(tmp_path):
    def load(index: int, generator: torch.Generator) -> Sample:
        pixels = torch.full((1, 3, 2, 16, 16), 60 * (index % 3), dtype=torch.uint8)
        return Sample(pixels, index % 3)

    trainer = make_trainer(tmp_path, epochs=6, accumulate=1)
    trainer.loader.dataset.load = load
    trainer.train()
    losses = trainer.position.losses
    for grid in ("4x4", "2x2"):
        assert losses[-1][grid] < 0.7 * losses[0][grid]


def test_effective_batch_must_be_a_multiple():
    assert TrainOptions(batch_size=8, effective_batch=64).accumulate_over(1) == 8
    with pytest.raises(ValueError, match="multiple"):
        TrainOptions(batch_size=6, effective_batch=64)
