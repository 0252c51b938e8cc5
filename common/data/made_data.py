"""Data sets that the project makes itself: files in one folder per class, with lists beside them, made once.

    ROOT/train/NAME/00000.mp4 ...    samples, one folder per class in each split
    ROOT/train.csv val.csv test.csv  one `path label` line per sample, paths from ROOT
    ROOT/classes.txt                 label names, line number = label
    ROOT/metadata.csv                what was drawn for each sample, for analysis only
    ROOT/finished.json               the options it was made with; written last

What a sample shows is the business of whoever makes it.
"""

from __future__ import annotations

import csv
import json
import logging
import multiprocessing
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from revit.common.system.errors import UserError
from revit.common.system.files import locked

SPLITS = ("train", "val", "test")
SAMPLES_PER_JOB = 50
log = logging.getLogger(__name__)

Row = dict[str, Any]
"""One sample's line of the metadata. `path` (from ROOT), `split` and `label` must be among its columns."""


@dataclass(frozen=True)
class MadeData:
    """Where the files of a finished data set are."""

    root: Path
    train: Path
    val: Path
    test: Path
    classes: Path
    metadata: Path

    @classmethod
    def under(cls, root: Path) -> MadeData:
        train, val, test = (root / f"{split}.csv" for split in SPLITS)
        return cls(root, train, val, test, root / "classes.txt", root / "metadata.csv")


@dataclass(frozen=True)
class Plan:
    """A data set to be made."""

    noun: str
    """What the samples are, for the progress bar: "clips"."""
    fingerprint: Mapping[str, Any]
    """All that the files depend on, as JSON gives it back."""
    label_names: Sequence[str]
    num_samples: Mapping[str, int]
    """Split -> samples."""
    make: Callable[[Path, str, int, int], list[Row]]
    """(root, split, first, last) -> rows of samples [first, last), whose files it writes. Can be pickled; what it
    writes does not depend on how the samples are shared out between calls."""
    num_workers: int = 1
    """Processes that make the samples."""


def make_once(plan: Plan, root: str | Path, show_progress: bool = False) -> MadeData:
    """Makes the data set under `root` if it is not there yet, and says where its files are.

    A data set made with an equal fingerprint is left as it is; one made with another is made anew, with a message that
    names what changed. Everything is written to a hidden folder beside `root` which takes its name at the end, so an
    interrupted run leaves nothing half made; a second process waits for the first.

    Raises UserError where `root` is a file, or a folder with other things in it.
    """
    root = Path(root)
    root.parent.mkdir(parents=True, exist_ok=True)
    with locked(root.with_name(f".{root.name}.lock")):
        if _is_finished(root, plan):
            return MadeData.under(root)
        making = root.with_name(f".{root.name}.making")
        shutil.rmtree(making, ignore_errors=True)  # an interrupted run's
        making.mkdir()
        _write(plan, making, show_progress)
        if root.exists():
            shutil.rmtree(root)
        making.rename(root)
    return MadeData.under(root)


def _is_finished(root: Path, plan: Plan) -> bool:
    """Whether `root` holds what `plan` asks for. False too where it may be replaced."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    marker = root / "finished.json"
    if not marker.is_file():
        raise UserError(
            f"{root} exists and is not a demo data set (no finished.json in it), so it is left alone; "
            "name another folder, or remove it"
        )
    found, wanted = json.loads(marker.read_text(encoding="utf-8")), plan.fingerprint
    changed = [f"{key} {found.get(key)} -> {wanted[key]}" for key in wanted if found.get(key) != wanted[key]]
    if changed:
        log.warning("%s was made with other options and is made anew: %s", root, ", ".join(changed))
    return not changed


def _write(plan: Plan, root: Path, show_progress: bool) -> None:
    for split in SPLITS:
        for name in plan.label_names:
            (root / split / name).mkdir(parents=True)
    jobs = [
        (split, first, min(first + SAMPLES_PER_JOB, plan.num_samples[split]))
        for split in SPLITS
        for first in range(0, plan.num_samples[split], SAMPLES_PER_JOB)
    ]
    rows: list[Row] = []
    with _mapper(plan.num_workers) as run, _bar(show_progress) as bar:
        task = bar.add_task(f"Making {plan.noun}", total=sum(last - first for _, first, last in jobs))
        for made in run(plan.make, repeat(root), *zip(*jobs)):
            rows += made
            bar.advance(task, len(made))
    for split in SPLITS:
        lines = [f"{row['path']} {row['label']}\n" for row in rows if row["split"] == split]
        (root / f"{split}.csv").write_text("".join(lines), encoding="utf-8")
    (root / "classes.txt").write_text("".join(f"{name}\n" for name in plan.label_names), encoding="utf-8")
    with (root / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    marker = json.dumps(plan.fingerprint, indent=1) + "\n"
    (root / "finished.json").write_text(marker, encoding="utf-8")


@contextmanager
def _mapper(num_workers: int) -> Iterator:
    """Gives a `map` over that many processes; over this one where one is asked for."""
    if num_workers == 1:
        yield map
        return
    # Not fork: the caller may have started threads (torch does), which a forked child cannot survive.
    with ProcessPoolExecutor(num_workers, multiprocessing.get_context("spawn")) as pool:
        yield pool.map


def _bar(show: bool) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    return Progress(*columns, console=console, disable=not (show and console.is_terminal))
