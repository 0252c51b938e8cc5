"""Samples with the same content: the second one of a list is a duplicate, one of another list an overlap."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from revit.common.data.check.copies import same_bytes, same_pictures
from revit.common.data.check.files import GOOD, Files
from revit.common.data.check.result import Problem
from revit.common.data.lists import SampleList


def twins(files: Files, print_frames: int, labelled: bool) -> dict[int, Problem]:
    """Return a problem for every sample whose content an earlier sample has, too, by its number.

    The first one keeps its place, unless another label in the same list contradicts its own: then neither is to be trusted.
    print_frames: pictures that a print is of.
    """
    leader = _leaders(files, print_frames)[files.of_sample]
    columns = [leader]
    if any(samples.segments is not None for samples in files.lists):
        # Different parts of a file are different contents.
        columns += list(np.concatenate([_segments(samples) for samples in files.lists]).T)
    order = np.lexsort(columns)  # stable: samples with one content stay in order
    is_new = np.any([column[order[1:]] != column[order[:-1]] for column in columns], axis=0)
    ends = np.append(np.flatnonzero(is_new), len(order) - 1) + 1
    found: dict[int, Problem] = {}
    for begin, end in zip([0, *ends[:-1].tolist()], ends.tolist()):
        if end - begin > 1:
            found |= _of_group(files, order[begin:end].tolist(), labelled)
    return found


def _segments(samples: SampleList) -> NDArray[np.float64]:
    """Return beginning and end (n, 2) of all samples."""
    whole = np.array([[0.0, np.inf]])
    return np.repeat(whole, len(samples), 0) if samples.segments is None else samples.segments


def _leaders(files: Files, print_frames: int) -> NDArray[np.int64]:
    """Return for each file (F,) the first file with the same content."""
    leader = np.arange(len(files))
    good = files.code == GOOD

    def root(file: int) -> int:
        while leader[file] != file:
            leader[file] = file = int(leader[leader[file]])
        return file

    for one, other in (
        *same_bytes(files.digests, good),
        *same_pictures(files.prints, good & files.has_print, print_frames),
    ):
        first, second = sorted((root(one), root(other)), key=lambda file: int(files.first[file]))
        leader[second] = first
    for file in range(len(leader)):
        leader[file] = root(file)
    return leader


def _of_group(files: Files, numbers: list[int], labelled: bool) -> dict[int, Problem]:
    """Return the problems of samples with one content, whose numbers rise."""
    found: dict[int, Problem] = {}
    first_of: dict[int, int] = {}
    for number in numbers:
        which, position = files.sample(number)
        if not first_of:
            first_of[which] = number
            continue
        is_in_list = which in first_of
        other = first_of.setdefault(which, number) if is_in_list else next(iter(first_of.values()))
        first_of.setdefault(which, number)
        there, place = files.sample(other)
        twin, label, other_label = (
            files.lists[there].path(place),
            files.lists[which].class_names(position),
            files.lists[there].class_names(place),
        )
        reason = _how(files, number, other) + ("" if is_in_list else f" in {files.called[there]}")
        if labelled and label != other_label:
            reason += f", where its label is {other_label!r} and not {label!r}"
            if is_in_list:
                text = f"labelled {label!r}, too, as {files.lists[which].path(position)}; leave one of them"
                found.setdefault(other, Problem(twin, "duplicate", text))
        found[number] = Problem(files.lists[which].path(position), "duplicate" if is_in_list else "overlap", reason)
    return found


def _how(files: Files, number: int, other: int) -> str:
    """Return how a sample is like another one."""
    one, two = int(files.of_sample[number]), int(files.of_sample[other])
    if one == two:
        return "the same file is listed"
    is_equal = (files.digests[one] == files.digests[two]).all()
    return f"has the same {'bytes' if is_equal else 'pictures'} as {files.path(two)}"
