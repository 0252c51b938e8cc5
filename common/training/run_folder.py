"""A run's folder: which stages are done, with what settings, and whether all processes were given the same."""

from __future__ import annotations

import contextlib
import json
import secrets
import shutil
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from revit.common.system.distributed import ALONE, DistributedContext
from revit.common.system.errors import UserError, reason_of
from revit.common.system.files import write_json, write_text
from revit.common.system.log import RunLog

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


def states_folder(run_folder: Path, stage: str) -> Path:
    """Return where the states of a stage's training are."""
    return run_folder / "states" / stage


class StageBook:
    """`RUN_DIR/stages.json`: a stage that is done with the present settings is not done again.

    Settings that changed under the first stage that trains would silently mix two runs, so they are refused with the
    list of what changed, unless nothing of it was saved; later stages are cheap and are done again, with a line that says
    why.

    Every process has the same book; rank 0 reads and writes the file.
    """

    def __init__(self, folder: Path, log: RunLog, context: DistributedContext = ALONE) -> None:
        self.path = folder / "stages.json"
        self.log = log
        self.context = context
        self.book: dict[str, Any] = context.on_main(self._read)

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds per finished stage, over all the processes that worked on it."""
        return {name: entry["seconds"] for name, entry in self.book.items() if entry["done"]}

    def is_done(self, name: str) -> bool:
        return bool(self.book.get(name, {}).get("done"))

    def stays(self, name: str, settings: Settings, results: Sequence[Path]) -> bool:
        """Say whether `doing` would leave this stage alone. Asked by all processes."""
        same = self.is_done(name) and self.book[name]["settings"] == settings
        return self.context.on_main(lambda: same and all(path.exists() for path in results))

    def extend(self, name: str, settings: Settings) -> None:
        """Have a training that was begun, or is done, go on with `settings` from its last state, if they only say how long it lasts
        and which of its models is kept: more epochs, other patience, the best model or the last. Called by all processes.
        """
        entry = self.book.get(name)
        if entry is None or entry["settings"] == settings or not _is_longer(entry["settings"], settings):
            return
        states = states_folder(self.path.parent, name)
        if not self.context.on_main(lambda: any(states.glob("update-*.pt"))):
            return
        changed = "; ".join(differences(entry["settings"], settings))
        self.log.say(
            f"{name}: goes on from its last state ({changed}); from there on the learning rate is that of a schedule with these "
            "epochs"
        )
        entry |= {"settings": settings, "done": False}
        self._write()

    def check(self, name: str, settings: Settings, results: Sequence[Path]) -> None:
        """Raise UserError if the stage was begun with other settings and there is a training state or a result of it.

        Asked by all processes.
        """
        entry = self.book.get(name)
        if entry is not None and entry["settings"] != settings and not self._is_untouched(name, results):
            changed = "; ".join(differences(entry["settings"], settings))
            gone = _is_longer(entry["settings"], settings)
            raise UserError(
                f"{self.path.parent} holds a run with other settings ({changed}); choose another run.dir, restore "
                "the settings, or start over with run.resume=never"
                + (f". Its last state is gone; start.source={self.path.parent} begins from its weights" if gone else "")
            )

    @contextmanager
    def doing(
        self, name: str, settings: Settings, results: Sequence[Path] = (), extends: bool = False
    ) -> Iterator[bool]:
        """Yield whether the stage is to be done: it is not if that happened with equal `settings`, and `results` are there.

        extends: whether its last state is kept, so that it can go on for more epochs (`extend`).

        Keeps the seconds that the work inside takes, also if it fails, and notes it as done if it does not.
        """
        entry = self.book.get(name)
        if entry is not None and (reason := self._why_anew(entry, name, settings, results)):
            self.log.say(f"{name}: {reason}")
            self.forget([name])
            entry = None
        if entry is not None and entry["done"]:
            self.log.say(f"{name}: already done")
            self._remove_states(name, but_the_last=extends)
            yield False
            return
        entry = self.book[name] = entry or {"settings": settings, "done": False, "seconds": 0.0}
        self._write()
        start = time.perf_counter()
        try:
            yield True
            entry["done"] = True
        finally:
            entry["seconds"] = round(entry["seconds"] + time.perf_counter() - start, 3)
            # Also where one process alone fails: nobody waits here. What failed is said, not that this failed too.
            with contextlib.suppress(*(() if entry["done"] else (UserError,))):
                self._write()
        # Not before: without them an interruption here would cost the whole stage.
        self._remove_states(name, but_the_last=extends)
        self.log.write("stage", stage=name, seconds=entry["seconds"])
        self.log.say(f"{name}: done in {entry['seconds']:.0f} s")

    def forget(self, names: list[str]) -> None:
        """Have these stages done again from their start: what they were built on has changed."""
        for name in names:
            self.book.pop(name, None)
            self._remove_states(name)  # half a training with the old settings
        self._write()

    def _why_anew(self, entry: dict[str, Any], name: str, settings: Settings, results: Sequence[Path]) -> str | None:
        """Say why a stage cannot go on from what is there of it; None if it can."""
        if entry["settings"] != settings:
            changed = "; ".join(differences(entry["settings"], settings))
            if self._is_untouched(name, results):
                return f"takes the new settings ({changed}); nothing of it was saved before"
            return f"done again, settings changed ({changed})"
        gone = self.context.on_main(lambda: [path.name for path in results if not path.exists()])
        return f"done again, {' and '.join(gone)} is gone" if entry["done"] and gone else None

    def _is_untouched(self, name: str, results: Sequence[Path]) -> bool:
        """Say whether the stage ended before anything of it was saved, as when its configuration was refused.

        Damaged states count as states.
        """
        states = states_folder(self.path.parent, name)

        def nothing_there() -> bool:
            saved = [path for path in states.glob("*") if path.suffix != ".part"]
            return not saved and not any(path.exists() for path in results)

        return not self.is_done(name) and self.context.on_main(nothing_there)

    def _remove_states(self, name: str, but_the_last: bool = False) -> None:
        if not self.context.is_main:
            return
        folder = states_folder(self.path.parent, name)
        if not but_the_last:
            shutil.rmtree(folder, ignore_errors=True)
        last = max(folder.glob("update-*.pt"), default=None)
        for path in folder.glob("update-*"):
            if path != last:
                path.unlink(missing_ok=True)

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
        if self.context.is_main:
            write_json(self.path, self.book)


def _is_longer(old: Settings, new: Settings) -> bool:
    """Say whether the settings differ only in how long is trained, not shorter than before, and which model is kept."""
    for key, before, after in changes(old, new):
        if key == "train.schedule.epochs":
            if before is None or after is None or after < before:
                return False
        elif key not in ("train.early_stop", "run.keep", "run.evaluate_every"):
            return False
    return True


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


PATIENCE_S = 10.0
"""Seconds a file may take to show on another machine: shared folders are looked up anew every few seconds."""


def check_same(settings: Mapping[str, Any], context: DistributedContext) -> None:
    """Raise UserError, on every process, where one was given other `settings`; it names the first key that differs."""
    (host, ours), *others = context.gather((socket.gethostname(), settings))
    for rank, (other_host, theirs) in enumerate(others, 1):
        for key, one, other in changes(ours, theirs):
            raise UserError(
                f"the processes of this run were given different settings, first of all {key}: {one} for rank 0 on {host}, "
                f"{other} for rank {rank} on {other_host}; start all of them by the same command with the same file"
            )


def check_shared(folder: Path, context: DistributedContext, patience_s: float = PATIENCE_S) -> None:
    """Raise UserError, on every process, where one does not see what rank 0 writes into `folder` now.

    That the folder exists, and has an older run's files in it, says nothing: every machine may have one of its own.
    """
    if context.size == 1:
        return
    path = folder / TOKEN
    host, token = context.on_main(lambda: _leave_token(path))
    blind = context.gather(None if _sees(path, token, patience_s) else socket.gethostname())
    if context.is_main:
        path.unlink(missing_ok=True)
    names = sorted({name for name in blind if name is not None})
    if names:
        raise UserError(
            f"{folder} is not the same folder on all machines: {' and '.join(names)} cannot read there what rank 0 on {host} "
            "writes; give a run.dir that all machines share"
        )


def _leave_token(path: Path) -> tuple[str, str]:
    token = secrets.token_hex(16)
    write_text(path, token)
    return socket.gethostname(), token


def _sees(path: Path, token: str, patience_s: float) -> bool:
    end = time.monotonic() + patience_s
    while True:
        with contextlib.suppress(OSError, UnicodeDecodeError):
            if path.read_text("utf-8") == token:
                return True
        if time.monotonic() > end:
            return False
        time.sleep(0.2)
