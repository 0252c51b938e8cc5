"""A check of some lists: every file, or a sample of them, read in processes side by side; then what several have in common."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from revit.common.data.check.facts import Facts, Subject, examine, stamp_of
from revit.common.data.check.files import GOOD, UNKNOWN, Files
from revit.common.data.check.journal import Journal
from revit.common.data.check.labels import label_problems
from revit.common.data.check.result import Checkup, Problem
from revit.common.data.check.summary import keep_summary, kept_folder
from revit.common.data.check.twins import twins
from revit.common.data.lists import SampleList, Segment
from revit.common.system.crew import Died, side_by_side
from revit.common.system.files import locked
from revit.common.system.log import progress

UNKEPT = ("missing", "slow")
"""Kinds that are looked for again by the next check, as they depend on the machine."""

CUT_SHARE = 0.1
"""Share of a segment that may be missing at the end of its file without a remark."""
UPDATE_SECONDS = 0.2
"""Time between two changes of the progress bar."""


@dataclass(frozen=True)
class Plan:
    """Lists to check, and settings of the check."""

    lists: Mapping[str, SampleList]
    """Samples by the name of their list. Of content in two lists the first keeps its file."""
    read_as: str
    subject: Subject
    limit: float
    """Seconds without progress, after which a file is slow."""
    num_workers: int
    labelled: bool = True
    """False for plain folders of files."""
    label_remarks: Sequence[Problem] = ()
    """Trouble with labels that was seen when the lists were read."""
    sample: int | None = None
    """Files to be read of all, drawn with a fixed seed; None: all."""
    span: tuple[float, int] = (0.0, 1)
    """Seconds and frames that a configuration takes of a file."""


def check(plan: Plan) -> Checkup:
    """Read every file that is not known from an earlier check, and keep the summary of every list.

    Killed at any moment, the same call goes on. UserError if another check of a list is at work, or the disk is full.
    """
    begin = time.monotonic()
    folders = [kept_folder(samples.source) for samples in plan.lists.values()]
    with ExitStack() as held:
        for folder in dict.fromkeys(folders):
            held.enter_context(locked(folder / "lock", "another check of this list is at work"))
        files = Files(plan.lists, folders[0])
        journals = [held.enter_context(Journal(folder)) for folder in folders]
        chosen = _chosen(len(files), plan.sample)
        _recall(files, journals, chosen)
        _read(plan, files, journals, chosen)
        bad = {**_beyond(files), **twins(files, plan.subject.print_frames, plan.labelled), **_bad_files(files)}
        labels = [*plan.label_remarks]
        if plan.labelled:
            labels += [Problem(source, "label", reason) for source, reason in label_problems(plan.lists)]
        checked = datetime.now(timezone.utc).isoformat(timespec="seconds")
        odd, seconds = _odd_files(plan, files), time.monotonic() - begin
        checkup = Checkup(files, plan.read_as, bad, odd, labels, plan.labelled, checked, seconds)
        for which, folder in enumerate(folders):
            keep_summary(folder, checkup.summary(which), files.called[which] if folders.count(folder) > 1 else None)
    return checkup


def _chosen(num_files: int, sample: int | None) -> NDArray[np.int64]:
    """Return the files to be read, rising."""
    if sample is None or sample >= num_files:
        return np.arange(num_files)
    return np.sort(np.random.default_rng(0).permutation(num_files)[:sample])


def _recall(files: Files, journals: Sequence[Journal], chosen: NDArray[np.int64]) -> None:
    """Take in what earlier checks found of files that have not changed since."""
    wanted = np.zeros(len(files), np.bool_)
    wanted[chosen] = True
    for journal in journals:
        for path, stamp, facts in journal.known():
            file = files.find(path)
            if file is None or not wanted[file]:
                continue
            try:
                if stamp_of(files.file(file)) == stamp:
                    files.learn(file, facts)
            except (OSError, ValueError):
                continue


def _read(plan: Plan, files: Files, journals: Sequence[Journal], chosen: NDArray[np.int64]) -> None:
    """Read the files that are not known yet."""
    left = chosen[files.code[chosen] == UNKNOWN]
    items = ((file, files.file(file)) for file in map(int, left))
    work = partial(examine, look=plan.subject.look)
    num_bad = int(sum(files.kind(int(file)) is not None for file in chosen))
    with progress("Checking files", len(chosen)) as update_bar:
        update_bar(advance=len(chosen) - len(left))
        done, shown = 0, 0.0
        for (file, path), answer in side_by_side(items, work, min(plan.num_workers, len(left)), plan.limit):
            stamp, facts = (None, _death(answer, plan.limit)) if isinstance(answer, Died) else answer
            if stamp is not None and facts.kind not in UNKEPT:
                journals[files.place_of(file)[0]].add(path, stamp, facts)
            files.learn(file, facts)
            num_bad += facts.kind is not None
            done += 1
            if time.monotonic() - shown > UPDATE_SECONDS:
                update_bar(advance=done, note=f"{num_bad} bad" if num_bad else None)
                done, shown = 0, time.monotonic()
        update_bar(advance=done, note=f"{num_bad} bad" if num_bad else None)


def _death(died: Died, limit: float) -> Facts:
    if died.late:
        return Facts("slow", f"not read in {limit:g} s, for every minute of it, and given up")
    return Facts("unreadable", f"reading it crashed the decoder ({died.reason})")


def _bad_files(files: Files) -> dict[int, Problem]:
    """Return the samples of files that cannot be used, or not whole."""
    problems = {
        file: Problem(files.path(file), kind, files.texts.get(file, ""))
        for file in map(int, np.flatnonzero((files.code != UNKNOWN) & (files.code != GOOD)))
        if (kind := files.kind(file)) is not None
    }
    numbers = np.flatnonzero(np.isin(files.of_sample, list(problems)))
    return {int(number): problems[int(files.of_sample[number])] for number in numbers}


def _beyond(files: Files) -> dict[int, Problem]:
    """Return the segments that begin behind the end of their file."""
    found = {}
    for number, segment, file in _segments(files):
        try:
            segment.frames(int(files.frames[file]), _rate(files, file))
        except ValueError as error:
            found[number] = Problem(files.path(file), "truncated", str(error))
    return found


def _segments(files: Files) -> Iterator[tuple[int, Segment, int]]:
    """Yield samples that are a part of a clip whose length is known, with their file."""
    for begin, samples in zip(files.begins.tolist(), files.lists):
        for position in range(len(samples) if samples.segments is not None else 0):
            file = int(files.of_sample[begin + position])
            if (segment := samples.segment(position)) is not None and files.frames[file]:
                yield begin + position, segment, file


def _rate(files: Files, file: int) -> float:
    """Return the frames a second of a clip."""
    return float(files.frames[file] / files.seconds[file])


def _odd_files(plan: Plan, files: Files) -> dict[int, Problem]:
    """Return remarks on files that can be used, by a sample of each, and on segments."""
    found = {
        int(files.first[file]): Problem(files.path(file), "odd", text)
        for file, text in files.texts.items()
        if files.kind(file) is None
    }
    lengths = [
        (int(files.first[file]), float(files.seconds[file]), int(files.frames[file])) for file in _short(plan, files)
    ]
    for number, segment, file in _segments(files):
        with contextlib.suppress(ValueError):
            count, rate = segment.frames(int(files.frames[file]), _rate(files, file))[1], _rate(files, file)
            if _is_short(plan.span, count / rate, count):
                lengths.append((number, count / rate, count))
            length = float(files.seconds[file] if segment.unit == "seconds" else files.frames[file])
            if segment.end != math.inf and segment.end - length > CUT_SHARE * (segment.end - segment.start):
                reason = f"the segment ends at {segment.end:g} {segment.unit}, the file at {length:.4g}"
                found[number] = Problem(files.path(file), "odd", reason)
    for number, seconds, num_frames in lengths:
        path = files.path(int(files.of_sample[number]))
        before = f"{found[number].reason}; " if number in found else ""
        found[number] = Problem(path, "odd", before + _too_short(plan.span, seconds, num_frames))
    return found


def _short(plan: Plan, files: Files) -> list[int]:
    """Return files that are shorter than the span, of lists whose samples are whole files."""
    whole = np.array([samples.segments is None for samples in files.lists])
    which = np.searchsorted(files.begins, files.first, side="right") - 1
    is_short = _is_short(plan.span, files.seconds, files.frames)
    return [int(file) for file in np.flatnonzero(whole[which] & (files.code == GOOD) & (files.frames > 0) & is_short)]


def _is_short(span: tuple[float, int], seconds: Any, num_frames: Any) -> Any:
    """Tell whether a length is below the span; a frame more or less is the rounding of a rate."""
    return (seconds + seconds / np.maximum(num_frames, 1) < span[0]) | (num_frames < span[1])


def _too_short(span: tuple[float, int], seconds: float, num_frames: int) -> str:
    if num_frames < span[1]:
        return f"{num_frames} frames are fewer than the {span[1]} of a clip: some repeat"
    return f"{seconds:.1f} s are shorter than the {span[0]:.1f} s that a clip spans: frames repeat"
