"""The demo data set: PNG files of handwritten digits on textured backgrounds; the class is the digit.

Most digits fill much of the picture and can be read from a few tokens; a share of them is small and needs a long token
grid. Difficulty, place, size and angle are drawn before the digit is looked at, so that none of them tells anything of the
class. No handwritten digit is in two splits. The layout of the files: `revit.common.data.made_data`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field, model_validator

from revit.common.config.options import Options
from revit.common.data.made_data import SPLITS, MadeData, Plan, Row, make_once
from revit.common.data.made_digits import background, place, read_digits, smooth, split_digits

FORMAT = 1
"""Version, raised whenever equal options would give other files."""
DIGITS = tuple(str(number) for number in range(10))
COLUMNS = ("path", "split", "label", "hard", "digit_pixels", "turns", "across", "down", "digit")

Range = tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]]


class ImageDemoOptions(Options):
    """Demo data set. Equal options give equal files."""

    seed: int = Field(default=0, ge=0)
    train_pictures: int = Field(default=3000, ge=1)
    val_pictures: int = Field(default=1000, ge=1)
    test_pictures: int = Field(default=1000, ge=1)
    num_workers: int = Field(default=2, ge=1)
    """Processes that make the pictures; the result does not depend on it."""
    picture_pixels: int = Field(default=48, ge=16)
    """Side of the square picture."""
    hard_share: float = Field(default=0.33, ge=0, le=1)
    """Fraction of the pictures whose digit has a size of `hard_pixels`."""
    easy_pixels: Range = (26, 42)
    """Limits between which the side of a digit is drawn, uniformly."""
    hard_pixels: Range = (9, 12)
    turns: float = Field(default=0.04, ge=0, le=0.5)
    """Largest rotation of a digit to either side, in full turns."""
    spread: float = Field(default=1.0, ge=0, le=1)
    """Largest distance of a digit from the middle: 0 is in the middle, 1 anywhere that it lies wholly in the picture."""
    texture: float = Field(default=15.0, ge=0)
    """Standard deviation of the background's brightness, in grey levels of 0 to 255."""

    @model_validator(mode="after")
    def _sizes_fit(self) -> ImageDemoOptions:
        for name in ("easy_pixels", "hard_pixels"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name}: the lower limit {low:g} is above the upper limit {high:g}; swap them")
            if high > self.picture_pixels:
                raise ValueError(
                    f"{name}: a digit of {high:g} pixels is larger than the picture of {self.picture_pixels}; "
                    "make it smaller, or picture_pixels larger"
                )
        return self


@dataclass(frozen=True)
class Picture:
    """All that decides a picture's pixels, apart from the digit."""

    hard: bool
    digit_pixels: float
    turns: float
    across: float
    """Centre of the digit, as a fraction of the picture's side."""
    down: float
    background_seed: int


def draw_picture(options: ImageDemoOptions, rng: np.random.Generator) -> Picture:
    """Draw a picture whose digit lies wholly inside, before it is turned."""
    hard = bool(rng.random() < options.hard_share)
    digit_pixels = float(rng.uniform(*(options.hard_pixels if hard else options.easy_pixels)))
    turns = float(rng.uniform(-options.turns, options.turns))
    room = options.spread * (1 - digit_pixels / options.picture_pixels)
    across, down = (0.5 + room * float(place) for place in rng.uniform(-0.5, 0.5, size=2))
    return Picture(hard, digit_pixels, turns, across, down, int(rng.integers(2**31)))


def render(picture: Picture, digit: NDArray[np.floating], options: ImageDemoOptions) -> NDArray[np.uint8]:
    """Paint a picture (Y, X, 3); `digit` is an opacity (8, 8) in [0, 1]."""
    side = options.picture_pixels
    texture, colour = background(picture.background_seed, side, options.texture)
    layer = place(smooth(digit), side, picture.across, picture.down, picture.digit_pixels, picture.turns)
    return np.clip(np.rint(texture + layer * (colour - texture)), 0, 255).astype(np.uint8)


def make_digit_pictures(options: ImageDemoOptions, root: str | Path, show_progress: bool = False) -> MadeData:
    """Make the data set under `root` once (`revit.common.data.made_data.make_once`)."""
    sizes = (options.train_pictures, options.val_pictures, options.test_pictures)
    plan = Plan(
        noun="pictures",
        fingerprint={"format": FORMAT, **options.model_dump(mode="json", exclude={"num_workers"})},
        label_names=DIGITS,
        num_samples=dict(zip(SPLITS, sizes)),
        make=partial(_make_pictures, options),
        num_workers=options.num_workers,
    )
    return make_once(plan, root, show_progress)


def _make_pictures(options: ImageDemoOptions, root: Path, split: str, first: int, last: int) -> list[Row]:
    """Write pictures [first, last) of a split and return their rows of the metadata. Each picture has its own random
    generator, so the files do not depend on how the work is shared out."""
    opacities, digits = read_digits()
    own = split_digits(options.seed, len(digits))[split]
    rows: list[Row] = []
    for index in range(first, last):
        rng = np.random.default_rng([options.seed, 3, SPLITS.index(split), index])
        picture = draw_picture(options, rng)
        label = index % len(DIGITS)
        digit = int(rng.choice(own[digits[own] == label]))
        path = f"{split}/{DIGITS[label]}/{index:05d}.png"
        pixels = render(picture, opacities[digit], options)
        Image.fromarray(pixels).save(root / path)
        places = (round(value, 4) for value in (picture.digit_pixels, picture.turns, picture.across, picture.down))
        rows.append(dict(zip(COLUMNS, (path, split, label, int(picture.hard), *places, digit))))
    return rows
