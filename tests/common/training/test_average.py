"""The moving average of the weights: its arithmetic, which set is the model, and going on after an interruption."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from revit.common.config.sections import RunOptions, TrainOptions
from revit.common.data.batch import Batch
from revit.common.data.broken import BrokenFiles
from revit.common.data.dataset import RobustDataset, Sample
from revit.common.data.loader import Loader
from revit.common.data.sampler import EpochSampler
from revit.common.models.base import Normalizer
from revit.common.system.log import RunLog
from revit.common.training.trainer import Trainer

DECAY, LR = 0.8, 0.5
NUM_UPDATES = 6  # two epochs of six batches, two of them an update


class Slope:
    """A loss whose gradient is 1 for every weight, so that plain SGD moves every weight by the learning rate."""

    def begin(self, progress):
        """Nothing to prepare."""

    def losses(self, model: nn.Module, inputs: torch.Tensor, batch: Batch):
        yield "slope", sum(weight.sum() for weight in model.parameters())


def make_loader() -> Loader:
    def load(index: int, generator: torch.Generator) -> Sample:
        return Sample(torch.zeros(1, 3, 2, 2, dtype=torch.uint8), 0)

    dataset = RobustDataset(load, 6, seed=0, training=True)
    return Loader(dataset, EpochSampler(6, seed=0, shuffle=True), BrokenFiles(6), 1, num_workers=0, drop_last=True)


def run(folder, use: bool | None, network: nn.Module, **more) -> dict[str, dict[str, torch.Tensor]]:
    options = TrainOptions(
        batch_size=1,
        effective_batch=2,
        ema=None if use is None else {"decay": DECAY, "use": use},
        optim={"name": "sgd", "lr": LR, "weight_decay": 0},
        schedule={"name": "constant", "epochs": 2},
    )
    return Trainer(
        "model",
        network,
        more.pop("task", Slope()),
        lambda rank, num_ranks: make_loader(),
        options,
        RunOptions(dir=folder, save_every=1),
        device=torch.device("cpu"),
        normalizer=Normalizer((0.5,) * 3, (0.5,) * 3),
        log=RunLog(folder / "log.jsonl"),
        **more,
    ).train()


def one_weight() -> nn.Module:
    network = nn.Linear(1, 1, bias=False)
    nn.init.constant_(network.weight, 10.0)
    return network


@pytest.fixture
def plain_sgd(monkeypatch):
    """timm's "sgd" is Nesterov, which wants a momentum."""
    monkeypatch.setattr(
        "revit.common.training.trainer.build_optimizer",
        lambda network, options: torch.optim.SGD(network.parameters(), options.lr),
    )


@pytest.mark.usefixtures("plain_sgd")
def test_the_average_moves_with_updates_not_with_batches(tmp_path):
    average = weight = 10.0
    for _ in range(NUM_UPDATES):
        weight -= LR
        average = DECAY * average + (1 - DECAY) * weight
    trained = run(tmp_path, False, one_weight())
    assert trained["model"]["weight"].item() == pytest.approx(weight)
    assert trained["ema"]["weight"].item() == pytest.approx(average)


@pytest.mark.usefixtures("plain_sgd")
def test_use_says_which_weights_are_the_model(tmp_path):
    watched = []
    trained = run(tmp_path / "a", True, one_weight(), watch=lambda network: watched.append(network))
    other = run(tmp_path / "b", False, one_weight())
    assert set(trained) == {"model", "raw"}
    assert torch.equal(watched[0].weight, trained["model"]["weight"])
    assert torch.equal(trained["model"]["weight"], other["ema"]["weight"])
    assert torch.equal(trained["raw"]["weight"], other["model"]["weight"])
    assert set(run(tmp_path / "c", None, one_weight())) == {"model"}


class Interrupted(Exception):
    pass


@pytest.mark.usefixtures("plain_sgd")
@pytest.mark.parametrize("stop_after", [1, 5, 9])
def test_an_interrupted_average_ends_the_same(tmp_path, stop_after):
    whole = run(tmp_path / "whole", True, one_weight())

    class Stops(Slope):
        batches = itertools.count()

        def losses(self, model, inputs, batch):
            if next(self.batches) == stop_after:
                raise Interrupted
            yield from super().losses(model, inputs, batch)

    with pytest.raises(Interrupted):
        run(tmp_path / "parts", True, one_weight(), task=Stops())
    resumed = run(tmp_path / "parts", True, one_weight())
    for part in ("model", "raw"):
        assert torch.equal(whole[part]["weight"], resumed[part]["weight"])
