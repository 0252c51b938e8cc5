"""The demo data set: real H.264 files that the project makes itself, with Kinetics-style lists.

    ROOT/train/right/00000.mp4 ...   clips, one folder per class in each split
    ROOT/train.csv val.csv test.csv  one `path label` line per clip, paths from ROOT
    ROOT/classes.txt                 label names, line number = label
    ROOT/metadata.csv                what was drawn for each clip, for analysis only
    ROOT/finished.json               the options it was made with; written last

What a clip shows is told in `revit.video.demo_clip`; the digits are the 1,797 pictures that scikit-learn ships.
"""

from __future__ import annotations

import csv
import json
import logging
import multiprocessing
import shutil
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from revit.common.errors import UserError
from revit.video.demo_clip import MOTIONS, MotionOptions, draw_clip, render, write_clip

SPLITS = ("train", "val", "test")
FORMAT = 1
"""Raised whenever equal options would give other files."""
CLIPS_PER_JOB = 50
COLUMNS = ("path", "split", "label", "motion", "hard", "digit_pixels", "extent", "picture", "digit")
log = logging.getLogger(__name__)


class DemoOptions(MotionOptions):
    """The whole demo data set. Equal options give equal files."""

    seed: int = Field(default=0, ge=0)
    train_clips: int = Field(default=3000, ge=1)
    val_clips: int = Field(default=1000, ge=1)
    test_clips: int = Field(default=1000, ge=1)
    num_workers: int = Field(default=2, ge=1)
    """Processes that make the clips; changes how long it takes, not what is made."""

    def num_clips(self, split: str) -> int:
        return {"train": self.train_clips, "val": self.val_clips, "test": self.test_clips}[split]


@dataclass(frozen=True)
class MotionClips:
    """Where the files of a finished data set are."""

    root: Path
    train: Path
    val: Path
    test: Path
    classes: Path
    metadata: Path

    @classmethod
    def under(cls, root: Path) -> MotionClips:
        train, val, test = (root / f"{split}.csv" for split in SPLITS)
        return cls(root, train, val, test, root / "classes.txt", root / "metadata.csv")


def make_motion_clips(options: DemoOptions, root: str | Path, show_progress: bool = False) -> MotionClips:
    """Makes the data set under `root` if it is not there yet, and says where its files are.

    A data set made with equal options is left as it is; one made with other options is made anew, with a message that
    names what changed. Everything is written to a hidden folder beside `root` which takes its name at the end, so an
    interrupted run leaves nothing half made; a second process waits for the first.

    Raises UserError where `root` is a file, or a folder with other things in it.
    """
    root = Path(root)
    root.parent.mkdir(parents=True, exist_ok=True)
    with _lock(root.with_name(f".{root.name}.lock")):
        if _is_finished(root, options):
            return MotionClips.under(root)
        making = root.with_name(f".{root.name}.making")
        shutil.rmtree(making, ignore_errors=True)  # an interrupted run's
        making.mkdir()
        _write(options, making, show_progress)
        if root.exists():
            shutil.rmtree(root)
        making.rename(root)
    return MotionClips.under(root)


def split_pictures(seed: int, num_pictures: int) -> dict[str, NDArray[np.int64]]:
    """Parts the digit pictures between the splits, 60 / 20 / 20 %: no picture is in two of them."""
    order = np.random.default_rng([seed, 1]).permutation(num_pictures)
    return dict(zip(SPLITS, np.split(order, [num_pictures * 3 // 5, num_pictures * 4 // 5])))


def _is_finished(root: Path, options: DemoOptions) -> bool:
    """Whether `root` holds what `options` ask for. False too where it may be replaced."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    marker = root / "finished.json"
    if not marker.is_file():
        raise UserError(
            f"{root} exists and is not a demo data set (no finished.json in it), so it is left alone; "
            "name another folder, or remove it"
        )
    found, wanted = json.loads(marker.read_text(encoding="utf-8")), _fingerprint(options)
    changed = [f"{key} {found.get(key)} -> {wanted[key]}" for key in wanted if found.get(key) != wanted[key]]
    if changed:
        log.warning("%s was made with other options and is made anew: %s", root, ", ".join(changed))
    return not changed


def _fingerprint(options: DemoOptions) -> dict[str, object]:
    """What the files depend on, as JSON gives it back."""
    return {"format": FORMAT, **options.model_dump(mode="json", exclude={"num_workers"})}


def _write(options: DemoOptions, root: Path, show_progress: bool) -> None:
    for split in SPLITS:
        for motion in options.motions:
            (root / split / motion).mkdir(parents=True)
    jobs = [
        (split, first, min(first + CLIPS_PER_JOB, options.num_clips(split)))
        for split in SPLITS
        for first in range(0, options.num_clips(split), CLIPS_PER_JOB)
    ]
    rows: list[dict[str, object]] = []
    with _mapper(options.num_workers) as run, _bar(show_progress) as bar:
        task = bar.add_task("Making clips", total=sum(last - first for _, first, last in jobs))
        for made in run(_make_clips, repeat(options), repeat(root), *zip(*jobs)):
            rows += made
            bar.advance(task, len(made))
    for split in SPLITS:
        lines = [f"{row['path']} {row['label']}\n" for row in rows if row["split"] == split]
        (root / f"{split}.csv").write_text("".join(lines), encoding="utf-8")
    (root / "classes.txt").write_text("".join(f"{name}\n" for name in options.motions), encoding="utf-8")
    with (root / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, COLUMNS)
        table.writeheader()
        table.writerows(rows)
    (root / "finished.json").write_text(json.dumps(_fingerprint(options), indent=1) + "\n", encoding="utf-8")


def _make_clips(
    options: DemoOptions, root: Path, split: str, first: int, last: int
) -> list[dict[str, object]]:
    """Writes clips [first, last) of a split and returns their rows of the metadata. Each clip has its own random
    generator, so the files do not depend on how the work is shared out."""
    from sklearn.datasets import load_digits  # here: slow to import, and needed only where clips are made

    digits = load_digits()
    pictures = split_pictures(options.seed, len(digits.images))[split]
    rows: list[dict[str, object]] = []
    for index in range(first, last):
        rng = np.random.default_rng([options.seed, 2, SPLITS.index(split), index])
        label = index % len(options.motions)
        motion = options.motions[label]
        picture = int(rng.choice(pictures))
        clip = draw_clip(motion, options, rng)
        path = f"{split}/{motion}/{index:05d}.mp4"
        write_clip(render(clip, digits.images[picture] / 16.0, options), root / path, options)
        extent = clip.extent[MOTIONS[motion][0]]
        drawn = (path, split, label, motion, int(clip.hard), round(clip.digit_pixels, 3), round(extent, 4))
        rows.append(dict(zip(COLUMNS, (*drawn, picture, int(digits.target[picture])))))
    return rows


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
    return Progress(*columns, console=Console(stderr=True), disable=not show)


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Holds a lock file, waiting for whoever holds it. The system frees it when its holder dies."""
    try:
        import fcntl
    except ImportError:  # Windows: without the lock, two processes at once are the user's to avoid
        yield
        return
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
