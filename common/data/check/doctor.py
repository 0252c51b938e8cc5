"""A check of some lists: every file, or a sample of them, read in processes side by side; then what several have in common."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial

import numpy as np
from numpy.typing import NDArray

from revit.common.data.check.facts import Facts, Subject, examine
from revit.common.data.check.files import UNKNOWN, Files
from revit.common.data.check.journal import Journal
from revit.common.data.check.labels import label_problems
from revit.common.data.check.result import Checkup, Problem
from revit.common.data.check.summary import keep_summary, kept_folder
from revit.common.data.check.twins import twins
from revit.common.data.lists import SampleList
from revit.common.system.crew import Died, side_by_side
from revit.common.system.files import locked
from revit.common.system.log import progress

UNKEPT = ("missing", "slow")
"""Kinds that are looked for again by the next check, as they depend on the machine."""

UPDATE_SECONDS = 0.2
"""Time between two changes of the progress bar."""


@dataclass(frozen=True)
class Plan:
    """What is checked, and how."""

    lists: Mapping[str, SampleList]
    """What each list is called -> its samples. Of content in two lists the first keeps its file."""
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
        problems = {int(files.first[file]): problem for file, problem in _bad_files(files).items()}
        problems = {**twins(files, plan.subject.print_frames, plan.labelled), **problems}
        labels = [*plan.label_remarks]
        if plan.labelled:
            labels += [Problem(source, "label", reason) for source, reason in label_problems(plan.lists)]
        checked = datetime.now(timezone.utc).isoformat(timespec="seconds")
        odd, seconds = _odd_files(plan, files), time.monotonic() - begin
        checkup = Checkup(files, plan.read_as, problems, odd, labels, plan.labelled, checked, seconds)
        for which, folder in enumerate(folders):
            keep_summary(folder, checkup.summary(which))
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
                if files.place(file).stamp() == stamp:
                    files.learn(file, facts)
            except (OSError, ValueError):
                continue


def _read(plan: Plan, files: Files, journals: Sequence[Journal], chosen: NDArray[np.int64]) -> None:
    """Read the files that are not known yet."""
    left = chosen[files.code[chosen] == UNKNOWN]
    items = ((file, files.place(file)) for file in map(int, left))
    work = partial(examine, look=plan.subject.look)
    num_bad = int(sum(files.kind(int(file)) is not None for file in chosen))
    with progress("Checking files", len(chosen)) as update_bar:
        update_bar(advance=len(chosen) - len(left))
        done, shown = 0, 0.0
        for (file, place), answer in side_by_side(items, work, min(plan.num_workers, len(left)), plan.limit):
            stamp, facts = (None, _death(answer, plan.limit)) if isinstance(answer, Died) else answer
            if stamp is not None and facts.kind not in UNKEPT:
                journals[files.place_of(file)[0]].add(place.path, stamp, facts)
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
    found = {}
    for file in map(int, np.flatnonzero(files.code >= 0)):
        if (kind := files.kind(file)) is not None:
            found[file] = Problem(files.path(file), kind, files.texts.get(file, ""))
    return found


def _odd_files(plan: Plan, files: Files) -> dict[int, Problem]:
    """Return remarks on files that can be used, by their first sample."""
    seconds, num_frames = plan.span
    # A frame more or less is the rounding of a rate.
    lasts = files.seconds + files.seconds / np.maximum(files.frames, 1)
    short = (files.frames > 0) & ((lasts < seconds) | (files.frames < num_frames))
    found = {}
    for file in sorted({*map(int, np.flatnonzero(short)), *files.texts}):
        if files.kind(file) is not None:
            continue
        remarks = [files.texts[file]] if file in files.texts else []
        if short[file]:
            remarks.append(_too_short(plan.span, float(files.seconds[file]), int(files.frames[file])))
        found[int(files.first[file])] = Problem(files.path(file), "odd", "; ".join(remarks))
    return found


def _too_short(span: tuple[float, int], seconds: float, num_frames: int) -> str:
    if num_frames < span[1]:
        return f"{num_frames} frames are fewer than the {span[1]} of a clip: some repeat"
    return f"{seconds:.1f} s are shorter than the {span[0]:.1f} s that a clip spans: frames repeat"
