"""The list of labelled samples, clips or pictures."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from revit.common.data.flat import FlatStrings
from revit.common.system.errors import UserError


@dataclass(frozen=True)
class SampleList:
    """Paths and labels, stored flat, see `revit.common.data.flat`."""

    paths: FlatStrings
    """Files (n,)."""
    labels: NDArray[np.int64]
    """Class numbers (n,)."""
    names: tuple[str, ...] | None
    """Class names by number, or None if the source only has numbers."""
    source: str
    """List file or folder, for messages."""
    root: str = ""
    """Folder that names of samples count from, see `name`."""
    kept: tuple[int, ...] | None = None
    """Numbers that the classes of a subset have in the whole list, see `take`."""

    @classmethod
    def build(
        cls, pairs: Iterable[tuple[str, int]], names: Sequence[str] | None, source: str, noun: str = "samples"
    ) -> Self:
        """Return the list of these (path, class number) pairs. UserError if there are none."""
        pairs = list(pairs)
        if not pairs:
            raise UserError(f"{source}: no {noun} in it")
        labels = np.array([label for _, label in pairs], np.int64)
        known = tuple(names) if names is not None else None
        return cls(FlatStrings.of(path for path, _ in pairs), labels, known, source)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def fingerprint(self) -> str:
        """Number of samples and check sum, which tell this list from every other one."""
        digest = hashlib.sha256(repr(self.names).encode())
        for column in (self.paths.text, self.paths.ends, self.labels):
            digest.update(np.ascontiguousarray(column).tobytes())
        return f"{len(self)} samples, {digest.hexdigest()[:12]}"

    def path(self, position: int) -> str:
        """Return the file of sample `position`."""
        return self.paths[position]

    def name(self, position: int) -> str:
        """Return the path of sample `position` from `root` on; a path that is not below it, as it is."""
        path = self.path(position)
        below = path.startswith(os.path.join(self.root, "")) if self.root else False
        return os.path.relpath(path, self.root) if below else path

    def open(self, position: int) -> BinaryIO:
        """Return the contents of sample `position`, at their beginning. OSError if there are none."""
        return open(self.path(position), "rb")

    def take(self, positions: NDArray[np.int64], kept: Sequence[int], names: Sequence[str]) -> Self:
        """Return the samples at `positions`, all of classes among `kept`, which become classes 0, 1, ... called `names`."""
        new_number = np.empty(max(kept) + 1, np.int64)
        new_number[list(kept)] = np.arange(len(kept))
        paths, labels = self.paths.take(positions), new_number[self.labels[positions]]
        return replace(self, paths=paths, labels=labels, names=tuple(names), kept=tuple(kept))

    def label(self, position: int) -> int:
        """Return the class number of sample `position`."""
        return int(self.labels[position])

    @property
    def num_classes(self) -> int:
        """Number of names, or, without names, one more than the largest label."""
        return len(self.names) if self.names is not None else int(self.labels.max()) + 1

    def check_classes(self, num_classes: int) -> None:
        """Raise UserError unless every label is below `num_classes` and the names, if any, are that many."""
        if self.names is not None and len(self.names) != num_classes:
            raise UserError(
                f"{self.source}: has {len(self.names)} class names, the model has {num_classes} classes; "
                f"set num_classes to {len(self.names)} or give the list of names that belongs to the model"
            )
        worst = int(self.labels.argmax())
        if self.label(worst) >= num_classes:
            raise UserError(
                f"{self.source}: {self.path(worst)} has label {self.label(worst)}, the model has {num_classes} "
                f"classes (0..{num_classes - 1}); set num_classes to {self.num_classes} or correct the list"
            )
