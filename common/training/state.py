"""The state of a training on disk: what an interrupted stage needs to go on, here or with other processes."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import zipfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from revit.common.config.options import with_present_names
from revit.common.data.dataset import sample_seed
from revit.common.data.loader import dead_workers_explained
from revit.common.system.distributed import ALONE, DistributedContext
from revit.common.system.errors import UserError, reason_of
from revit.common.system.files import write_text
from revit.common.training.run_folder import differences

if TYPE_CHECKING:
    from revit.common.training.trainer import Trainer

LOG = logging.getLogger("revit.training")

PREFIX = "update-"
FORMAT = 2
"""Version of the states that `Trainer` saves."""


def seed_all(seed: int) -> None:
    """Seed the global generators of torch, Python and NumPy: the libraries behind augmentation draw from all three."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  # timm's mixing draws from this global generator


def random_states() -> dict[str, Any]:
    """Return the states of the global generators, as tensors, numbers and lists: they are read back without executing code.

    Loaders draw from seeds of their own and have no state.
    """
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    version, internal, gauss = random.getstate()
    keys = np.random.get_state(legacy=False)  # noqa: NPY002  # as above
    assert isinstance(keys, dict)
    words = torch.from_numpy(keys["state"]["key"].astype(np.int64))
    return {
        "cpu": torch.get_rng_state(),
        "cuda": cuda,
        "python": [version, list(internal), gauss],
        "numpy": [words, int(keys["state"]["pos"]), int(keys["has_gauss"]), float(keys["gauss"])],
    }


def restore_random_states(states: dict[str, Any]) -> None:
    """Set the generators to what `random_states` found; those it did not save stay as they are."""
    torch.set_rng_state(states["cpu"])
    if states["cuda"] and len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(states["cuda"])
    if "python" in states:
        version, internal, gauss = states["python"]
        random.setstate((version, tuple(internal), gauss))
    if "numpy" in states:
        words, *rest = states["numpy"]
        np.random.set_state(("MT19937", words.numpy().astype(np.uint32), *rest))  # noqa: NPY002  # as above


def save_state(folder: Path, num_updates: int, state: dict[str, Any], keep: int = 2) -> Path:
    """Write `folder/update-NNNNNNNN.pt`, whole or not at all, and remove all but the `keep` newest and what was begun.

    Raises UserError if it cannot be written; what was there before stays.
    """
    path = folder / f"{PREFIX}{num_updates:08d}.pt"
    part = path.with_suffix(".part")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with dead_workers_explained(), open(part, "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except (OSError, RuntimeError) as error:
        with contextlib.suppress(OSError):
            part.unlink()
        raise UserError(
            f"{path}: the training state cannot be written ({reason_of(error)}); free space or make the folder writable, "
            "then start the same command again: it goes on from the last state"
        ) from error
    for old in [*sorted(folder.glob(f"{PREFIX}*.pt"))[:-keep], *folder.glob(f"{PREFIX}*.part")]:
        old.unlink(missing_ok=True)
    return path


def load_newest_state(folder: Path, context: DistributedContext = ALONE) -> dict[str, Any] | None:
    """Load the newest state that is whole; None where there is none. Executes no code from the file.

    A damaged one is named, passed over and called `.damaged`, so that it does not count as one of the last. UserError if
    all are damaged: to start over without a word could throw away weeks.

    Rank 0 chooses, so that all ranks take the same one.
    """
    path = context.on_main(lambda: _newest_readable(folder))
    return None if path is None else torch.load(path, map_location="cpu", weights_only=True)


def _newest_readable(folder: Path) -> Path | None:
    damaged = [path.name for path in sorted(folder.glob(f"{PREFIX}*.damaged"))]
    for path in sorted(folder.glob(f"{PREFIX}*.pt"), reverse=True):
        try:
            with zipfile.ZipFile(path) as file:  # torch compares no check sums
                bad = file.testzip()
            if bad is not None:
                raise ValueError(f"check sum of {bad}")
            torch.load(path, map_location="meta", weights_only=True, mmap=True)
            return path
        except MemoryError:
            raise
        except Exception as error:
            LOG.warning("%s: damaged (%s); taking an older state", path, reason_of(error))
            damaged.append(path.name)
            if not isinstance(error, OSError):
                with contextlib.suppress(OSError):
                    path.replace(path.with_suffix(".damaged"))
    if damaged:
        raise UserError(
            f"{folder}: none of its states can be read ({', '.join(sorted(damaged))}); put a good copy of one there under its name, "
            "or delete the folder to do this training from its start"
        )
    return None


@dataclass
class Position:
    """Progress of a training, whatever the number of processes."""

    epoch: int = 0
    """Finished epochs."""
    samples: int = 0
    """Samples of this epoch's order that all processes together have trained on."""
    losses: list[dict[str, float]] = field(default_factory=list)
    """Mean loss per name over what was trained since the last resume, one entry per finished epoch; empty for nothing."""

    def __str__(self) -> str:
        """Count epochs from 1, as people do."""
        if self.samples == 0 and self.epoch > 0:
            return f"after epoch {self.epoch}"
        return f"in epoch {self.epoch + 1}, after sample {self.samples}"


def _rate(trainer: Trainer[Any]) -> float:
    return float(trainer.backend.optimizer.param_groups[0]["lr"])


class States:
    """Saved states of a `Trainer`. Every call is made by all processes; rank 0 writes."""

    def __init__(self, trainer: Trainer[Any]) -> None:
        self.trainer = trainer
        self.watched = trainer.folder / "watched"
        """File with the last epoch after which `after_epoch` was called, so that a stop in between does not leave it out."""

    def save(self) -> None:
        """Save the training. UserError if that cannot be done."""
        trainer, context, broken = self.trainer, self.trainer.context, self.trainer.loader.broken
        if context.size > 1:
            broken.merge(context.gather(broken.state_dict()))
        state: dict[str, Any] = {
            "format": FORMAT,
            "backend": trainer.backend.state_dict(),
            "position": asdict(trainer.position),
            "random": context.gather(random_states()),
            "broken": broken.state_dict(),
            "world": trainer.facts,
            "schedule": trainer.schedule.state_dict(),
            "epochs": trainer.num_epochs,
            "rate": _rate(trainer),
        }
        if trainer.average is not None:
            state["average"] = trainer.average.module.state_dict()
        context.on_main(lambda: save_state(trainer.folder, trainer.backend.num_updates, state, trainer.keep_states))

    def resume(self) -> Position:
        """Go on from the newest state, or from the start. UserError for a state that is not of this training."""
        trainer = self.trainer
        state = load_newest_state(trainer.folder, trainer.context)
        if state is None:
            return Position()
        if state.get("format") != FORMAT:
            raise UserError(
                f"{trainer.folder}: states of another version of this program; finish with that version, or start over "
                "with run.resume=never"
            )
        position = Position(**state["position"])
        epochs = position.epoch + position.samples / trainer.loader.num_samples
        trainer.schedule.load_state_dict(state["schedule"], state["backend"]["num_updates"], epochs)
        trainer.backend.load_state_dict(state["backend"])
        if trainer.average is not None:
            trainer.average.module.load_state_dict(state["average"])
        trainer.loader.broken.load_state_dict(state["broken"])
        before, now = with_present_names(state["world"]), trainer.facts
        changed = differences(before, now)
        if all(before[key] == now[key] for key in ("processes", "reading")):
            restore_random_states(state["random"][trainer.context.rank])
        else:
            seed_all(sample_seed(torch.initial_seed() % 2**63, trainer.backend.num_updates, 0))
            changed.append("random numbers of dropout and mixing drawn anew")
        if state.get("epochs", trainer.num_epochs) != trainer.num_epochs:
            changed.append(f"learning rate: {state['rate']:.3g} -> {_rate(trainer):.3g}")
        trainer.log.say(f"{trainer.name}: going on {position}" + "".join(f"; {one}" for one in changed))
        # Epochs count from 1, as in all lines of the log.
        place = {"epoch": position.epoch + 1, "samples": position.samples}
        trainer.log.write("resumed", stage=trainer.name, **place, changed=changed)
        if position.samples == 0:
            self.watch(position.epoch)
        return position

    def watch(self, epoch: int) -> None:
        """Call `after_epoch`, if that was not done for this epoch. A request to end is heeded at once: all is saved."""
        trainer, context = self.trainer, self.trainer.context
        if trainer.after_epoch is None:
            return
        if context.broadcast(self.watched.exists() and self.watched.read_text() == str(epoch)):
            return
        with trainer.stop.waiting(False), trainer.backend.whole():
            trainer.after_epoch(epoch)
        context.on_main(lambda: write_text(self.watched, str(epoch)))
