"""The demo data set: real H.264 files that the project makes itself, with Kinetics-style lists.

How the files lie is told in `revit.common.data.made_data`, what a clip shows in `revit.video.demo_clip`. The digits are
the 1,797 pictures that scikit-learn ships.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from pydantic import Field

from revit.common.data.made_data import SPLITS, MadeData, Plan, Row, make_once
from revit.common.data.made_digits import read_digits, split_digits
from revit.video.demo_clip import MOTIONS, MotionOptions, draw_clip, render, write_clip

FORMAT = 2
"""Raised whenever equal options would give other files."""
COLUMNS = ("path", "split", "label", "motion", "hard", "digit_pixels", "extent", "picture", "digit")


class DemoOptions(MotionOptions):
    """The whole demo data set. Equal options give equal files."""

    seed: int = Field(default=0, ge=0)
    train_clips: int = Field(default=3000, ge=1)
    val_clips: int = Field(default=1000, ge=1)
    test_clips: int = Field(default=1000, ge=1)
    num_workers: int = Field(default=2, ge=1)
    """Processes that make the clips; changes how long it takes, not what is made."""


def make_motion_clips(options: DemoOptions, root: str | Path, show_progress: bool = False) -> MadeData:
    """Makes the data set under `root` once (`revit.common.data.made_data.make_once`)."""
    plan = Plan(
        noun="clips",
        fingerprint={"format": FORMAT, **options.model_dump(mode="json", exclude={"num_workers"})},
        label_names=options.motions,
        num_samples=dict(zip(SPLITS, (options.train_clips, options.val_clips, options.test_clips))),
        make=partial(_make_clips, options),
        num_workers=options.num_workers,
    )
    return make_once(plan, root, show_progress)


def _make_clips(options: DemoOptions, root: Path, split: str, first: int, last: int) -> list[Row]:
    """Writes clips [first, last) of a split and returns their rows of the metadata. Each clip has its own random
    generator, so the files do not depend on how the work is shared out."""
    opacities, digits = read_digits()
    pictures = split_digits(options.seed, len(digits))[split]
    rows: list[Row] = []
    for index in range(first, last):
        rng = np.random.default_rng([options.seed, 2, SPLITS.index(split), index])
        label = index % len(options.motions)
        motion = options.motions[label]
        picture = int(rng.choice(pictures))
        clip = draw_clip(motion, options, rng)
        path = f"{split}/{motion}/{index:05d}.mp4"
        write_clip(render(clip, opacities[picture], options), root / path, options)
        extent = clip.extent[MOTIONS[motion][0]]
        drawn = (path, split, label, motion, int(clip.hard), round(clip.digit_pixels, 3), round(extent, 4))
        rows.append(dict(zip(COLUMNS, (*drawn, picture, int(digits[picture])))))
    return rows
