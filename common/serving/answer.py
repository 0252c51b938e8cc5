"""What is said of one input, and the inputs that a path means."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Guess:
    """One class, how it is called and how likely it is held."""

    number: int
    label: str
    probability: float


@dataclass(frozen=True)
class Answer:
    """What is said of one input: the likeliest classes, or why there is no answer."""

    path: str
    guesses: tuple[Guess, ...] = ()
    grids: tuple[str, ...] = ()
    """The token grid of each view."""
    read_ms: float = 0.0
    """Spent on reading this input alone."""
    compute_ms: float = 0.0
    """Its share of the batches that its views ran in, and of the assigner's. Waiting for others is not in it."""
    error: str | None = None
    warning: str | None = None
    """A remark on a file that is not whole."""
    drawing: str | None = None
    """The file that shows what was spent on it."""
    gmacs: float | None = None
    """Of a view in the mean, with the assigner where it was asked; None where no calibration knows it."""

    @property
    def grid(self) -> str:
        """The token grid used; where the views differ, each with its count ("14x14 x2, 7x7 x1")."""
        counts = Counter(self.grids)
        if len(counts) < 2:
            return "".join(counts)
        return ", ".join(f"{name} x{count}" for name, count in counts.items())

    def as_json(self) -> dict[str, Any]:
        """JSON values: `path` with either `error`, or `top` (likeliest first), `grid`, `grids`, milliseconds, `drawing` where
        there is one, and `warning` where the file is not whole."""
        if self.error is not None:
            return {"path": self.path, "error": self.error}
        top = [
            {"label": guess.label, "class": guess.number, "probability": round(guess.probability, 6)}
            for guess in self.guesses
        ]
        milliseconds = {
            "ms": round(self.read_ms + self.compute_ms, 3),
            "ms_read": round(self.read_ms, 3),
            "ms_compute": round(self.compute_ms, 3),
        }
        drawing = {} if self.drawing is None else {"drawing": self.drawing}
        warning = {} if self.warning is None else {"warning": self.warning}
        spent = {} if self.gmacs is None else {"gmacs": self.gmacs}
        return {
            "path": self.path,
            "top": top,
            "grid": self.grid,
            "grids": list(self.grids),
            **milliseconds,
            **spent,
            **drawing,
            **warning,
        }


def find_files(
    path: str, extensions: Collection[str], on_error: Callable[[OSError], object] | None = None
) -> Iterator[str]:
    """The files that a path means: itself, or every file of these extensions below a folder, in alphabetical order.

    Links to folders are not followed (they may go round in circles). on_error is told of folders that cannot be read.
    """
    if not os.path.isdir(path):
        yield path
        return
    for folder, inner, files in os.walk(path, onerror=on_error):
        inner.sort()
        for name in sorted(files):
            if Path(name).suffix.lower() in extensions:
                yield os.path.join(folder, name)
