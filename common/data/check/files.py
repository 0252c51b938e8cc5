"""The distinct files of some lists, and what is known of each: flat arrays, for lists of millions."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from revit.common.data.check.facts import DIGEST_BYTES, KINDS, PRINT_BYTES, Facts, Kind
from revit.common.data.lists import SampleList

UNKNOWN = -1
"""Code of a file that was not looked at."""
GOOD = len(KINDS)
"""Code of a file without a problem; the others are positions in KINDS."""


class Files:
    """Files F of samples n, the lists one after the other.

    scratch: folder for the prints, which need not fit into memory.
    """

    def __init__(self, lists: Mapping[str, SampleList], scratch: Path) -> None:
        self.lists = list(lists.values())
        self.called = list(lists)
        self.begins = np.cumsum([0, *map(len, self.lists)])
        """Positions (L + 1,) among the samples at which lists begin."""
        keys = np.fromiter(
            (_key(samples.path(position)) for samples in self.lists for position in range(len(samples))),
            np.uint64,
            int(self.begins[-1]),
        )
        self._keys, self.first, self.of_sample = np.unique(keys, return_index=True, return_inverse=True)
        num_files = len(self._keys)
        self.code = np.full(num_files, UNKNOWN, np.int8)
        """State (F,) of each file."""
        self.digests = np.zeros((num_files, DIGEST_BYTES), np.uint8)
        self.seconds = np.zeros(num_files, np.float32)
        self.frames = np.zeros(num_files, np.int32)
        self.has_print = np.zeros(num_files, np.bool_)
        with tempfile.TemporaryFile(dir=scratch) as file:  # its space is freed with the last view of it
            file.truncate(max(1, num_files * PRINT_BYTES))
            self.prints = np.memmap(file, np.uint8, "r+", shape=(num_files, PRINT_BYTES))
        self.texts: dict[int, str] = {}
        """Problems and oddities by file; nothing is kept of the others."""

    def __len__(self) -> int:
        return len(self.first)

    def place_of(self, file: int) -> tuple[int, int]:
        """Return the list that first names a file, and the position there."""
        return self.sample(int(self.first[file]))

    def sample(self, number: int) -> tuple[int, int]:
        """Return the list of a sample, and its position there."""
        which = int(np.searchsorted(self.begins, number, side="right")) - 1
        return which, number - int(self.begins[which])

    def path(self, file: int) -> str:
        which, position = self.place_of(file)
        return self.lists[which].path(position)

    def file(self, file: int) -> str:
        """Return what readers open: a path, or a part of a file."""
        which, position = self.place_of(file)
        return self.lists[which].file(position)

    def find(self, path: str) -> int | None:
        """Return the file of this path, if a list names it."""
        key = np.uint64(_key(path))
        at = int(np.searchsorted(self._keys, key))
        return at if at < len(self) and self._keys[at] == key else None

    def learn(self, file: int, facts: Facts) -> None:
        """Take in what was found of a file."""
        self.code[file] = GOOD if facts.kind is None else KINDS.index(facts.kind)
        self.seconds[file], self.frames[file] = facts.seconds, facts.frames
        if facts.digest:
            self.digests[file] = np.frombuffer(facts.digest, np.uint8)
        if facts.print:
            self.prints[file] = np.frombuffer(facts.print, np.uint8)
            self.has_print[file] = True
        if text := facts.reason or facts.odd:
            self.texts[file] = text

    def kind(self, file: int) -> Kind | None:
        """Return what is wrong with a file; None for nothing, or if it was not looked at."""
        code = int(self.code[file])
        return KINDS[code] if 0 <= code < GOOD else None

    @property
    def looked_at(self) -> NDArray[np.bool_]:
        """Samples (n,) whose file was looked at."""
        known: NDArray[np.bool_] = (self.code != UNKNOWN)[self.of_sample]
        return known


def _key(path: str) -> int:
    return int.from_bytes(hashlib.blake2b(os.fsencode(path), digest_size=8).digest(), "little")
