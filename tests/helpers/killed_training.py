"""The training that killed_runs.py disturbs: what one of its two processes does, and notes."""

from __future__ import annotations

import io
import json
import os
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from revit.common.config.sections import ParallelOptions, RunOptions, TrainOptions
from revit.common.data.batch import Batch
from revit.common.data.build import train_loader
from revit.common.data.dataset import Sample
from revit.common.data.lists import SampleList
from revit.common.data.options import LoadingOptions
from revit.common.methods.revit.task import ResizableTask
from revit.common.models.base import Normalizer
from revit.common.system.distributed import start_distributed
from revit.common.system.log import RunLog, hush
from revit.common.training import state
from revit.common.training.trainer import Trainer
from revit.image.models.variants import VARIANTS

CPU = torch.device("cpu")
PROCESSES = 2
NUM_SAMPLES, EPOCHS = 27, 5
"""27 samples: three that fill no update are left out of every epoch."""
SAMPLES = SampleList.build([(f"{number}.png", 0) for number in range(NUM_SAMPLES)], None, "list")


def load(index: int, generator: torch.Generator) -> Sample:
    return Sample(torch.randint(256, (1, 3, 24, 24), dtype=torch.uint8, generator=generator), index % 3)


class Noted(ResizableTask):
    """Algorithm 1 that notes what it trains on before it does, and tells who watches."""

    def __init__(self, notes: Path, watcher: int) -> None:
        super().__init__()
        self.notes, self.watcher, self.update = (os.open(notes, os.O_WRONLY | os.O_APPEND | os.O_CREAT), watcher, 0)

    def begin(self, progress: Any) -> None:
        self.update = progress.update

    def losses(self, model: nn.Module, inputs: Tensor, batch: Batch) -> Iterator[tuple[str, Tensor]]:
        os.write(self.notes, f"{json.dumps([self.update, batch.ids.tolist()])}\n".encode())
        os.write(self.watcher, b"b")
        yield from super().losses(model, inputs, batch)


def groups_of(parallel: dict[str, Any]) -> int:
    """How many different batches are read at once."""
    return 1 if parallel["backend"] == "replicas" else PROCESSES


def slow_disk(watcher: int, hangs_at: int) -> Any:
    """torch as the states see it, whose files take a while to be written: somebody may be killed half-way. In state
    number `hangs_at` of this process they certainly are."""
    numbers = count(1)

    def save(content: object, file: Any) -> None:
        buffer = io.BytesIO()
        torch.save(content, buffer)
        half = len(buffer.getvalue()) // 2
        file.write(buffer.getvalue()[:half])
        file.flush()
        os.write(watcher, b"w")
        time.sleep(60 if next(numbers) == hangs_at else 0.01)
        file.write(buffer.getvalue()[half:])

    return SimpleNamespace(**{**vars(torch), "save": save})


def one_process(folder: Path, parallel: dict[str, Any], attempt: int, watcher: int, hangs_at: int) -> None:
    """A training from where it stands to its end; what `train` returns is written by rank 0."""
    torch.set_num_threads(1)
    context = start_distributed(CPU, 1)
    hush()
    state.torch = slow_disk(watcher, hangs_at)  # type: ignore[attr-defined]
    state.seed_all(5)
    network = VARIANTS["deit_small"].build(
        img_size=24, grids=["3x3", "2x2"], num_classes=3, embed_dim=8, depth=1, num_heads=2, drop_path_rate=0.3
    )
    groups = groups_of(parallel)
    options = TrainOptions.model_validate(
        {
            "batch_size": 4 // groups,
            "effective_batch": 8,
            "clip_grad_norm": 1.0,
            "ema": {"decay": 0.8},
            "optim": {"name": "adamw", "lr": 0.01},
            "schedule": {"name": "cosine", "epochs": EPOCHS, "warmup_epochs": 1},
        }
    )
    trained = Trainer(
        "model",
        network,
        Noted(folder / f"notes-{attempt}-{context.rank}", watcher),
        lambda rank, num_ranks: train_loader(
            load, SAMPLES, LoadingOptions(num_workers=0), options.batch_size, 1, rank=rank, num_ranks=num_ranks
        ),
        options,
        RunOptions(dir=folder, save_every=1, keep_states=2, dtype="float32"),
        device=CPU,
        normalizer=Normalizer((0.5,) * 3, (0.5,) * 3),
        log=RunLog(folder / "log.jsonl", context.is_main),
        parallel=ParallelOptions.model_validate(parallel),
        context=context,
    ).train()
    if context.is_main:
        torch.save(trained, folder / "trained.pt")
