"""What a run says: a progress bar, a line per interval, and the same as JSON lines for other programs."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

console = Console(stderr=True, highlight=False, soft_wrap=True)


def progress_bar() -> Progress:
    """The one look of every progress bar."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
    )


@contextmanager
def progress(description: str, total: int | None) -> Iterator[Any]:
    """A bar; inside, call the value with `advance=` and `note=`."""
    with progress_bar() as bar:
        task = bar.add_task(description, total=total, note="")

        def update(advance: int = 1, note: str | None = None) -> None:
            bar.update(task, advance=advance)
            if note is not None:
                bar.update(task, note=note)

        yield update


class RunLog:
    """Appends JSON lines to `path` and prints them for people."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)

    def write(self, event: str, **values: Any) -> None:
        """One JSON object on one line, with the event's name and the time."""
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"event": event, "time": round(time.time(), 3), **values}) + "\n")

    def say(self, text: str) -> None:
        """A line for people, above the progress bar."""
        console.print(text, markup=False)
