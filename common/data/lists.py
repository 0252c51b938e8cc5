"""The list of labelled samples, clips or pictures."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from revit.common.data.flat import FlatNumbers, FlatStrings
from revit.common.system.errors import UserError

SegmentUnit = Literal["seconds", "frames"]


class FilePart(str):
    """Path of a file that is a stretch of another one, such as a member of a tar file; as text, the path for messages."""

    def __new__(cls, shown: str, whole: str, offset: int, size: int) -> Self:
        """whole: path of the file that it lies in.  offset, size: its place there, in bytes."""
        part = super().__new__(cls, shown)
        part.whole, part.offset, part.size = whole, offset, size
        return part

    whole: str
    offset: int
    size: int

    def __reduce__(self) -> tuple[type[FilePart], tuple[str, str, int, int]]:
        return FilePart, (str(self), self.whole, self.offset, self.size)


@dataclass(frozen=True)
class Segment:
    """A part of a file."""

    start: float
    """Beginning, in `unit`."""
    end: float
    """End, in `unit`; infinite: that of the file."""
    unit: SegmentUnit

    def frames(self, num_frames: int, fps: float) -> tuple[int, int]:
        """Return the first frame and the number of frames, of a file with `num_frames` at `fps`: those shown from `start` on and
        before `end`, at least one. ValueError if the file ends before the segment begins."""
        rate = fps if self.unit == "seconds" else 1.0
        # A list says 3.34 s where frame 100 of 29.97 a second is meant: half a frame of its rounding is forgiven.
        first = max(math.ceil(self.start * rate - 0.5), 0)
        if first >= num_frames:
            length = f"{num_frames} frames" if self.unit == "frames" else f"{num_frames / fps:.1f} seconds"
            raise ValueError(f"the segment begins at {self.start:g} {self.unit}, the file has {length}")
        last = num_frames if math.isinf(self.end) else min(math.ceil(self.end * rate - 0.5), num_frames)
        return first, max(last - first, 1)


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
    label_sets: FlatNumbers | None = None
    """Class numbers of every sample where one may have several, or none; `labels` then has the first, -1 for none."""
    first_label: int = 0
    """Number that class 0 has in the source."""
    segments: NDArray[np.float64] | None = None
    """Beginning and end (n, 2) of each sample within its file, in `unit`; None: whole files."""
    unit: SegmentUnit = "seconds"
    """Unit of segments."""
    read_as: str = ""
    """Format in which the source was read, for messages."""

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
        columns = [self.paths.text, self.paths.ends, self.labels]
        columns += [] if self.segments is None else [self.segments]
        columns += [] if self.label_sets is None else [self.label_sets.numbers, self.label_sets.ends]
        for column in columns:
            digest.update(np.ascontiguousarray(column).tobytes())
        return f"{len(self)} samples, {digest.hexdigest()[:12]}"

    def path(self, position: int) -> str:
        """Return the file of sample `position`."""
        return self.paths[position]

    def name(self, position: int) -> str:
        """Return the path of sample `position` from `root` on, a path that is not below it as it is; behind it its segment."""
        path, segment = self.path(position), self.segment(position)
        below = path.startswith(os.path.join(self.root, "")) if self.root else False
        name = os.path.relpath(path, self.root) if below else path
        return name if segment is None else f"{name} [{segment.start:g}-{segment.end:g} {segment.unit}]"

    def segment(self, position: int) -> Segment | None:
        """Return the part of its file that sample `position` is; None: all of it."""
        start, end = (0.0, math.inf) if self.segments is None else self.segments[position].tolist()
        return None if (start, end) == (0, math.inf) else Segment(start, end, self.unit)

    def file(self, position: int) -> str:
        """Return the file of sample `position`, for readers that take a `FilePart` as well."""
        return self.path(position)

    def open(self, position: int) -> BinaryIO:
        """Return the contents of sample `position`, at their beginning. OSError if there are none."""
        return open(self.path(position), "rb")

    def at(self, positions: NDArray[np.int64]) -> Self:
        """Return the samples at `positions`."""
        segments = self.segments[positions] if self.segments is not None else None
        sets = self.label_sets
        sets = None if sets is None else FlatNumbers.of(sets[int(position)] for position in positions)
        paths, labels = self.paths.take(positions), self.labels[positions]
        return replace(self, paths=paths, labels=labels, segments=segments, label_sets=sets)

    def take(self, positions: NDArray[np.int64], kept: Sequence[int], names: Sequence[str]) -> Self:
        """Return the samples at `positions`, all of classes among `kept`, which become classes 0, 1, ... called `names`."""
        new_number = np.empty(max(kept) + 1, np.int64)
        new_number[list(kept)] = np.arange(len(kept))
        taken = self.at(positions)
        return replace(taken, labels=new_number[taken.labels], names=tuple(names), kept=tuple(kept))

    def class_name(self, number: int) -> str:
        """Return the name of a class, its number where the source has none."""
        return self.names[number] if self.names is not None else str(number + self.first_label)

    def class_names(self, position: int) -> str:
        """Return the name of the class of sample `position`; of several, all joined by `;`."""
        return ";".join(map(self.class_name, self.label_set(position)))

    def label_text(self, position: int, first: int = 0) -> str:
        """Return the class numbers of sample `position` as lists have them, counted from `first`: joined by `;`, `""` for none."""
        return ";".join(str(label + first) for label in self.label_set(position)) or '""'

    def label(self, position: int) -> int:
        """Return the class number of sample `position`. UserError in a list of samples that may have several."""
        if self.several:
            raise UserError(
                f"{self.source}: its samples may have several labels, and one of each is asked for here; leave out "
                "data.source.several_labels"
            )
        return int(self.labels[position])

    @property
    def several(self) -> bool:
        """Whether a sample may have several labels, or none."""
        return self.label_sets is not None

    def label_set(self, position: int) -> tuple[int, ...]:
        """Return all class numbers of sample `position`, rising."""
        return (self.label(position),) if self.label_sets is None else self.label_sets[position]

    def with_label_sets(self) -> Self:
        """Return the same list as one of samples with several labels."""
        sets = self.label_sets or FlatNumbers.of([label] for label in self.labels.tolist())
        return replace(self, label_sets=sets)

    @property
    def owners(self) -> NDArray[np.int64]:
        """Positions of the samples that `all_labels` belong to."""
        return np.arange(len(self)) if self.label_sets is None else self.label_sets.owners

    @property
    def all_labels(self) -> NDArray[np.int64]:
        """Labels of all samples one after the other."""
        return self.labels if self.label_sets is None else self.label_sets.numbers

    @property
    def num_classes(self) -> int:
        """Number of names, or, without names, one more than the largest label."""
        return len(self.names) if self.names is not None else int(self.all_labels.max(initial=-1)) + 1

    def check_classes(self, num_classes: int) -> None:
        """Raise UserError unless every label is below `num_classes` and the names, if any, are that many."""
        if self.names is not None and len(self.names) != num_classes:
            raise UserError(
                f"{self.source}: has {len(self.names)} class names, the model has {num_classes} classes; "
                f"set num_classes to {len(self.names)} or give the list of names that belongs to the model"
            )
        if not len(self.all_labels):
            raise UserError(f"{self.source}: none of its samples has a label; give a list with labels")
        place = int(self.all_labels.argmax())
        worst, label = int(self.owners[place]), self.all_labels[place]
        if label >= num_classes:
            raise UserError(
                f"{self.source}: {self.path(worst)} has label {label}, the model has {num_classes} "
                f"classes (0..{num_classes - 1}); set num_classes to {self.num_classes} or correct the list"
            )
