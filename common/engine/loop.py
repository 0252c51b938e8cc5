"""The training loop: next batch, forward, backward, step, log, save. It knows a task and a backend, no method."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from revit.common.data.batch import Batch
from revit.common.data.loader import Loader
from revit.common.engine.backend import LocalBackend
from revit.common.engine.log import RunLog, progress
from revit.common.engine.state import load_newest_state, random_states, restore_random_states, save_state
from revit.common.engine.task import BatchAugment, Task
from revit.common.errors import UserError


@dataclass
class Position:
    """How far a training has come."""

    epoch: int = 0
    batch: int = 0
    """Batches of this epoch already trained on."""
    losses: list[dict[str, float]] = field(default_factory=list)
    """Mean loss per name, one entry per finished epoch."""


@dataclass
class Trainer:
    """Trains `model` for a number of epochs and can be interrupted anywhere."""

    model: nn.Module
    task: Task
    backend: LocalBackend
    pixels: nn.Module
    loader: Loader
    num_epochs: int
    folder: Path
    log: RunLog
    name: str = "model"
    log_every: int = 20
    save_every: int | None = None
    augment: BatchAugment | None = None
    """Mixing and erasing of normalised batches; draws from the global generators only, so that a resume repeats it."""
    average: ModelEmaV3 | None = None
    """A moving average of the model's weights, moved with every update."""
    after_epoch: Callable[[int], None] | None = None
    """Called with the number of finished epochs, after their state was saved; must leave random states alone."""

    @property
    def batches_per_epoch(self) -> int:
        """A multiple of the backend's `accumulate`: an update never mixes two epochs, what is over is not read.

        Raises UserError for a list too short for one update.
        """
        updates = self.loader.batches_per_epoch // self.backend.accumulate
        if updates == 0:
            raise UserError(
                f"{self.name}: {self.loader.num_samples} samples do not fill one update of "
                f"{self.backend.accumulate} x {self.loader.batch_size}; lower batch_size or effective_batch"
            )
        return updates * self.backend.accumulate

    def train(self) -> Position:
        """Run to the end, from the newest state in `folder`.

        Raises UserError on a loss that is not finite or too many broken files.
        """
        position = self._resume()
        with progress(self.name, self.num_epochs * self.batches_per_epoch) as update_bar:
            update_bar(advance=position.epoch * self.batches_per_epoch + position.batch)
            while position.epoch < self.num_epochs:
                self._epoch(position, update_bar)
        return position

    def _epoch(self, position: Position, update_bar: Callable[..., None]) -> None:
        self.model.train()
        meter = Meter()
        waited_since = time.perf_counter()
        self.loader.set_epoch(position.epoch, position.batch)
        for batch in self.loader:
            batch = batch.to(self.backend.device)
            meter.data_seconds += time.perf_counter() - waited_since
            self._check(self._train_batch(batch, meter), batch)
            position.batch += 1
            updated = self.backend.step()
            if updated and self.average is not None:
                self.average.update(self.model)
            meter.seconds += time.perf_counter() - waited_since
            update_bar(note=meter.note(self.num_epochs, position.epoch))
            if updated and self.backend.num_updates % self.log_every == 0:
                self._log(meter, position)
            if updated and self.save_every and self.backend.num_updates % self.save_every == 0:
                self._save(position)
            if position.batch == self.batches_per_epoch:
                break
            waited_since = time.perf_counter()
        if position.batch < self.batches_per_epoch:
            raise UserError(
                f"epoch {position.epoch} ended after {position.batch} of {self.batches_per_epoch} batches: "
                "the loader gave fewer samples than its list has"
            )
        position.epoch, position.batch = position.epoch + 1, 0
        position.losses.append(meter.means())
        self._log(meter, position, event="epoch")
        self._save(position)
        if self.after_epoch is not None:
            self.after_epoch(position.epoch)

    def _train_batch(self, batch: Batch, meter: Meter) -> dict[str, Tensor]:
        with self.backend.autocast():
            inputs = self.pixels(batch.inputs)
            if self.augment is not None:
                inputs, batch = self.augment(inputs, batch)
            losses = {}
            for name, loss in self.task.losses(self.model, inputs, batch):
                self.backend.backward(loss)
                losses[name] = loss.detach()
        meter.add({name: float(loss) for name, loss in losses.items()}, len(batch))
        return losses

    def _check(self, losses: dict[str, Tensor], batch: Batch) -> None:
        bad = {name: float(loss) for name, loss in losses.items() if not math.isfinite(loss)}
        if bad:
            raise UserError(
                f"{self.name}: loss is not finite at update {self.backend.num_updates}: {bad}; sample ids of the batch: "
                f"{batch.ids.tolist()}. Lower the learning rate, clip gradients (clip_grad_norm) or use float32; "
                "the last good state is kept"
            )

    def _log(self, meter: Meter, position: Position, event: str = "train") -> None:
        self.log.write(
            event,
            stage=self.name,
            epoch=position.epoch,
            update=self.backend.num_updates,
            lr=self.backend.learning_rate,
            **meter.facts(),
            broken_files=self.loader.broken.num_broken,
        )
        if event == "epoch":
            self.log.say(f"{self.name}: epoch {position.epoch}/{self.num_epochs}  {meter}")

    def _save(self, position: Position) -> None:
        state: dict[str, Any] = {
            "backend": self.backend.state_dict(),
            "position": {"epoch": position.epoch, "batch": position.batch, "losses": position.losses},
            "random": random_states(),
            "broken": self.loader.broken.state_dict(),
        }
        if self.average is not None:
            state["average"] = self.average.module.state_dict()
        save_state(self.folder, self.backend.num_updates, state)

    def _resume(self) -> Position:
        state = load_newest_state(self.folder)
        if state is None:
            return Position()
        self.backend.load_state_dict(state["backend"])
        if self.average is not None:
            self.average.module.load_state_dict(state["average"])
        restore_random_states(state["random"])
        self.loader.broken.load_state_dict(state["broken"])
        position = Position(**state["position"])
        self.log.say(f"{self.name}: going on at epoch {position.epoch}, batch {position.batch}")
        return position


@dataclass
class Meter:
    """Means over the part of an epoch that this process has seen."""

    sums: dict[str, float] = field(default_factory=dict)
    num_batches: int = 0
    num_samples: int = 0
    seconds: float = 0.0
    data_seconds: float = 0.0

    def add(self, losses: dict[str, float], num_samples: int) -> None:
        for name, loss in losses.items():
            self.sums[name] = self.sums.get(name, 0.0) + loss
        self.num_batches += 1
        self.num_samples += num_samples

    def means(self) -> dict[str, float]:
        return {name: total / max(self.num_batches, 1) for name, total in self.sums.items()}

    def facts(self) -> dict[str, Any]:
        memory = torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else None
        return {
            "loss": self.means(),
            "samples_per_second": self.num_samples / max(self.seconds, 1e-9),
            "data_share": self.data_seconds / max(self.seconds, 1e-9),
            **({} if memory is None else {"peak_memory_mb": memory}),
        }

    def note(self, num_epochs: int, epoch: int) -> str:
        return f"epoch {epoch + 1}/{num_epochs}  {self}"

    def __str__(self) -> str:
        losses = "  ".join(f"{name} {loss:.3f}" for name, loss in self.means().items())
        rate = self.num_samples / max(self.seconds, 1e-9)
        return (
            f"loss {losses}  {rate:.1f}/s  waiting for data {self.data_seconds / max(self.seconds, 1e-9):.0%}"
        )
