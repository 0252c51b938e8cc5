"""The training loop: next batch, forward, backward, step, log, save. It knows a task and a backend, no method."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any, Generic, TypeVar, cast

import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from revit.common.config.sections import ParallelOptions, RunOptions, TrainOptions
from revit.common.data.batch import Batch
from revit.common.data.dataset import sample_seed
from revit.common.data.loader import Loader
from revit.common.methods.task import BatchAugment, Progress, Task
from revit.common.system.device import to_cpu
from revit.common.system.distributed import ALONE, DistributedContext
from revit.common.system.errors import Stopped, UserError
from revit.common.system.log import RunLog, progress
from revit.common.system.processes import StopRequest
from revit.common.training.meter import BatchLosses, LossReader, Meter
from revit.common.training.optim import MovedSchedule, build_optimizer, build_scheduler, freeze, hold_frozen_statistics
from revit.common.training.pace import FirstEstimate, Rest
from revit.common.training.parallel.backend import DEFAULT, Backend
from revit.common.training.parallel.backends import divide, make_backend, start_facts, start_line
from revit.common.training.run_folder import states_folder
from revit.common.training.state import Position, States, seed_all

Network = TypeVar("Network", bound=nn.Module)
Weights = dict[str, Tensor]
Watch = Callable[[int], None]
"""Function called with the number of finished epochs, after their state was saved; must leave random states alone."""

FINE, STOP, BROKEN = range(3)
"""Wishes of a process before an update; the largest of all processes counts."""


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
            if loss.requires_grad:  # not where all that a token grid uses is frozen
                backend.backward(loss)
            losses[name] = loss.detach()
    return losses


class Trainer(Generic[Network]):
    """Trains `network` for a number of epochs and can be interrupted anywhere. Every process of `context` has one.

    network: equal on all processes.  make_loader: (rank, number) of those processes that read different samples -> loader.
    augment: mixing and erasing of normalised batches; draws from the global generators only, so that a resume repeats it.
    watch: the network to use (the average of the weights, if that is to be the model) -> what to call after epochs.
    enough: number of finished epochs -> whether the training ends there; says the same whenever it is asked.
    rest: what follows the training takes so long, for the estimate that is said after the first batches.

    Raises UserError for a list too short for one update, and for settings that the processes cannot train with.
    """

    def __init__(
        self,
        name: str,
        network: Network,
        task: Task,
        make_loader: Callable[[int, int], Loader],
        options: TrainOptions,
        run: RunOptions,
        *,
        device: torch.device,
        normalizer: nn.Module,
        log: RunLog,
        parallel: ParallelOptions = DEFAULT,
        context: DistributedContext = ALONE,
        stop: StopRequest | None = None,
        augment: BatchAugment | None = None,
        watch: Callable[[Network], Watch | None] = lambda network: None,
        enough: Callable[[int], bool] = lambda epoch: False,
        rest: Rest | None = None,
    ) -> None:
        self.name, self.task, self.log, self.context, self.augment = name, task, log, context, augment
        self.enough, self.rest = enough, rest
        self.stop = stop or StopRequest()
        self.num_epochs = options.schedule.total_epochs
        self.log_every, self.save_every, self.keep_states = run.log_every, run.save_every, run.keep_states
        self.folder = states_folder(run.dir, name)
        freeze(network, options.freeze)
        network.to(device)
        self.normalizer = normalizer.to(device)
        self.average = ModelEmaV3(network, decay=options.ema.decay) if options.ema is not None else None
        self.uses_average = options.ema is not None and options.ema.use
        division = divide(parallel, network, context)
        self.backend = make_backend(division, parallel, options, task, device, run.dtype)
        facts = start_facts(division, self.backend, parallel, options, context)
        log.say(f"{name}: {start_line(facts)}")
        log.write("start", stage=name, **facts)
        self.loader = make_loader(division.rank, division.num_ranks)
        ranks = self.loader.sampler.num_ranks
        self.facts = {
            "processes": context.size,
            "reading": ranks,
            "batch_size": self.loader.batch_size,
            "effective_batch": self._samples_at_once * self.backend.accumulate,
            "dtype": self.backend.dtype,
            "parallel": parallel.model_dump(mode="json") | {"backend": division.backend},
        }
        """What the next resume compares: who trained, and on how much at once."""
        self.updates_per_epoch = self._updates_per_epoch()
        averaged = self.average is not None and self.uses_average
        self.after_epoch = watch(cast(Network, cast(Any, self.average).module) if averaged else network)
        optimizer = build_optimizer(network, options.optim)
        schedule = build_scheduler(optimizer, options.schedule, self.updates_per_epoch)
        self.schedule = MovedSchedule(schedule, self.updates_per_epoch)
        self.model = self.backend.prepare(network, optimizer, self.schedule)
        self.position = Position()
        if division.rank:  # the first goes on with the random numbers it has
            seed_all(sample_seed(run.seed, 0, division.rank))

    def _updates_per_epoch(self) -> int:
        """Count the updates of an epoch: none mixes two epochs, what is over is not read."""
        accumulate, ranks = self.backend.accumulate, self.loader.sampler.num_ranks
        updates = self.loader.batches_per_epoch // accumulate
        if updates == 0:
            processes = f" in {ranks} processes" if ranks > 1 else ""
            raise UserError(
                f"{self.name}: {self.loader.num_samples} samples do not fill one update of {accumulate} x "
                f"{self.loader.batch_size}{processes}; lower batch_size or effective_batch"
            )
        return updates

    def train(self) -> dict[str, Weights]:
        """Train to the end, from the newest state there is, and return the weights on the CPU.

        Under "model" are those to use; where an average of the weights is kept, the other set is under "raw" (the average
        is the model) or "ema" (the trained weights are).

        Raises UserError on a loss that is not finite or too many broken files, Stopped when asked to end.
        """
        states, total = States(self), self.num_epochs * self.batches_per_epoch
        with closing(self.backend):
            self.position = states.resume()
            with self.stop.waiting(), progress(self.name, total) as bar:
                estimate = FirstEstimate(self.name, self.log.say, self.rest)
                bar(advance=self.position.epoch * self.batches_per_epoch + self._batches_done)
                while self.position.epoch < self.num_epochs and not self._is_enough():
                    for number, batch in self._read_epoch():
                        losses = forward_backward(
                            self.model, self.task, self.backend, self.normalizer, batch, self.now, self.augment
                        )
                        ends_update = number % self.backend.accumulate == 0
                        wish = self._check(losses, batch, ends_update)
                        updated = self.backend.step()
                        self._count(number, updated, ends_update)
                        bar(note=self._note())
                        estimate.batch(self.meter, self._samples_at_once, self._batches_left(number))
                        if updated and self.backend.num_updates % self.log_every == 0:
                            self._log_interval(number)
                        saves = updated and self.save_every and self.backend.num_updates % self.save_every == 0
                        if ends_update and number < self.num_batches and (wish == STOP or saves):
                            self._read_late_losses()
                            states.save()
                            if wish == STOP:
                                raise self._stopped()
                    self._end_epoch()
                    states.save()
                    if self._agree([]) == STOP:
                        raise self._stopped()
                    states.watch(self.position.epoch)
            return self._weights()

    @property
    def _samples_at_once(self) -> int:
        return self.loader.batch_size * self.loader.sampler.num_ranks

    def _batches_left(self, number: int) -> int:
        """Count the batches of this process after batch `number` of the present epoch."""
        return self.num_batches - number + (self.num_epochs - self.position.epoch - 1) * self.batches_per_epoch

    def _is_enough(self) -> bool:
        return self.position.samples == 0 and self.enough(self.position.epoch)

    @property
    def batches_per_epoch(self) -> int:
        """Batches of one process that an epoch trains on."""
        return self.updates_per_epoch * self.backend.accumulate

    # -- the parts of a step, in their order ------------------------------------------------------------------------

    def _read_epoch(self) -> Iterator[tuple[int, Batch]]:
        """Yield what is left of the epoch, batch after batch on the device, numbered from 1."""
        self.model.train()
        hold_frozen_statistics(self.model)
        self.meter, self.reader = Meter(), LossReader(self.backend.works_behind)
        self.broken: list[tuple[int, str]] = []
        self.start = self.position.samples
        self.loader.set_position(self.position.epoch, self.start)
        self.num_batches = len(self.loader) // self.backend.accumulate * self.backend.accumulate
        self.now = self._progress()
        batches = iter(self.loader)
        for number in range(1, self.num_batches + 1):
            self.waited_since = time.perf_counter()
            with self.context.own_errors():
                batch = next(batches, None)
            if batch is None:
                return
            batch = batch.to(self.backend.device)
            self.meter.data_seconds += time.perf_counter() - self.waited_since
            yield number, batch
        self.waited_since = time.perf_counter()

    def _check(self, losses: Mapping[str, Tensor], batch: Batch, ends_update: bool) -> int:
        """Note the losses; return what all processes do after this update. UserError if a loss was not finite."""
        self.broken += self._record_losses(self.reader.put(losses, batch, self.backend.num_updates))
        return self._agree(self.broken) if ends_update or self.context.size == 1 else FINE

    def _count(self, number: int, updated: bool, ends_update: bool) -> None:
        """Move the position, and the average of the weights, past batch `number`."""
        self.position.samples = min(self.start + self.loader.samples_in(number), self.loader.num_samples)
        if ends_update:
            self.now = self._progress()
        if updated and self.average is not None:
            with self.backend.whole() as network:
                self.average.update(network)
        self.meter.seconds += time.perf_counter() - self.waited_since

    def _note(self) -> str:
        whose = "this process alone: " if self.context.size > 1 else ""
        return f"epoch {self.position.epoch + 1}/{self.num_epochs}  {whose}{self.meter}"

    def _log_interval(self, number: int) -> None:
        self._read_late_losses()
        epoch, left = self.position.epoch + 1, self._batches_left(number)
        everyone = self._log("train", epoch, left)
        self.log.say(
            f"{self.name}: epoch {epoch}/{self.num_epochs}  update {self.backend.num_updates}  {everyone.line(left)}"
        )

    def _end_epoch(self) -> None:
        self._read_late_losses()
        self.meter.seconds += time.perf_counter() - self.waited_since
        position, done = self.position, self.meter.num_batches
        if done < self.num_batches:
            raise UserError(
                f"epoch {position.epoch + 1} ended after {done} of {self.num_batches} batches: "
                "the loader gave fewer samples than its list has"
            )
        position.epoch, position.samples = position.epoch + 1, 0
        everyone = self._log("epoch", position.epoch, (self.num_epochs - position.epoch) * self.batches_per_epoch)
        position.losses.append(everyone.means())
        # Of an epoch that another number of processes began there may be less left than these read at once.
        trained = str(everyone) if done else "what is left of it fills no update here and is left out"
        self.log.say(f"{self.name}: epoch {position.epoch}/{self.num_epochs}  {trained}")

    def _weights(self) -> dict[str, Weights]:
        with self.backend.whole() as whole:
            trained = to_cpu(dict(whole.state_dict()))
        if self.average is None:
            return {"model": trained}
        averaged = to_cpu(dict(self.average.module.state_dict()))
        return {"model": averaged, "raw": trained} if self.uses_average else {"model": trained, "ema": averaged}

    # -- what they need ----------------------------------------------------------------------------------------------

    def _record_losses(self, read: Sequence[BatchLosses]) -> list[tuple[int, str]]:
        """Add losses to the meter; return the non-finite ones, as updates made before them and what to say."""
        where = f"rank {self.context.rank}: " if self.context.size > 1 else ""
        found = []
        for one in read:
            values = one.values
            self.meter.add(values, one.num_samples)
            bad = {name: value for name, value in values.items() if not math.isfinite(value)}
            if bad:
                found.append((one.update, f"{where}{bad}; sample ids of the batch: {one.ids.tolist()}"))
        return found

    def _read_late_losses(self) -> None:
        """Read every loss there is before something is saved or said. Called by all; raises UserError as `_agree`."""
        if self.reader.late:
            self._agree(self._record_losses(self.reader.rest()))

    def _agree(self, broken: list[tuple[int, str]]) -> int:
        """Return what all processes do next. Raises UserError, everywhere, if a loss was not finite on any of them."""
        wish = BROKEN if broken else STOP if self.stop.asked is not None else FINE
        agreed = self.context.largest(wish)
        if agreed == BROKEN:
            found = [one for everyones in self.context.gather(broken) for one in everyones]
            raise UserError(
                f"{self.name}: loss is not finite at update {min(found)[0]}: {'; '.join(text for _, text in found)}. Lower the "
                "learning rate, clip gradients (clip_grad_norm) or use float32; the last good state is kept"
            )
        return agreed

    def _stopped(self) -> Stopped:
        self.stop.asked = self.stop.asked or "another process"
        return self.stop.stopped(f"{self.name} is saved {self.position}")

    def _log(self, event: str, epoch: int, batches_left: int) -> Meter:
        """Write what all processes measured to the log that programs read; return it."""
        everyone = self.meter.over(self.context, self.loader.sampler.num_ranks)
        self.log.write(
            event,
            stage=self.name,
            epoch=epoch,
            update=self.backend.num_updates,
            lr=self.backend.optimizer.param_groups[0]["lr"],
            **everyone.facts(batches_left),
            broken_files=self.loader.broken.num_broken,
        )
        return everyone

    def _progress(self) -> Progress:
        epochs = self.position.epoch + self.position.samples / max(self.loader.num_samples, 1)
        done = self._batches_done // self.backend.accumulate
        number = self.position.epoch * self.updates_per_epoch + done + 1
        after = number / (self.num_epochs * self.updates_per_epoch)
        return Progress(self.backend.num_updates, epochs / self.num_epochs, after)

    @property
    def _batches_done(self) -> int:
        """Batches of the present epoch that are trained on."""
        return self.position.samples // max(self.loader.samples_in(1), 1)
