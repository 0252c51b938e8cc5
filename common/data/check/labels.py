"""Trouble with the labels of lists: seen without opening a file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from revit.common.data.lists import SampleList

SHOWN_GAPS = 10


def class_counts(samples: SampleList) -> dict[str, int]:
    """Return the number of samples by class, in the order of their numbers."""
    return {samples.class_name(label): count for label, (count, _) in _found(samples).items()}


def _found(samples: SampleList) -> dict[int, tuple[int, int]]:
    """Return how many samples a class has, and the position of the first, by its number, rising."""
    labels, firsts, counts = np.unique(samples.all_labels, return_index=True, return_counts=True)
    firsts = samples.owners[firsts]
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
            yield f"class {samples.class_name(label)!r} has one file, {samples.path(first)}"
    if samples.names is not None:
        for label, name in enumerate(samples.names):
            if label not in counts:
                yield f"class {name!r} has no file"
        for alike in _alike(samples.names):
            yield f"classes {' and '.join(map(repr, alike))} differ in case, spaces or marks alone"
        return
    if samples.first_label:
        yield "its labels begin at 1, and are taken to count from there; if class 0 has no file here, set data.source.first_label=0"
    elif min(counts) == 1:
        yield "its labels begin at 1, so that class 0 has no file; if they count from there, set data.source.first_label=1"
    last = max(counts)
    gaps = [samples.class_name(label) for label in range(min(counts), last) if label not in counts]
    if gaps:
        shown = f"{', '.join(gaps[:SHOWN_GAPS])}{', ...' if len(gaps) > SHOWN_GAPS else ''}"
        yield f"{len(gaps)} numbers below its largest label {samples.class_name(last)} have no file: {shown}"


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
