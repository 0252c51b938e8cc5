"""Trouble with the labels of lists: seen without opening a file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from revit.common.data.lists import SampleList


def class_name(samples: SampleList, label: int) -> str:
    """Return the name of a class, its number where there are no names."""
    return samples.names[label] if samples.names is not None and 0 <= label < len(samples.names) else str(label)


def class_counts(samples: SampleList) -> dict[str, int]:
    """Return the number of samples by class, in the order of their numbers."""
    return {class_name(samples, label): count for label, (count, _) in _found(samples).items()}


def _found(samples: SampleList) -> dict[int, tuple[int, int]]:
    """Return how many samples a class has, and the position of the first, by its number, rising."""
    numbers = np.fromiter((samples.label(position) for position in range(len(samples))), np.int64, len(samples))
    labels, firsts, counts = np.unique(numbers, return_index=True, return_counts=True)
    return {label: (count, first) for label, count, first in zip(labels.tolist(), counts.tolist(), firsts.tolist())}


def label_problems(lists: Mapping[str, SampleList]) -> Iterator[tuple[str, str]]:
    """Yield the source of a list, and what is wrong with its labels. lists: what each is called -> its samples."""
    for samples in lists.values():
        yield from ((samples.source, reason) for reason in _of_one(samples))
    called = list(lists)
    for at, one in enumerate(called):
        for other in called[at + 1 :]:
            yield from _of_two((one, lists[one]), (other, lists[other]))


def _of_one(samples: SampleList) -> Iterator[str]:
    counts = _found(samples)
    for label, (count, first) in counts.items():
        if count == 1:
            yield f"class {class_name(samples, label)!r} has one file, {samples.path(first)}"
    if samples.names is not None:
        for label, name in enumerate(samples.names):
            if label not in counts:
                yield f"class {name!r} has no file"
        for alike in _alike(samples.names):
            yield f"classes {' and '.join(map(repr, alike))} differ in case, spaces or marks alone"
        return
    if min(counts) == 1:
        yield "its labels begin at 1: number 0 would be a class without a file; count them from 0"
    gaps = [label for label in range(min(counts), max(counts)) if label not in counts]
    if gaps:
        shown = f"{', '.join(map(str, gaps[:10]))}{', ...' if len(gaps) > 10 else ''}"
        yield f"{len(gaps)} numbers between its labels {min(counts)} and {max(counts)} have no file: {shown}"


def _of_two(one: tuple[str, SampleList], other: tuple[str, SampleList]) -> Iterator[tuple[str, str]]:
    """Yield classes that have files in one of two lists alone."""
    for (called, samples), (second, others) in ((one, other), (other, one)):
        theirs = class_counts(others)
        for name in class_counts(samples):
            if name not in theirs:
                yield others.source, f"class {name!r} of {called} has no file in {second}"


def _alike(names: Sequence[str]) -> list[list[str]]:
    """Return names that are equal but for case, spaces and marks."""
    by_letters: dict[str, list[str]] = {}
    for name in names:
        by_letters.setdefault("".join(filter(str.isalnum, name.casefold())), []).append(name)
    return [alike for letters, alike in by_letters.items() if letters and len(alike) > 1]
