"""Lists of labelled files, clips or pictures: `path label` lines and folder-per-class trees.

Errors name file and line. `noun` is what the samples are called in messages ("clips", "pictures").
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from revit.common.data.label_names import check_label
from revit.common.errors import UserError

LOG = logging.getLogger("revit.data")

SHOWN_PROBLEMS = 5
"""Bad lines that one message names before it only counts."""


@dataclass(frozen=True)
class SampleList:
    """Paths and labels, stored flat.

    A Python list of strings grows in every loading worker as reference counts touch its pages; arrays do not.
    """

    text: NDArray[np.uint8]
    """All paths, one after the other, in the file system's encoding."""
    ends: NDArray[np.int64]
    """(n + 1,): path i is text[ends[i]:ends[i + 1]]."""
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
        encoded, labels = [], []
        for path, label in pairs:
            encoded.append(os.fsencode(path))
            labels.append(label)
        if not encoded:
            raise UserError(f"{source}: no {noun} in it")
        return cls(
            text=np.frombuffer(b"".join(encoded), dtype=np.uint8),
            ends=np.cumsum([0, *map(len, encoded)], dtype=np.int64),
            labels=np.array(labels, dtype=np.int64),
            names=tuple(names) if names is not None else None,
            source=source,
            root=root,
        )

    def __len__(self) -> int:
        return len(self.labels)

    def path(self, position: int) -> str:
        """File of sample `position`."""
        return os.fsdecode(self.text[self.ends[position] : self.ends[position + 1]].tobytes())

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
        pieces = [self.text[self.ends[position] : self.ends[position + 1]] for position in positions]
        new_number = {number: place for place, number in enumerate(kept)}
        return replace(
            self,
            text=np.concatenate(pieces) if pieces else self.text[:0],
            ends=np.cumsum([0, *map(len, pieces)], dtype=np.int64),
            labels=np.array([new_number[label] for label in self.labels[positions].tolist()], dtype=np.int64),
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


def read_samples(
    source: str,
    noun: str,
    extensions: tuple[str, ...],
    *,
    separator: str = " ",
    prefix: str = "",
    names: Sequence[str] | None = None,
) -> SampleList:
    """Read a list file or a folder-per-class tree, whichever `source` is. See `read_list` and `read_tree`."""
    if os.path.isdir(source):
        return read_tree(source, noun, extensions, names)
    return read_list(source, noun, separator=separator, prefix=prefix, names=names)


def read_list(
    source: str, noun: str, *, separator: str = " ", prefix: str = "", names: Sequence[str] | None = None
) -> SampleList:
    """Read lines `path separator label`. The label is the last field, so paths may contain the separator.

    separator: a space means any white space.  prefix: folder that relative paths are joined to.  names: known class
    names in order; labels may then be numbers or these names. Without them labels are all numbers, or all names, which
    are then numbered alphabetically. Quotes around a path and empty lines are left out.

    `UserError` naming file, line and what was found.
    """
    try:
        with open(source, encoding="utf-8-sig", errors="surrogateescape") as file:
            lines = file.read().splitlines()
    except OSError as error:
        raise UserError(
            f"{source}: cannot read this list of {noun} ({(error.strerror or str(error)).lower()})"
        ) from None
    cut = {" ": None, "\\t": "\t"}.get(separator, separator)
    rows: list[tuple[int, str, str]] = []
    problems: list[str] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        fields = line.rsplit(cut, 1)
        if len(fields) < 2 or not fields[0].strip() or not fields[1].strip():
            problems.append(
                f"line {number}: no label behind the path in {line.strip()!r} (separator {separator!r})"
            )
            continue
        path = fields[0].strip().strip('"')
        rows.append((number, os.path.join(prefix, path) if prefix else path, fields[1].strip().strip('"')))
    _refuse(source, problems)
    if not rows:
        raise UserError(f"{source}: no {noun} in it")
    if names is None and not is_number(rows[0][2]):
        if len(rows) > 1 and all(is_number(label) for _, _, label in rows[1:]):
            raise UserError(
                f"{source}: line {rows[0][0]} looks like a header ({lines[rows[0][0] - 1]!r}); delete it"
            )
        names = sorted({label for _, _, label in rows})
    number_of = {name: number for number, name in enumerate(names)} if names is not None else None
    pairs = []
    for number, path, label in rows:
        try:
            pairs.append((path, check_label(label, number_of)))
        except ValueError as error:
            problems.append(f"line {number}: {error}")
    _refuse(source, problems)
    return SampleList.build(pairs, names, source, noun, root=prefix)


def read_tree(
    source: str, noun: str, extensions: tuple[str, ...], names: Sequence[str] | None = None
) -> SampleList:
    """Read a folder with one subfolder per class; its files may lie deeper. Class numbers follow the folder names' order.

    extensions: files of a tree that are taken for samples, in any case (lists may name any file).  names: known class
    names (of the training tree): folders must be among them, and some may be missing.
    """
    from torchvision.datasets.folder import make_dataset

    folders = sorted(
        entry.name for entry in os.scandir(source) if entry.is_dir() and not entry.name.startswith(".")
    )
    if not folders:
        raise UserError(
            f"{source}: no subfolders; give a folder with one subfolder of {noun} per class, or a list file"
        )
    known = {name: number for number, name in enumerate(names if names is not None else folders)}
    unknown = [folder for folder in folders if folder not in known]
    if unknown:
        raise UserError(
            f"{source}: folders {', '.join(map(repr, unknown[:SHOWN_PROBLEMS]))} are not among the {len(known)} known "
            "class names; rename them or correct the names"
        )
    class_numbers = {folder: known[folder] for folder in folders}
    pairs = make_dataset(source, class_numbers, extensions=extensions, allow_empty=True)
    if not pairs:
        raise UserError(f"{source}: no {noun} ({' '.join(extensions)}) in its {len(folders)} subfolders")
    empty = sorted(set(class_numbers.values()) - {number for _, number in pairs})
    if empty:
        at = {number: folder for folder, number in class_numbers.items()}
        LOG.warning("%s: no %s in %s", source, noun, ", ".join(at[number] for number in empty))
    return SampleList.build(pairs, list(known), source, noun, root=source)


def is_number(label: str) -> bool:
    """Whether a label is a whole number, of either sign."""
    return label.lstrip("+-").isdecimal()


def _refuse(source: str, problems: list[str]) -> None:
    if problems:
        shown = "\n".join(f"  {problem}" for problem in problems[:SHOWN_PROBLEMS])
        more = f"\n  ... and {len(problems) - SHOWN_PROBLEMS} more" if len(problems) > SHOWN_PROBLEMS else ""
        raise UserError(f"{source}: {len(problems)} bad lines:\n{shown}{more}")
