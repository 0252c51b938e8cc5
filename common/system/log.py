"""What a run says: a progress bar in a terminal, a line per interval, and the same as JSON lines for other programs."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from revit.common.system.errors import UserError, reason_of

console = Console(stderr=True, highlight=False, soft_wrap=True)


def hush() -> None:
    """Print nothing from now on: another process speaks for this one."""
    console.quiet = True
    logging.getLogger("revit").setLevel(logging.ERROR)


def say_at_once(text: str) -> None:
    """Print a line from a signal handler, where a stream may be in the middle of a write and cannot be asked."""
    if console.quiet:
        return
    clear_line = "\r\x1b[2K" if console.is_terminal else ""  # of a progress bar, which is drawn again below
    with contextlib.suppress(OSError):  # nobody listens
        os.write(sys.stderr.fileno(), f"{clear_line}{text}\n".encode())


@contextmanager
def progress(description: str, total: int | None) -> Iterator[Any]:
    """Show a progress bar; inside, call the value with `advance=` and `note=`.

    In a file or a pipe it prints nothing, as its lines would stand among the log's.
    """
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
        disable=console.quiet or not console.is_terminal,
    )
    with bar:
        task = bar.add_task(description, total=total, note="")

        def update(advance: int = 1, note: str | None = None) -> None:
            bar.update(task, advance=advance)
            if note is not None:
                bar.update(task, note=note)

        yield update


class RunLog:
    """Appends JSON lines to `path` and prints them for people; one that is not `heard` does neither.

    tensorboard: folder of TensorBoard's files, which get the numbers too; None for none.
    """

    def __init__(self, path: Path, heard: bool = True, tensorboard: Path | None = None) -> None:
        self.path = path
        self.heard = heard
        self._board = _board(tensorboard) if tensorboard is not None and heard else None
        if heard:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise _unwritable(path.parent, error) from error

    def write(self, event: str, **values: Any) -> None:
        """Append one JSON object on one line, with the event's name and the time. UserError, and no line, if that fails."""
        if not self.heard:
            return
        try:
            self._append(json.dumps({"event": event, "time": round(time.time(), 3), **values}) + "\n")
            if self._board is not None:
                step = values.get("update", values.get("epoch"))
                for name, value in _numbers("/".join([str(values.get("stage", "run")), event]), values):
                    self._board.add_scalar(name, value, step)
                self._board.flush()
        except OSError as error:
            raise _unwritable(self.path, error) from error

    def say(self, text: str) -> None:
        """Print a line for people, above the progress bar."""
        if self.heard:
            console.print(text, markup=False)

    def _append(self, line: str) -> None:
        left = line.encode()
        with open(self.path, "ab", buffering=0) as file:
            end = file.tell()
            try:
                while left:
                    left = left[file.write(left) :]
            except OSError:
                file.truncate(end)
                raise


def _unwritable(path: Path, error: OSError) -> UserError:
    return UserError(
        f"{path}: cannot be written ({reason_of(error)}); free space, make the folder writable or choose another run.dir. "
        "The same command goes on from the last state"
    )


def _numbers(name: str, value: Any) -> Iterator[tuple[str, float]]:
    if isinstance(value, dict):
        for key, part in value.items():
            yield from _numbers(f"{name}/{key}", part)
    elif isinstance(value, int | float):
        yield name, value


def _board(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UserError(
            f"run.tensorboard needs the package tensorboard ({error}); pip install tensorboard, or set it to false"
        ) from error
    return SummaryWriter(str(folder))
