"""Saving a training, and going on with it, here or with other processes."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from revit.common.config.options import with_present_names
from revit.common.system.errors import UserError
from revit.common.system.files import write_text
from revit.common.training.stage_book import differences
from revit.common.training.state import (
    FORMAT,
    load_newest_state,
    random_states,
    restore_random_states,
    save_state,
    seed_anew,
)

if TYPE_CHECKING:
    from revit.common.training.trainer import Trainer


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


class States:
    """Saved states of a `Trainer`. Every call is made by all processes; rank 0 writes."""

    def __init__(self, trainer: Trainer[Any]) -> None:
        self.trainer = trainer
        self.watched = trainer.folder / "watched"
        """File with the last epoch after which `after_epoch` was called, so that a stop in between does not leave it out."""

    def save(self) -> None:
        """Save the training. UserError if that cannot be done."""
        trainer, context = self.trainer, self.trainer.context
        broken = trainer.loader.broken
        if context.size > 1:
            broken.merge(context.gather(broken.state_dict()))
        state: dict[str, Any] = {
            "format": FORMAT,
            "backend": trainer.backend.state_dict(),
            "position": asdict(trainer.position),
            "random": context.gather(random_states()),
            "broken": broken.state_dict(),
            "world": trainer.facts(),
            "schedule": trainer.schedule.state_dict(),
        }
        if trainer.average is not None:
            state["average"] = trainer.average.module.state_dict()
        updates = trainer.backend.num_updates
        context.on_main(lambda: save_state(trainer.folder, updates, state, trainer.keep_states))

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
        before, now = with_present_names(state["world"]), trainer.facts()
        changed = differences(before, now)
        if all(before[key] == now[key] for key in ("processes", "reading")):
            restore_random_states(state["random"][trainer.context.rank])
        else:
            seed_anew(trainer.backend.num_updates)
            changed.append("random numbers of dropout and mixing drawn anew")
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
