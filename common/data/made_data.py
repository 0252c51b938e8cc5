"""Data sets that the project makes itself, once: files in one folder per class, with lists beside them.

ROOT/train/NAME/00000.mp4 ...    samples, one folder per class in each split
ROOT/train.csv val.csv test.csv  one `path label` line per sample, paths from ROOT
ROOT/classes.txt                 label names, line number = label
ROOT/metadata.csv                what was drawn for each sample, for analysis only
ROOT/finished.json               the options it was made with; written last
"""

from __future__ import annotations

import csv
import json
import logging
import multiprocessing
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any

from revit.common.system.errors import UserError
from revit.common.system.files import locked
from revit.common.system.log import progress

SPLITS = ("train", "val", "test")
SAMPLES_PER_JOB = 50
log = logging.getLogger(__name__)

Row = dict[str, Any]
"""Metadata of a sample; `path` (from ROOT), `split` and `label` must be among its columns."""


@dataclass(frozen=True)
class MadeData:
    """Files of a finished data set."""

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
    """Name of the samples in the progress bar, such as clips."""
    fingerprint: Mapping[str, Any]
    """All that the files depend on, as JSON gives it back."""
    label_names: Sequence[str]
    num_samples: Mapping[str, int]
    """Number of samples by split."""
    make: Callable[[Path, str, int, int], list[Row]]
    """Function (root, split, first, last) that writes samples [first, last) and returns their rows. Can be pickled; the files
    do not depend on how samples are divided into calls."""
    num_workers: int = 1
    """Processes that make the samples."""


def make_once(plan: Plan, root: str | Path, show_progress: bool = False) -> MadeData:
    """Make the data set under `root` if it is not there yet, and return its files.

    One with another fingerprint is made anew, with a message that names what changed. A hidden folder beside `root` takes
    its name at the end, so an interrupted run leaves nothing half made; a second process waits for the first.

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
    """Return whether `root` holds what `plan` asks for. UserError if it holds what must not be replaced."""
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
    total = sum(plan.num_samples[split] for split in SPLITS)
    shown = progress(f"Making {plan.noun}", total) if show_progress else nullcontext()
    with _mapper(plan.num_workers) as run, shown as advance:
        for made in run(plan.make, repeat(root), *zip(*jobs)):
            rows += made
            if advance is not None:
                advance(len(made))
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
def _mapper(num_workers: int) -> Iterator[Callable[..., Iterator[list[Row]]]]:
    """Yield a `map` over that many processes; for one, over this one."""
    if num_workers == 1:
        yield map
        return
    # Not fork: the caller may have started threads (torch does), which a forked child cannot survive.
    with ProcessPoolExecutor(num_workers, multiprocessing.get_context("spawn")) as pool:
        yield pool.map
