"""A small training that notes what it trains on, for tests that interrupt it."""

from __future__ import annotations

import torch
from torch import nn

from revit.common.config.sections import RunOptions, TrainOptions
from revit.common.data.batch import Batch
from revit.common.data.build import train_loader
from revit.common.data.dataset import Sample
from revit.common.data.lists import SampleList
from revit.common.data.options import LoadingOptions
from revit.common.models.base import Normalizer
from revit.common.system.log import RunLog
from revit.common.training.trainer import Trainer

NUM_SAMPLES, EPOCHS = 22, 3
SAMPLES = SampleList.build([(f"{number}.png", 0) for number in range(NUM_SAMPLES)], None, "list")


def load(index: int, generator: torch.Generator) -> Sample:
    return Sample(torch.randint(256, (1, 3, 2, 2), dtype=torch.uint8, generator=generator), index % 3)


class Noted:
    """A task that notes what it trains on and may be interrupted by it; dropout makes it depend on random states."""

    def __init__(self, interrupt=lambda number: None) -> None:
        self.ids: list[list[int]] = []
        self.interrupt = interrupt

    def begin(self, progress):
        """Nothing to prepare."""

    def losses(self, model: nn.Module, inputs: torch.Tensor, batch: Batch):
        self.ids.append(batch.ids.tolist())
        self.interrupt(len(self.ids))
        dropped = nn.functional.dropout(inputs.flatten(1), 0.3)
        yield "loss", nn.functional.cross_entropy(model(dropped), batch.targets)


def run(folder, task=None, *, ranks=1, rank=0, batch_size=2, stop=None, network=None, **more):
    """The weights after training, as one of `ranks` that read different samples."""
    torch.manual_seed(5)
    network = network or nn.Linear(12, 3)
    settings = {
        "batch_size": batch_size,
        "effective_batch": more.pop("effective_batch", 4),
        "optim": {"name": "adamw", "lr": 0.01},
        "schedule": {"name": "cosine", "epochs": EPOCHS, "warmup_epochs": 1},
    }
    options = TrainOptions(**(settings | more.pop("train", {})))
    return Trainer(
        "model",
        network,
        task or Noted(),
        lambda *_: train_loader(
            load, SAMPLES, LoadingOptions(num_workers=0), batch_size, 1, rank=rank, num_ranks=ranks
        ),
        options,
        RunOptions(dir=folder, save_every=1, keep_states=3),
        device=torch.device("cpu"),
        normalizer=Normalizer((0.5,) * 3, (0.5,) * 3),
        log=RunLog(folder / "log.jsonl"),
        stop=stop,
        **more,
    ).train()["model"]


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(weight, two[name]) for name, weight in one.items())
