"""Formats of lists: who recognises a source, and rows that become a `SampleList`."""

from __future__ import annotations

import csv
import json
import logging
import os
import re
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any, Literal, Protocol

import numpy as np

from revit.common.data.flat import FlatNumbers, GrowingLabels, GrowingStrings
from revit.common.data.label_names import check_label
from revit.common.data.lists import SampleList, SegmentUnit
from revit.common.system.errors import UserError

LOG = logging.getLogger("revit.data")

Split = Literal["train", "val", "test"]
SHOWN_PROBLEMS = 5
"""Bad lines that one message names; the others are counted."""
SPLIT_WORDS = {
    "train": ("train", "training"),
    "val": ("validation", "validate", "valid", "val", "dev"),
    "test": ("test", "testing"),
}
"""What columns and folders call a split, lower case."""
WHOLE = re.compile(r"[+-]?\d+(\.0+)?")
HEAD_LINES = 200
"""Lines from which a format is recognised."""


@dataclass(frozen=True)
class ListRequest:
    """A source of samples, and what the configuration says about it."""

    source: str
    """List file or folder."""
    noun: str = "samples"
    """Name of the samples in messages, such as clips."""
    extensions: tuple[str, ...] = ()
    """Endings of sample files, lower case."""
    format: str | None = None
    """Name of the format; None: recognised."""
    split: Split = "train"
    separator: str = " "
    """Text between path and label; a space: found out."""
    prefix: str = ""
    """Folder that relative paths are joined to."""
    names: tuple[str, ...] | None = None
    """Class names by number, where they are known."""
    first_label: int | None = None
    """Number that the first class has in the list; None: found out."""
    fold: int = 1
    """Number of the official split (UCF101, HMDB51)."""
    train_labels: Literal["names", "numbers"] | None = None
    """What the labels of the training list are, for another list of the run."""
    label_column: str | None = None
    """Name of the column with the labels, in lists that have several."""
    several: bool = False
    """A sample may have several labels, or none."""

    @cached_property
    def is_folder(self) -> bool:
        return os.path.isdir(self.source)

    @cached_property
    def entries(self) -> list[os.DirEntry[str]]:
        """Entries of the folder by name, without hidden ones; none of a file."""
        return list_folder(self.source) if self.is_folder else []

    @cached_property
    def head(self) -> list[str]:
        """First lines of a list file that are not empty, stripped; none of a folder or of a file that is no text."""
        return [line for _, line in islice(self.lines(), HEAD_LINES)] if self.is_text else []

    @cached_property
    def is_text(self) -> bool:
        """Whether the source is a file whose beginning can be text. UserError if it cannot be read."""
        if self.is_folder:
            return False
        try:
            with open(self.source, "rb") as file:
                return b"\0" not in file.read(4096)
        except OSError as error:
            raise self.unreadable(error) from None

    @cached_property
    def header(self) -> list[str]:
        """Cells of the first line, as of a table with commas, without quotes; none of a folder."""
        return [cell.strip() for cell in next(csv.reader(self.head[:1], skipinitialspace=True), [])]

    def lines(self) -> Iterator[tuple[int, str]]:
        """Yield number and text of each line that is not empty, stripped. UserError if the file cannot be read."""
        try:
            with open(self.source, encoding="utf-8-sig", errors="surrogateescape") as file:
                for number, line in enumerate(file, start=1):
                    if stripped := line.strip():
                        yield number, stripped
        except OSError as error:
            raise self.unreadable(error) from None

    def unreadable(self, error: OSError) -> UserError:
        """Return the message for a list that cannot be read."""
        reason = (error.strerror or str(error)).lower()
        return UserError(f"{self.source}: cannot read this list of {self.noun} ({reason})")

    @cached_property
    def json(self) -> Any:
        """Content of a JSON file; None for anything else. UserError if it is called so and is damaged."""
        if self.is_folder or not self.source.lower().endswith(".json"):
            return None
        try:
            with open(self.source, encoding="utf-8-sig") as file:
                return json.load(file)
        except OSError as error:
            raise self.unreadable(error) from None
        except ValueError as error:
            raise UserError(f"{self.source}: is no JSON ({error}); download or write it again") from None

    def beside(self, *names: str) -> str | None:
        """Return the first of the files `names` that lies in the list's folder, or in the folder above it."""
        folder = self.source if self.is_folder else os.path.dirname(os.path.abspath(self.source))
        for place in (folder, os.path.dirname(os.path.abspath(folder))):
            for name in names:
                if os.path.isfile(path := os.path.join(place, name)):
                    return path
        return None

    def locate(self, path: str) -> str:
        """Return a path of the list with the configuration's prefix in front, if there is one."""
        return os.path.join(self.prefix, path) if self.prefix else path

    def is_sample(self, text: str) -> bool:
        """Say whether a name ends as sample files do."""
        return text.lower().endswith(self.extensions)


class Format(Protocol):
    """One way in which people write down samples."""

    name: str
    """Name for `data.source.format`."""

    def recognises(self, request: ListRequest) -> bool:
        """Say whether the source, looked at quickly, is in this format."""

    def read(self, request: ListRequest) -> SampleList:
        """Read all samples. UserError names the file, the line and what was found."""


def read_source(request: ListRequest, formats: Sequence[Format]) -> SampleList:
    """Read a list or folder in the format that the request names, or in the first that recognises it.

    Raises:
        UserError: the source is not there, in no known format, or faulty.
    """
    by_name, forced = {format.name: format for format in formats}, request.format
    if forced is not None and forced not in by_name:
        raise UserError(f"data.source.format {forced!r}: choose from {', '.join(by_name)}, or leave it out")
    chosen = by_name[forced] if forced is not None else next((f for f in formats if f.recognises(request)), None)
    if chosen is None:
        raise UserError(
            f"{request.source}: not recognised as a list or folder of {request.noun}; name what it is with "
            f"data.source.format ({', '.join(by_name)})"
        )
    return chosen.read(request)


class Rows:
    """Rows of a list, gathered flat; `finish` numbers their labels."""

    def __init__(self, request: ListRequest, unit: SegmentUnit | None = None) -> None:
        self.request = request
        self.unit = unit
        self._paths = GrowingStrings()
        self._labels = GrowingLabels[tuple[str, ...]]()
        self._lines = array("q")
        self._segments = array("d")
        self._bad: list[tuple[int, str]] = []

    def append(
        self, path: str, label: str | tuple[str, ...], line: int, segment: tuple[float, float] | None = None
    ) -> None:
        """Add a sample, with one label or those that it has; segment: beginning and end within the file, in `unit`."""
        self._paths.append(path)
        self._labels.append((label,) if isinstance(label, str) else label)
        self._lines.append(line)
        if self.unit is not None:
            self._segments.extend(segment or (0.0, float("inf")))

    def refuse(self, line: int, reason: str) -> None:
        """Note a line that is no sample; `finish` names it."""
        self._bad.append((line, reason))

    def finish(self, read_as: str, names: Sequence[str] | None = None) -> SampleList:
        """Return the list. UserError for refused lines and labels that are no class.

        Labels are class names or whole numbers. Names are numbered as the request's `names`, else `names`, else alphabetically.
        Numbers count from the request's `first_label`; where that is open, from 1 if they are 1, 2, ... without a gap and, where
        there are names, as many.
        """
        request = self.request
        _check_lines(request.source, self._bad)
        if not len(self._paths):
            raise UserError(f"{request.source}: no {request.noun} in it")
        sets, places = self._labels.distinct, self._labels.places
        if all(
            WHOLE.fullmatch(text) for one in sets for text in one
        ):  # 3.0, as pandas writes where a label was missing
            sets = [tuple(text.partition(".")[0] for text in one) for one in sets]
        texts = list(dict.fromkeys(text for one in sets for text in one))
        if not texts:
            raise UserError(f"{request.source}: none of its {request.noun} has a label; give a list with labels")
        every = set(texts)
        joined = None if request.several else next((text for text in texts if _is_joined(text, every)), None)
        if joined is not None:
            LOG.warning(
                "%s: %r is taken for a class of its own; if it is several labels set data.source.several_labels=true",
                request.source,
                joined,
            )
        numeric = [int(text) for text in texts if is_number(text)]
        known = request.names or (tuple(names) if names is not None else None)
        if known is None and not is_number(texts[0]):
            known = tuple(sorted(texts))
        if request.train_labels == "numbers" and known is not None and request.names is None:
            raise UserError(
                f"{request.source}: its labels are names ({texts[0]!r}), those of the training list are numbers; give "
                "data.source.label_names, the names in the order of the numbers"
            )
        said_by_list = names is not None and tuple(names) == known
        if (
            request.train_labels == "names"
            and numeric
            and not said_by_list
            and not set(map(str, numeric)) & set(known or ())
        ):
            LOG.warning(
                "%s: its labels are numbers, those of the training list are names: %d is taken for %r, and so on; "
                "data.source.label_names says it for sure",
                request.source,
                0,
                (known or ("",))[0],
            )
        first = first_number(numeric, known) if request.first_label is None else request.first_label
        number_of = {name: number for number, name in enumerate(known)} if known is not None else None
        numbers, faults = {}, {}
        for label in texts:
            try:
                numbers[label] = check_label(label, number_of, first)
            except ValueError as error:
                faults[label] = str(error)
        wrong = {place: faults[label] for place, one in enumerate(sets) for label in one if label in faults}
        rows = np.flatnonzero(np.isin(places, list(wrong))) if wrong else ()
        _check_lines(request.source, [(self._lines[row], wrong[places[row]]) for row in rows])
        numbered = [tuple(sorted({numbers[label] for label in one})) for one in sets]
        firsts = np.array([one[0] if one else -1 for one in numbered], np.int64)
        counted = f", labels from {first}" if numeric and (first or known is None) else ""
        return SampleList(
            self._paths.flat(),
            firsts[places],
            known,
            request.source,
            root=request.prefix,
            first_label=first,
            segments=np.frombuffer(self._segments, np.float64).reshape(-1, 2) if self.unit is not None else None,
            unit=self.unit or "seconds",
            read_as=read_as + counted,
            label_sets=FlatNumbers.of(numbered[place] for place in places) if request.several else None,
        )


def first_number(numbers: Iterable[int], names: Sequence[str] | None) -> int:
    """Return what labels that are numbers count from: 1 if they are 1, 2, ... and, where there are names, as many; else 0.

    Without a gap, so that some classes of a larger data set keep the numbers that they have there.
    """
    distinct = sorted(set(numbers))
    from_one = bool(distinct) and distinct == list(range(1, len(distinct) + 1))
    return int(from_one and (names is None or len(distinct) == len(names)))


def labels_in(text: str, joined_by: str = ";|") -> tuple[str, ...]:
    """Return the labels of a sample that may have several, joined by any of the signs `joined_by`; none of an empty text."""
    return tuple(dict.fromkeys(label.strip() for label in re.split(f"[{joined_by}]", text) if label.strip()))


def _is_joined(text: str, labels: set[str]) -> bool:
    """Say whether a label looks like several of the others in one."""
    by_bars, by_commas = set(labels_in(text)), set(labels_in(text, ","))
    return (len(by_bars) > 1 and bool(by_bars & labels)) or (len(by_commas) > 1 and by_commas <= labels)


def is_number(label: str) -> bool:
    """Return whether a label is a whole number, of either sign."""
    return label.lstrip("+-").isdecimal()


def list_folder(folder: str) -> list[os.DirEntry[str]]:
    """Return the entries of a folder by name, without hidden ones. UserError if it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            shown = [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise unreadable(error) from None
    return sorted(shown, key=lambda entry: entry.name)


def walk_files(folder: str, extensions: tuple[str, ...]) -> Iterator[str]:
    """Yield the paths of all files below a folder that end so, in any case, by name. UserError if a folder cannot be read."""

    def refuse(error: OSError) -> None:
        raise unreadable(error) from None

    for inner, _, names in sorted(os.walk(folder, followlinks=True, onerror=refuse)):
        for name in sorted(names):
            if name.lower().endswith(extensions):
                yield os.path.join(inner, name)


def unreadable(error: OSError) -> UserError:
    """Return the message for a folder that cannot be read."""
    reason = (error.strerror or str(error)).lower()
    return UserError(f"{error.filename}: cannot be read ({reason}); allow it, or take this folder out")


class FilesByStem:
    """The sample files below a folder, found by their name without folder and ending."""

    def __init__(self, request: ListRequest) -> None:
        self.root = request.prefix or os.path.dirname(os.path.abspath(request.source))
        self._source, self._endings = request.source, request.extensions
        self._path_of: dict[str, str] = {}
        self._twins: dict[str, str] = {}
        for path in walk_files(self.root, request.extensions) if os.path.isdir(self.root) else ():
            stem = os.path.splitext(os.path.basename(path))[0]
            if self._path_of.setdefault(stem, path) != path:
                self._twins[stem] = path

    def path(self, *names: str) -> str:
        """Return the file of the first name that has one, else where the last would lie: it then counts as missing.

        A name may have folders, which then count from the root. UserError if several files are called so.
        """
        for name in names:
            for ending in ("", *self._endings) if os.path.dirname(name) else ():
                if os.path.exists(path := os.path.join(self.root, name + ending)):
                    return path
        for stem in map(os.path.basename, names):
            if stem in self._twins:
                raise UserError(
                    f"{self._source}: {stem} may be {self._path_of[stem]} or {self._twins[stem]}; write the folder in the list, "
                    "or set data.source.prefix to the folder with one of them"
                )
            if stem in self._path_of:
                return self._path_of[stem]
        return os.path.join(self.root, names[-1] + self._endings[0])


def _check_lines(source: str, bad: Sequence[tuple[int, str]]) -> None:
    """Raise UserError if there are bad lines, each a line's number and what is wrong with it."""
    if bad:
        shown = "".join(f"\n  line {number}: {text}" for number, text in bad[:SHOWN_PROBLEMS])
        more = f"\n  ... and {len(bad) - SHOWN_PROBLEMS} more" if len(bad) > SHOWN_PROBLEMS else ""
        raise UserError(f"{source}: {len(bad)} bad lines:{shown}{more}")
