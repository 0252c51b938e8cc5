"""Columns for lists of millions: a few arrays instead of a Python object per row.

A Python list of strings takes three times the memory of its text, and grows in every loading worker, as reference counts
touch the pages that a forked worker shares with its parent. Arrays are not touched.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

Label = TypeVar("Label", bound=Hashable)


@dataclass(frozen=True, eq=False)
class FlatStrings(Sequence[str]):
    """Strings one after the other, in the file system's encoding: any path that can be opened comes back unchanged."""

    text: NDArray[np.uint8]
    """Bytes of all strings."""
    ends: NDArray[np.int64]
    """Limits (n + 1,): string i is text[ends[i]:ends[i + 1]]."""

    @classmethod
    def of(cls, strings: Iterable[str]) -> FlatStrings:
        """Return any strings flat, taking them one at a time."""
        growing = GrowingStrings()
        for string in strings:
            growing.append(string)
        return growing.flat()

    def __len__(self) -> int:
        return len(self.ends) - 1

    @overload
    def __getitem__(self, position: int) -> str: ...
    @overload
    def __getitem__(self, position: slice) -> FlatStrings: ...
    def __getitem__(self, position: int | slice) -> str | FlatStrings:
        if isinstance(position, slice):
            return self.take(range(len(self))[position])
        position = range(len(self))[position]  # IndexError, and negative positions, as of any sequence
        return os.fsdecode(self.text[self.ends[position] : self.ends[position + 1]].tobytes())

    def take(self, positions: Iterable[int]) -> FlatStrings:
        """Return the strings at `positions`, in their order."""
        return FlatStrings.of(self[position] for position in positions)


class GrowingStrings:
    """Strings that are appended one by one and become `FlatStrings`."""

    def __init__(self) -> None:
        self._text = bytearray()
        self._ends = array("q", [0])

    def append(self, string: str) -> None:
        self._text += os.fsencode(string)
        self._ends.append(len(self._text))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def flat(self) -> FlatStrings:
        """Return what was appended, without a copy; nothing can be appended afterwards."""
        return FlatStrings(np.frombuffer(self._text, np.uint8), np.frombuffer(self._ends, np.int64))


class GrowingLabels(Generic[Label]):
    """Many labels of which few differ."""

    def __init__(self) -> None:
        self._place: dict[Label, int] = {}
        self._places = array("i")

    def append(self, label: Label) -> None:
        self._places.append(self._place.setdefault(label, len(self._place)))

    def __len__(self) -> int:
        return len(self._places)

    @property
    def distinct(self) -> list[Label]:
        """Labels, each once, in the order of their first appearance."""
        return list(self._place)

    @property
    def places(self) -> NDArray[np.int32]:
        """Positions (n,) of the labels in `distinct`."""
        return np.frombuffer(self._places, np.int32)


@dataclass(frozen=True, eq=False)
class FlatNumbers:
    """Sets of whole numbers, one after the other."""

    numbers: NDArray[np.int64]
    """Numbers of all sets."""
    ends: NDArray[np.int64]
    """Limits (n + 1,): set i is numbers[ends[i]:ends[i + 1]]."""

    @classmethod
    def of(cls, sets: Iterable[Iterable[int]]) -> FlatNumbers:
        """Return any sets flat, each in rising order."""
        numbers, ends = array("q"), array("q", [0])
        for one in sets:
            numbers.extend(sorted(set(one)))
            ends.append(len(numbers))
        return cls(np.array(numbers, np.int64), np.array(ends, np.int64))

    def __len__(self) -> int:
        return len(self.ends) - 1

    def __getitem__(self, position: int) -> tuple[int, ...]:
        return tuple(self.numbers[self.ends[position] : self.ends[position + 1]].tolist())

    @property
    def owners(self) -> NDArray[np.int64]:
        """Position of the set that each number belongs to."""
        return np.repeat(np.arange(len(self)), np.diff(self.ends))
