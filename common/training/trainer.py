"""The training loop: next batch, forward, backward, step, log, save. It knows a task and a backend, no method."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from timm.utils import ModelEmaV3
from torch import Tensor, nn

from revit.common.data.batch import Batch
from revit.common.data.loader import Loader
from revit.common.methods.task import BatchAugment, Progress, Task
from revit.common.system.distributed import World
from revit.common.system.errors import UserError
from revit.common.system.log import RunLog, progress
from revit.common.system.stop import StopRequest
from revit.common.training.loss_reader import BatchLosses, LossReader
from revit.common.training.meter import Meter
from revit.common.training.optim import MovedSchedule
from revit.common.training.parallel.backend import Backend
from revit.common.training.resume import Position, States

FINE, STOP, BROKEN = range(3)
"""What the processes tell each other before an update; the largest counts."""
BadLoss = tuple[int, str]
"""Updates made before a batch whose loss was not finite, and what to say of it."""


def forward_backward(
    model: nn.Module,
    task: Task,
    backend: Backend,
    normalizer: nn.Module,
    batch: Batch,
    now: Progress,
    augment: BatchAugment | None = None,
) -> dict[str, Tensor]:
    """Add the gradients of one batch, which is on the device, and return its losses by name.

    What all token grids share is done here, once: normalisation and augmentation. `backend.step()` ends the batch.
    """
    task.begin(now)
    with backend.autocast():
        inputs = normalizer(batch.inputs)
        if augment is not None:
            inputs, batch = augment(inputs, batch)
        losses: dict[str, Tensor] = {}
        for name, loss in task.losses(model, inputs, batch):
            backend.backward(loss)
            losses[name] = loss.detach()
    return losses


@dataclass
class Trainer:
    """Trains `model` for a number of epochs and can be interrupted anywhere. Every process has one."""

    model: nn.Module
    """To be called: what the backend's `prepare` gave."""
    task: Task
    backend: Backend
    normalizer: nn.Module
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
    world: World = field(default_factory=World)
    stop: StopRequest = field(default_factory=StopRequest)
    schedule: MovedSchedule | None = None
    """What the backend steps, if it is to survive another effective batch."""
    keep_states: int = 2
    parallel: Mapping[str, Any] = field(default_factory=dict)
    """How the processes train together, for the line that says what changed."""

    @property
    def batches_per_epoch(self) -> int:
        """A multiple of the backend's `accumulate`: an update never mixes two epochs, what is over is not read.

        Raises UserError for a list too short for one update.
        """
        updates = self.loader.batches_per_epoch // self.backend.accumulate
        if updates == 0:
            ranks = self.loader.sampler.num_ranks
            processes = f" in {ranks} processes" if ranks > 1 else ""
            raise UserError(
                f"{self.name}: {self.loader.num_samples} samples do not fill one update of "
                f"{self.backend.accumulate} x {self.loader.batch_size}{processes}; lower batch_size or effective_batch"
            )
        return updates * self.backend.accumulate

    def train(self) -> Position:
        """Run to the end, from the newest state in `folder`.

        Raises UserError on a loss that is not finite or too many broken files, Stopped when asked to end.
        """
        states = States(self)
        position = states.resume()
        with self.stop.waiting(), progress(self.name, self.num_epochs * self.batches_per_epoch) as update_bar:
            update_bar(advance=position.epoch * self.batches_per_epoch + self._batches_of(position))
            while position.epoch < self.num_epochs:
                self._epoch(position, states, update_bar)
        return position

    def _epoch(self, position: Position, states: States, update_bar: Callable[..., None]) -> None:
        self.model.train()
        meter = Meter()
        reader = LossReader(self.backend.works_behind)
        start = position.samples
        self.loader.set_position(position.epoch, start)
        num_batches = len(self.loader) // self.backend.accumulate * self.backend.accumulate
        broken: list[BadLoss] = []
        now = self._progress(position)
        whose = "this process alone: " if self.world.size > 1 else ""
        waited_since = time.perf_counter()
        for number, batch in enumerate(self._read(num_batches), 1):
            batch = batch.to(self.backend.device)
            meter.data_seconds += time.perf_counter() - waited_since
            broken += self._heed(
                reader.put(
                    forward_backward(
                        self.model, self.task, self.backend, self.normalizer, batch, now, self.augment
                    ),
                    batch,
                    self.backend.num_updates,
                ),
                meter,
            )
            ends_update = number % self.backend.accumulate == 0
            asked = self._agree(broken) if ends_update or self.world.size == 1 else FINE
            position.samples = min(start + self.loader.samples_in(number), self.loader.num_samples)
            updated = self.backend.step()
            if ends_update:
                now = self._progress(position)
            if updated and self.average is not None:
                with self.backend.whole() as network:
                    self.average.update(network)
            meter.seconds += time.perf_counter() - waited_since
            update_bar(note=f"epoch {position.epoch + 1}/{self.num_epochs}  {whose}{meter}")
            is_last = number == num_batches
            if updated and self.backend.num_updates % self.log_every == 0:
                self._settle(reader, meter)
                self._log(meter, position, num_batches - number)
            if ends_update and not is_last:
                saves = updated and self.save_every and self.backend.num_updates % self.save_every == 0
                if saves or asked == STOP:
                    self._settle(reader, meter)
                    states.save(position)
                if asked == STOP:
                    raise self._stopped(position)
            waited_since = time.perf_counter()
        self._settle(reader, meter)
        meter.seconds += time.perf_counter() - waited_since
        if meter.num_batches < num_batches:
            raise UserError(
                f"epoch {position.epoch + 1} ended after {meter.num_batches} of {num_batches} batches: "
                "the loader gave fewer samples than its list has"
            )
        everyone = meter.over(self.world, self.loader.sampler.num_ranks)
        position.epoch, position.samples = position.epoch + 1, 0
        position.losses.append(everyone.means())
        self._log(everyone, position, 0, event="epoch")
        states.save(position)
        if self._agree([]) == STOP:
            raise self._stopped(position)
        states.watch(position.epoch)

    def _read(self, num_batches: int) -> Iterator[Batch]:
        iterator = iter(self.loader)
        for _ in range(num_batches):
            with self.world.own_errors():
                batch = next(iterator, None)
            if batch is None:
                return
            yield batch

    def _heed(self, read: Sequence[BatchLosses], meter: Meter) -> list[BadLoss]:
        """Counts what was read. Returns what is wrong with it, if anything is."""
        where = f"rank {self.world.rank}: " if self.world.size > 1 else ""
        found: list[BadLoss] = []
        for one in read:
            meter.add(one.values, one.num_samples)
            bad = {name: value for name, value in one.values.items() if not math.isfinite(value)}
            if bad:
                found.append((one.update, f"{where}{bad}; sample ids of the batch: {one.ids.tolist()}"))
        return found

    def _settle(self, reader: LossReader, meter: Meter) -> None:
        """Read every loss there is, so that what is saved or said next is good. Called by all processes; raises UserError
        as `_agree` does."""
        if reader.late:
            self._agree(self._heed(reader.rest(), meter))

    def _agree(self, broken: list[BadLoss]) -> int:
        """What all processes do next. Raises UserError, everywhere, if a loss was not finite on any of them."""
        wish = BROKEN if broken else STOP if self.stop.asked is not None else FINE
        agreed = self.world.largest(wish)
        if agreed == BROKEN:
            found = [one for everyones in self.world.gather(broken) for one in everyones]
            facts = "; ".join(fact for _, fact in found)
            raise UserError(
                f"{self.name}: loss is not finite at update {min(found)[0]}: {facts}. Lower the learning rate, "
                "clip gradients (clip_grad_norm) or use float32; the last good state is kept"
            )
        return agreed

    def _stopped(self, position: Position) -> Exception:
        where = f"{self.name} is saved {position}"
        self.stop.asked = self.stop.asked or "another process"
        return self.stop.stopped(where)

    def _log(self, meter: Meter, position: Position, batches_left: int, event: str = "train") -> None:
        if event == "train":
            meter = meter.over(self.world, self.loader.sampler.num_ranks)
        # Of the present epoch `batches_left`, and the epochs after it; of an epoch that ended those that are not begun.
        after = self.num_epochs - position.epoch - (event == "train")
        left = batches_left + after * self.batches_per_epoch
        self.log.write(
            event,
            stage=self.name,
            epoch=position.epoch + (event == "train"),
            update=self.backend.num_updates,
            lr=self.backend.learning_rate,
            **meter.facts(left),
            broken_files=self.loader.broken.num_broken,
        )
        if event == "epoch":
            # Of an epoch that another number of processes began there may be less left than these read at once.
            trained = (
                meter if meter.num_batches else "what is left of it fills no update here and is left out"
            )
            self.log.say(f"{self.name}: epoch {position.epoch}/{self.num_epochs}  {trained}")
        else:
            self.log.say(
                f"{self.name}: epoch {position.epoch + 1}/{self.num_epochs}  update {self.backend.num_updates}  "
                f"{meter.line(left)}"
            )

    def _progress(self, position: Position) -> Progress:
        epochs = position.epoch + position.samples / max(self.loader.num_samples, 1)
        per_epoch = self.batches_per_epoch // self.backend.accumulate
        number = position.epoch * per_epoch + self._batches_of(position) // self.backend.accumulate + 1
        after = number / (self.num_epochs * per_epoch)
        return Progress(self.backend.num_updates, epochs / self.num_epochs, after)

    def _batches_of(self, position: Position) -> int:
        return position.samples // max(self.loader.samples_in(1), 1)

    def facts(self) -> dict[str, Any]:
        """What the next resume compares: who trained, and on how much at once."""
        ranks, accumulate = self.loader.sampler.num_ranks, self.backend.accumulate
        return {
            "processes": self.world.size,
            "reading": ranks,
            "batch_size": self.loader.batch_size,
            "effective_batch": self.loader.batch_size * ranks * accumulate,
            "dtype": self.backend.dtype,
            "parallel": dict(self.parallel),
        }
