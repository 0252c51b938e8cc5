"""The list of labelled samples, clips or pictures, as every package holds it."""

from __future__ import annotations

import hashlib
import os
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from revit.common.data.flat import FlatStrings, GrowingStrings
from revit.common.system.errors import UserError


@dataclass(frozen=True)
class SampleList:
    """Paths and labels, stored flat, see `revit.common.data.flat`."""

    paths: FlatStrings
    """(n,)"""
    labels: NDArray[np.int64]
    """(n,): class numbers."""
    names: tuple[str, ...] | None
    """Class names by number, or None if the source only has numbers."""
    source: str
    """The list file or folder, for messages."""
    root: str = ""
    """Folder that names of samples count from, see `name`."""
    kept: tuple[int, ...] | None = None
    """Of a class subset, see `take`: the numbers that its classes have in the whole list."""

    @classmethod
    def build(
        cls,
        pairs: Iterable[tuple[str, int]],
        names: Sequence[str] | None,
        source: str,
        noun: str = "samples",
        root: str = "",
    ) -> Self:
        """From (path, class number) pairs. `UserError` if there are none."""
        paths, labels = GrowingStrings(), array("q")
        for path, label in pairs:
            paths.append(path)
            labels.append(label)
        if not labels:
            raise UserError(f"{source}: no {noun} in it")
        return cls(
            paths=paths.flat(),
            labels=np.frombuffer(labels, np.int64),
            names=tuple(names) if names is not None else None,
            source=source,
            root=root,
        )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def fingerprint(self) -> str:
        """Tells this list from every other one, in words and a check sum."""
        digest = hashlib.sha256(repr(self.names).encode())
        for column in (self.paths.text, self.paths.ends, self.labels):
            digest.update(np.ascontiguousarray(column).tobytes())
        return f"{len(self)} samples, {digest.hexdigest()[:12]}"

    def path(self, position: int) -> str:
        """File of sample `position`."""
        return self.paths[position]

    def name(self, position: int) -> str:
        """The path of sample `position` from `root` on; a path that is not below it, as it is."""
        path = self.path(position)
        below = path.startswith(os.path.join(self.root, "")) if self.root else False
        return os.path.relpath(path, self.root) if below else path

    def open(self, position: int) -> BinaryIO:
        """The contents of sample `position`, at their beginning. OSError if there are none."""
        return open(self.path(position), "rb")

    def take(self, positions: NDArray[np.int64], kept: Sequence[int], names: Sequence[str]) -> Self:
        """The samples at `positions`, all of classes among `kept`, which become classes 0, 1, ... called `names`."""
        new_number = np.empty(max(kept) + 1, np.int64)
        new_number[list(kept)] = np.arange(len(kept))
        return replace(
            self,
            paths=self.paths.take(positions),
            labels=new_number[self.labels[positions]],
            names=tuple(names),
            kept=tuple(kept),
        )

    def label(self, position: int) -> int:
        """Class number of sample `position`."""
        return int(self.labels[position])

    @property
    def num_classes(self) -> int:
        """Number of names, or, without names, one more than the largest label."""
        return len(self.names) if self.names is not None else int(self.labels.max()) + 1

    def check_classes(self, num_classes: int) -> None:
        """`UserError` unless every label is below `num_classes` and the names, if any, are that many."""
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
