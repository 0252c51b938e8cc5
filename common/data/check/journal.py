"""What was found of the files of one list, kept between checks: a line of JSON for each, appended when it is known.

A process killed at any moment leaves half a line at most, which is left out. A file is known by its path, size and time of
change; one that has changed is read again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from revit.common.data.check.facts import Facts
from revit.common.system.errors import UserError, reason_of

VERSION = 1
"""Raised whenever the same file would get another line."""
NAME = "journal.jsonl"


class Journal:
    """The lines of one list, in `folder`. Use it as a context: it holds the file open."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME
        try:
            self._file = open(self.path, "a+b")  # noqa: SIM115 (closed by the context)
        except OSError as error:
            raise self._unwritable(error) from None

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()

    def known(self) -> Iterator[tuple[str, tuple[int, int], Facts]]:
        """Yield path, stamp (see `Place.stamp`) and facts of every line; of a file with several, the last one counts."""
        self._file.seek(0)
        text = b"\n"
        for text in self._file:
            try:
                line = json.loads(text)
                if line["version"] == VERSION:
                    yield line["path"], (line["size"], line["mtime_ns"]), Facts.from_json(line)
            except (ValueError, KeyError, TypeError):
                continue
        if not text.endswith(b"\n"):
            self._append(b"\n")

    def add(self, path: str, stamp: tuple[int, int], facts: Facts) -> None:
        """Append a line. UserError if the disk is full."""
        line = {"version": VERSION, "path": path, "size": stamp[0], "mtime_ns": stamp[1], **facts.to_json()}
        self._append(json.dumps(line).encode() + b"\n")

    def _append(self, text: bytes) -> None:
        try:
            self._file.write(text)
            self._file.flush()
        except OSError as error:
            raise self._unwritable(error) from None

    def _unwritable(self, error: OSError) -> UserError:
        reason = reason_of(error).lower()
        return UserError(f"{self.path}: cannot be written ({reason}); free space, and the same command goes on")
