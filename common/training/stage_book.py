"""The stages of a recipe on disk: which are done, with what settings, and how long they took."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from revit.common.system.distributed import ALONE, World
from revit.common.system.errors import UserError, reason_of
from revit.common.system.files import write_json
from revit.common.system.log import RunLog
from revit.common.training.state import remove_states, states_folder

Settings = Mapping[str, Any]

LOCK = ".lock"
"""Lock file, held while a process works in a run's folder."""
TOKEN = ".token"
"""File that is there for a moment at the start, while several processes see whether they share the folder."""
WRITTEN = (
    *("stages.json", "config.yaml", "log.jsonl", "lengths.csv", "report.json", "report.html", "predictions.csv"),
    *("model.safetensors", "best.safetensors", "checkpoint.safetensors", "evaluation.safetensors", "states"),
    "tensorboard",
)
"""Files that runs write into their folder, besides `data`."""


class StageBook:
    """`RUN_DIR/stages.json`: a stage that is done with the present settings is not done again.

    Settings that changed under the first stage that trains would silently mix two runs, so they are refused with the
    list of what changed, unless nothing of it was saved; later stages are cheap and are done again, with a line that says
    why.

    Every process has the same book; rank 0 reads and writes the file.
    """

    def __init__(self, folder: Path, log: RunLog, world: World = ALONE) -> None:
        self.path = folder / "stages.json"
        self.log = log
        self.world = world
        self.book: dict[str, Any] = world.on_main(self._read)

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds per finished stage, over all the processes that worked on it."""
        return {name: entry["seconds"] for name, entry in self.book.items() if entry["done"]}

    def is_done(self, name: str) -> bool:
        return bool(self.book.get(name, {}).get("done"))

    def stays(self, name: str, settings: Settings, results: Sequence[Path]) -> bool:
        """Say whether `doing` would leave this stage alone. Asked by all processes."""
        same = self.is_done(name) and self.book[name]["settings"] == settings
        return self.world.on_main(lambda: same and all(path.exists() for path in results))

    def check(self, name: str, settings: Settings, results: Sequence[Path]) -> None:
        """Raise UserError if the stage was begun with other settings and there is a training state or a result of it.

        Asked by all processes.
        """
        entry = self.book.get(name)
        if entry is not None and entry["settings"] != settings and not self._is_untouched(name, results):
            changed = "; ".join(differences(entry["settings"], settings))
            raise UserError(
                f"{self.path.parent} holds a run with other settings ({changed}); choose another run.dir, restore "
                "the settings, or start over with run.resume=never"
            )

    @contextmanager
    def doing(self, name: str, settings: Settings, results: Sequence[Path] = ()) -> Iterator[bool]:
        """Yield whether the stage is to be done: it is not if that happened with equal `settings`, and `results` are there.

        Keeps the seconds that the work inside takes, also if it fails, and notes it as done if it does not.
        """
        entry = self.book.get(name)
        if entry is not None and entry["settings"] != settings:
            changed = "; ".join(differences(entry["settings"], settings))
            if self._is_untouched(name, results):
                self.log.say(f"{name}: takes the new settings ({changed}); nothing of it was saved before")
            else:
                self.log.say(f"{name}: done again, settings changed ({changed})")
            self.forget([name])
            entry = None
        gone = self.world.on_main(lambda: [path.name for path in results if not path.exists()])
        if entry is not None and entry["done"] and gone:
            self.log.say(f"{name}: done again, {' and '.join(gone)} is gone")
            self.forget([name])
            entry = None
        if entry is not None and entry["done"]:
            self.log.say(f"{name}: already done")
            self._remove_states(name)
            yield False
            return
        entry = self.book[name] = entry or {"settings": settings, "done": False, "seconds": 0.0}
        self._write()
        start = time.perf_counter()
        try:
            yield True
        except BaseException:
            # Also where one process alone fails: nobody waits here. What failed is said, not that this failed too.
            entry["seconds"] = round(entry["seconds"] + time.perf_counter() - start, 3)
            with contextlib.suppress(UserError):
                self._write()
            raise
        entry["seconds"] = round(entry["seconds"] + time.perf_counter() - start, 3)
        entry["done"] = True
        self._write()
        self._remove_states(name)  # not before: without them an interruption here would cost the whole stage
        self.log.write("stage", stage=name, seconds=entry["seconds"])
        self.log.say(f"{name}: done in {entry['seconds']:.0f} s")

    def forget(self, names: list[str]) -> None:
        """Have these stages done again from their start: what they were built on has changed."""
        for name in names:
            self.book.pop(name, None)
            self._remove_states(name)  # half a training with the old settings
        self._write()

    def _is_untouched(self, name: str, results: Sequence[Path]) -> bool:
        """Say whether the stage ended before anything of it was saved, as when its configuration was refused.

        Damaged states count as states.
        """
        states = states_folder(self.path.parent, name)

        def nothing_there() -> bool:
            saved = [path for path in states.glob("*") if path.suffix != ".part"]
            return not saved and not any(path.exists() for path in results)

        return not self.is_done(name) and self.world.on_main(nothing_there)

    def _remove_states(self, name: str) -> None:
        if self.world.is_main:
            remove_states(states_folder(self.path.parent, name))

    def _read(self) -> dict[str, Any]:
        try:
            book = json.loads(self.path.read_text("utf-8")) if self.path.exists() else {}
            if not all({"settings", "done", "seconds"} <= entry.keys() for entry in book.values()):
                raise ValueError("it is not the book of a run")
            return book
        except (OSError, ValueError, AttributeError) as error:
            raise UserError(
                f"{self.path}: cannot be read ({reason_of(error)}); restore it, or start over with run.resume=never"
            ) from error

    def _write(self) -> None:
        if self.world.is_main:
            write_json(self.path, self.book)


def differences(old: Any, new: Any) -> list[str]:
    """List the key paths whose values differ, as `key: old -> new`."""
    return [f"{key}: {before} -> {after}" for key, before, after in changes(old, new)]


def changes(old: Any, new: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield the key paths whose values differ, with both values, None where one has no such key."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in [*old, *(name for name in new if name not in old)]:
            yield from changes(old.get(name), new.get(name), f"{key}.{name}" if key else str(name))
    elif old != new:
        yield key, old, new


def clear(folder: Path) -> None:
    """Remove what an earlier run left in `folder`, and nothing else. Refuses a folder that is not a run's.

    A data set made for the run stays: it is checked by its own marker.
    """
    if not folder.exists() or all(path.name in (LOCK, TOKEN) for path in folder.iterdir()):
        return
    if not (folder / "stages.json").exists():
        raise UserError(f"{folder} is not the folder of a run (no stages.json in it); it is left alone")
    for name in WRITTEN:
        path = folder / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
