"""The answer to one input, and the inputs that a path means."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Guess:
    """One class, its name and its probability."""

    number: int
    label: str
    probability: float


@dataclass(frozen=True)
class Answer:
    """The likeliest classes of one input, or why there is no answer."""

    path: str
    guesses: tuple[Guess, ...] = ()
    labels: tuple[str, ...] | None = None
    """Names of the classes that reach their thresholds, likeliest first, where an input may have several labels, or none."""
    grids: tuple[str, ...] = ()
    """Token grid of each view."""
    read_ms: float = 0.0
    """Milliseconds spent on reading this input alone."""
    compute_ms: float = 0.0
    """Milliseconds: its share of the batches that its views ran in, and of the assigner's; waiting for others is not in it."""
    error: str | None = None
    warning: str | None = None
    """Remark on a file that is not whole."""
    drawing: str | None = None
    """File that shows what was spent on it."""
    gmacs: float | None = None
    """Mean GMACs of a view, with the assigner where it was asked; None where no calibration knows them."""

    @property
    def grid(self) -> str:
        """The token grid used; where the views differ, each with its count ("14x14 x2, 7x7 x1")."""
        counts = Counter(self.grids)
        if len(counts) < 2:
            return "".join(counts)
        return ", ".join(f"{name} x{count}" for name, count in counts.items())

    def as_json(self) -> dict[str, Any]:
        """Return JSON values: `path` with either `error`, or `top` (likeliest first), `grid`, `grids` and milliseconds;
        `labels`, `gmacs`, `drawing` and `warning` where there are any."""
        if self.error is not None:
            return {"path": self.path, "error": self.error}
        top = [
            {"label": guess.label, "class": guess.number, "probability": round(guess.probability, 6)}
            for guess in self.guesses
        ]
        values = {
            "path": self.path,
            "top": top,
            "labels": None if self.labels is None else list(self.labels),
            "grid": self.grid,
            "grids": list(self.grids),
            "ms": round(self.read_ms + self.compute_ms, 3),
            "ms_read": round(self.read_ms, 3),
            "ms_compute": round(self.compute_ms, 3),
            "gmacs": self.gmacs,
            "drawing": self.drawing,
            "warning": self.warning,
        }
        return {key: value for key, value in values.items() if value is not None}


def find_files(
    path: str, extensions: Collection[str], on_error: Callable[[OSError], object] | None = None
) -> Iterator[str]:
    """Yield the files that a path means: itself, or every file of these extensions below a folder, in alphabetical order.

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
