"""The demo data set: real H.264 files of a handwritten digit that moves, grows or turns over a textured background.

The digits are the 1,797 pictures that scikit-learn ships; how the files lie is told in `revit.common.data.made_data`.

A digit has four phases: how far across and down it is, its size and its angle. A class is one of them and a direction
in which it runs, evenly, while the others rest. Everything else (difficulty, phases at the middle of the clip, how
far each of them would run, digit, background) is drawn before the class is looked at. So the middle frame is the same
picture for all classes, a clip played backwards is a clip of the opposite class, and what tells the classes apart is
the change between frames. Frames at the ends give a hint and no more: at the first frame a digit about to move right
is half a travel further left than others. Closing the frame to a torus would remove the hint, but then no statistic
that is summed over frames differs between the classes, and a transformer trained from scratch learned far more slowly.

Letters: T frames, Y and X pixels down and across.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import av
import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from revit.common.config.options import Options
from revit.common.data.made_data import SPLITS, MadeData, Plan, Row, make_once
from revit.common.data.made_digits import background, place, read_digits, smooth, split_digits

FORMAT = 2
"""Raised whenever equal options would give other files."""
COLUMNS = ("path", "split", "label", "motion", "hard", "digit_pixels", "extent", "picture", "digit")
ACROSS, DOWN, SIZE, ANGLE = range(4)
MOTIONS: dict[str, tuple[int, int]] = {
    "right": (ACROSS, 1),
    "left": (ACROSS, -1),
    "down": (DOWN, 1),
    "up": (DOWN, -1),
    "grow": (SIZE, 1),
    "shrink": (SIZE, -1),
    "turn_clockwise": (ANGLE, 1),
    "turn_anticlockwise": (ANGLE, -1),
}
"""Class name -> (what changes, direction). Neighbours in the list are each other's reverse in time."""

Range = tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]]


class Difficulty(Options):
    """Limits between which the digits of one difficulty are drawn, uniformly."""

    digit_pixels: Range
    """Side of the digit's picture in pixels, at the middle of the clip."""
    travel: Range
    """Distance moved from the first frame to the last, as a fraction of the frame's side."""
    growth: Range
    """Size at the larger end of the clip over that at the smaller end; 1 is no growth."""
    turn: Range
    """Turns made from the first frame to the last."""

    @model_validator(mode="after")
    def _ordered(self) -> Difficulty:
        for name in ("digit_pixels", "travel", "growth", "turn"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name}: the lower limit {low} is above the upper limit {high}; swap them")
        return self


class MotionOptions(Options):
    """Looks of a clip and of its file."""

    motions: tuple[str, ...] = ("right", "left", "down", "up", "grow", "shrink")
    """Class names, in label order; any of `MOTIONS`."""
    frame_pixels: int = Field(default=48, ge=16, multiple_of=2)
    """Side of the square frame. Even, because H.264 halves the colour planes."""
    frames: int = Field(default=17, ge=2)
    """Frames of a clip. If odd, there is a middle one, which is the same whatever the class."""
    frames_per_second: int = Field(default=12, ge=1)
    hard_share: float = Field(default=0.4, ge=0, le=1)
    """Fraction of the clips whose digit is drawn by `hard`."""
    easy: Difficulty = Difficulty(digit_pixels=(16, 26), travel=(0.25, 0.5), growth=(1.9, 2.4), turn=(0.3, 0.5))
    hard: Difficulty = Difficulty(digit_pixels=(4, 6), travel=(0.05, 0.1), growth=(1.4, 1.7), turn=(0.25, 0.4))
    border: float = Field(default=0.4, ge=0, le=1)
    """Least distance of a digit's centre from the border, as a fraction of the digit's side."""
    texture: float = Field(default=15.0, ge=0)
    """Standard deviation of the background's brightness, in grey levels of 0 to 255."""
    quality: int = Field(default=24, ge=0, le=51)
    """Constant rate factor of the H.264 encoder; lower is finer."""

    @model_validator(mode="after")
    def _room_to_travel(self) -> MotionOptions:
        for name in ("easy", "hard"):
            limits = getattr(self, name)
            longest = self.room(limits.digit_pixels[1])
            if limits.travel[1] > longest:
                raise ValueError(
                    f"{name}.travel: {limits.travel[1]} of the frame's side is more than the border leaves a digit of "
                    f"{limits.digit_pixels[1]:g} pixels; choose {longest:.2f} or less, or a smaller border"
                )
        return self

    def room(self, digit_pixels: float) -> float:
        """Return the part of the frame's side in which the centre of a digit of this size may lie."""
        return 1.0 - 2.0 * self.border * digit_pixels / self.frame_pixels

    @model_validator(mode="after")
    def _known_motions(self) -> MotionOptions:
        unknown = [name for name in self.motions if name not in MOTIONS]
        if unknown or len(set(self.motions)) < max(2, len(self.motions)):
            raise ValueError(f"motions: {list(self.motions)} must be two or more different names of {list(MOTIONS)}")
        return self


class DemoOptions(MotionOptions):
    """The whole demo data set. Equal options give equal files."""

    seed: int = Field(default=0, ge=0)
    train_clips: int = Field(default=3000, ge=1)
    val_clips: int = Field(default=1000, ge=1)
    test_clips: int = Field(default=1000, ge=1)
    num_workers: int = Field(default=2, ge=1)
    """Processes that make the clips; changes how long it takes, not what is made."""


@dataclass(frozen=True)
class Clip:
    """Everything that decides a clip's pixels, apart from the digit's picture."""

    motion: str
    hard: bool
    digit_pixels: float
    extent: tuple[float, float, float, float]
    """Way of each phase from the first frame to the last, if it ran: travel, travel, logarithm of growth, turns."""
    middle: tuple[float, float]
    """Across and down at the middle of the clip, where the size is `digit_pixels` and the digit upright."""
    background_seed: int


def draw_clip(motion: str, options: MotionOptions, rng: np.random.Generator) -> Clip:
    """Draw a clip. Clips of different classes drawn from equal generators differ in `motion` alone."""
    hard = bool(rng.random() < options.hard_share)
    limits = options.hard if hard else options.easy
    digit_pixels, travel, growth, turn = (
        float(rng.uniform(*limit)) for limit in (limits.digit_pixels, limits.travel, limits.growth, limits.turn)
    )
    across, down = (float(phase) for phase in rng.random(2))
    # All of the way of a moving digit is in the frame, and resting digits keep to the same places as moving ones.
    free = options.room(digit_pixels) - travel
    across, down = 0.5 + (across - 0.5) * free, 0.5 + (down - 0.5) * free
    extent = (travel, travel, float(np.log(growth)), turn)
    return Clip(motion, hard, digit_pixels, extent, (across, down), int(rng.integers(2**31)))


def phases(clip: Clip, num_frames: int) -> NDArray[np.float64]:
    """Return phases (T, 4) of a clip, one of which runs evenly through its middle while the others rest.

    They are the centre across and down as fractions of the frame's side, the logarithm of the size over that at the middle,
    and turns.
    """
    axis, direction = MOTIONS[clip.motion]
    table = np.tile(np.array([*clip.middle, 0.0, 0.0]), (num_frames, 1))
    table[:, axis] += direction * clip.extent[axis] * np.linspace(-0.5, 0.5, num_frames)
    return table


def render(clip: Clip, digit: NDArray[np.floating], options: MotionOptions) -> NDArray[np.uint8]:
    """Draw the frames (T, Y, X, 3) of a clip; `digit` is an opacity (8, 8) in [0, 1]."""
    side = options.frame_pixels
    texture, colour = background(clip.background_seed, side, options.texture)
    picture = smooth(digit)
    frames = np.empty((options.frames, side, side, 3), np.uint8)
    for t, (across, down, size, turns) in enumerate(phases(clip, options.frames)):
        layer = place(picture, side, across, down, clip.digit_pixels * np.exp(size), turns)
        frames[t] = np.clip(np.rint(texture + layer * (colour - texture)), 0, 255)
    return frames


def write_clip(frames: NDArray[np.uint8], path: Path, options: MotionOptions) -> None:
    """Write frames (T, Y, X, 3) as an H.264 mp4 file, the same bytes on every run: with one thread, and without x264's
    macroblock tree, which made about one file in four hundred of such small frames different."""
    with av.open(str(path), "w", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=options.frames_per_second)
        stream.width = stream.height = options.frame_pixels
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        stream.options = {"crf": str(options.quality), "preset": "veryfast", "bf": "0", "x264-params": "mbtree=0"}
        for pixels in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


def make_motion_clips(options: DemoOptions, root: str | Path, show_progress: bool = False) -> MadeData:
    """Make the data set under `root` once (`revit.common.data.made_data.make_once`)."""
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
    """Write clips [first, last) of a split, each by its own random generator; return their rows of the metadata."""
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
