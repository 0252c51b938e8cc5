"""What a run says about its lists before it begins: one line on what they hold, and what in them is worth a stop."""

from __future__ import annotations

import os
import time
import zlib
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from revit.common.data.formats.base import Split
from revit.common.data.lists import SampleList

SHOWN_NAMES = 3
"""Class names that a line shows; the others are counted."""


MOSTLY = 0.5
"""Share of the machine's cores that others use from which it is said."""


def data_lines(lists: Mapping[Split, SampleList], names: Sequence[str], noun: str) -> tuple[str, list[str]]:
    """Return the line on the lists of a run, and a warning for each thing in them that makes a result worthless or says less than
    it seems to. lists: those of the run, the first of them the one that is trained on."""
    keys: dict[int, NDArray[np.int64]] = {}
    for samples in lists.values():  # one list may be there twice, and is read through once
        if id(samples) not in keys:
            keys[id(samples)] = _keys(samples)
    by_split = {split: keys[id(samples)] for split, samples in lists.items()}
    return _line(lists, by_split, names, noun), _warnings(lists, by_split, names, noun)


Keys = Mapping[Split, NDArray[np.int64]]


def _line(lists: Mapping[Split, SampleList], keys: Keys, names: Sequence[str], noun: str) -> str:
    """Return one line on the lists of a run: "data: 150 clips, 6 classes (Jump, Run, ...); val 96; test 96, the same files as val"."""
    parts: list[str] = []
    earlier: list[Split] = []
    for split, samples in lists.items():
        if not parts:
            parts.append(f"data: {len(samples)} {noun}, {len(names)} classes ({_some(names)})")
        else:
            twin = next((other for other in earlier if _are_same(keys[other], keys[split])), None)
            parts.append(f"{split} {len(samples)}" + (f", the same files as {twin}" if twin is not None else ""))
        earlier.append(split)
    return "; ".join(parts)


def _warnings(lists: Mapping[Split, SampleList], keys: Keys, names: Sequence[str], noun: str) -> list[str]:
    """Name classes without samples, and files that are trained on and tested, with what to do."""
    found: list[str] = []
    if len(names) == 1:
        found.append(
            f"data: all {noun} are of one class ({names[0]}), so that there is nothing to tell apart; give a folder with one "
            "subfolder per class, or a list with a label in each line"
        )
    for split, samples in lists.items():
        present = np.bincount(samples.all_labels, minlength=len(names)) > 0
        missing = [names[number] for number in np.flatnonzero(~present[: len(names)]).tolist()]
        if missing:
            counted = f"{len(missing)} of the {len(names)} classes" if len(missing) > 1 else "one class"
            step = "add some, or take the class out" if split == "train" else "its accuracy says nothing about it"
            found.append(f"data.source.{split}: no {noun} of {counted} ({_some(missing)}): {step}")
    tested: list[Split] = [split for split in ("val", "test") if split in lists and "train" in lists]
    if len(tested) == 2 and _are_same(keys["val"], keys["test"]):
        tested = tested[:1]
    for split in tested:
        shared = len(np.intersect1d(keys["train"], keys[split]))
        if shared:
            found.append(
                f"data.source.{split}: {shared} of its {len(lists[split])} {noun} are trained on as well; what is right on them is no "
                "evidence: take them out of one of the lists"
            )
    return found


def machine_warnings(num_workers: int, num_threads: int, processes: int = 1) -> list[str]:
    """Return a line for more loading processes, or threads, than this process may use cores; processes: those of this machine."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    found: list[str] = []
    each = f"{processes} processes with " if processes > 1 else ""
    if num_workers * processes > cores:
        fits = max(cores // processes, 1)
        found.append(f"data.loading.num_workers: {each}{num_workers} on {cores} cores; set it to {fits} or less")
    if num_threads * processes > cores:
        fits = max(cores // processes, 1)
        found.append(f"{each}{num_threads} threads on {cores} cores slow each other; set OMP_NUM_THREADS={fits}")
    elif num_threads > 1 and (busy := busy_share()) > MOSTLY:
        found.append(
            f"{busy:.0%} of the cores are at work for others: {num_threads} threads wait for the slowest of them; "
            "OMP_NUM_THREADS=1 can be several times faster"
        )
    return found


def busy_share(seconds: float = 0.2) -> float:
    """Measure for so long which share of the machine's cores is busy while this process waits; 0 where the system does not say."""

    def ticks() -> tuple[int, int]:
        with open("/proc/stat", encoding="ascii") as file:  # user, nice, system, idle, waiting for a disk, ...
            numbers = [int(text) for text in file.readline().split()[1:9]]
        return sum(numbers), numbers[3] + numbers[4]

    try:
        total, idle = ticks()
        time.sleep(seconds)
        later, idle_later = ticks()
    except (OSError, ValueError, IndexError):
        return 0.0
    return 1 - (idle_later - idle) / max(later - total, 1)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN_NAMES]) + (", ..." if len(names) > SHOWN_NAMES else "")


def _are_same(one: NDArray[np.int64], two: NDArray[np.int64]) -> bool:
    """Say whether two lists have the same samples, in whatever order."""
    return one is two or (len(one) == len(two) and np.array_equal(np.sort(one), np.sort(two)))


def _keys(samples: SampleList) -> NDArray[np.int64]:
    """Return a number (n,) for each sample: a check sum of its real path, and of its segment."""
    keys = np.empty(len(samples), np.int64)
    for position in range(len(samples)):
        segment = samples.segment(position)
        text = os.fsencode(os.path.abspath(samples.path(position))) + repr(segment).encode() * (segment is not None)
        keys[position] = zlib.crc32(text) << 31 | zlib.adler32(text) >> 1
    return keys
