"""Formats of lists: who recognises a source, and rows that become a `SampleList`."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any, Literal, Protocol

from revit.common.data.lists import SampleList
from revit.common.system.errors import UserError

Split = Literal["train", "val", "test"]
SPLIT_WORDS = {
    "train": ("train", "training"),
    "val": ("validation", "validate", "valid", "val", "dev"),
    "test": ("test", "testing"),
}
"""What columns and folders call a split, lower case."""
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
