"""One clip of the demo data set: a handwritten digit that moves, grows or turns over a textured background.

The state of a digit is a point on a four-dimensional torus: across, down, log size and angle, each a phase in
[0, 1) that comes round again (a digit that leaves at the right enters at the left; one that has grown to the largest
size starts at the smallest). A class is one axis of the torus and a direction along it. All phases start uniform and
independent of the class, and moving along an axis keeps a uniform phase uniform, so in every single frame the state
has the same distribution for all classes: only the change between frames tells them apart. A clip played backwards
is a clip of the opposite class.

Letters: T frames, Y and X pixels down and across, W the side of the pixel window that holds one digit.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import av
import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator
from scipy import ndimage

from revit.common.options import Options

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
"""Class name -> (axis of the torus, direction). Neighbours in the list are each other's reverse in time."""

Range = tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]]


class Difficulty(Options):
    """Limits between which the digits of one difficulty are drawn, uniformly."""

    digit_pixels: Range
    """Side of the digit's picture in pixels, at the middle of the size axis."""
    travel: Range
    """Distance moved from the first frame to the last, as a fraction of the frame's side."""
    growth: Range
    """Part of the size axis gone through from the first frame to the last; 1 is all of it."""
    turn: Range
    """Turns made from the first frame to the last."""

    @model_validator(mode="after")
    def _ordered(self) -> Difficulty:
        for name in ("digit_pixels", "travel", "growth", "turn"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name}: the lower limit {low} is above the upper limit {high}; swap them")
        return self


class ClipOptions(Options):
    """How a clip looks and how its file is written."""

    motions: tuple[str, ...] = tuple(MOTIONS)
    """Class names, in label order; any of `MOTIONS`."""
    frame_pixels: int = Field(default=48, ge=16, multiple_of=2)
    """Side of the square frame. Even, because H.264 halves the colour planes."""
    frames: int = Field(default=16, ge=2)
    frames_per_second: int = Field(default=12, ge=1)
    hard_share: float = Field(default=0.4, ge=0, le=1)
    """Fraction of the clips that are small and slow."""
    easy: Difficulty = Difficulty(
        digit_pixels=(20, 28), travel=(0.5, 0.9), growth=(0.6, 0.95), turn=(0.3, 0.5)
    )
    hard: Difficulty = Difficulty(
        digit_pixels=(7, 10), travel=(0.2, 0.3), growth=(0.5, 0.8), turn=(0.25, 0.4)
    )
    size_ratio: float = Field(default=2.0, gt=1)
    """Largest over smallest size of one digit while it grows or shrinks."""
    texture: float = Field(default=20.0, ge=0)
    """Standard deviation of the background's brightness, in grey levels of 0 to 255."""
    quality: int = Field(default=20, ge=0, le=51)
    """Constant rate factor of the H.264 encoder; lower is finer."""

    @model_validator(mode="after")
    def _known_motions(self) -> ClipOptions:
        unknown = [name for name in self.motions if name not in MOTIONS]
        if unknown or len(set(self.motions)) < max(2, len(self.motions)):
            raise ValueError(
                f"motions: {list(self.motions)} must be two or more different names of {list(MOTIONS)}"
            )
        return self


@dataclass(frozen=True)
class Clip:
    """Everything that decides a clip's pixels, apart from the digit's picture."""

    motion: str
    hard: bool
    digit_pixels: float
    amount: float
    """Phase gone through from the first frame to the last, in units of the moving axis."""
    start: tuple[float, float, float, float]
    """Phases at the first frame: across, down, size, angle, each in [0, 1)."""
    background_seed: int


def draw_clip(motion: str, options: ClipOptions, rng: np.random.Generator) -> Clip:
    """Draws a clip. The generator is used in the same way whatever `motion` is: clips of different classes drawn from
    equal generators share difficulty, size, first frame and background."""
    hard = bool(rng.random() < options.hard_share)
    limits = options.hard if hard else options.easy
    digit_pixels = float(rng.uniform(*limits.digit_pixels))
    how_fast = rng.random()
    axis, _ = MOTIONS[motion]
    low, high = (limits.travel, limits.travel, limits.growth, limits.turn)[axis]
    across, down, size, angle = (float(phase) for phase in rng.random(4))
    background_seed = int(rng.integers(2**31))
    return Clip(
        motion,
        hard,
        digit_pixels,
        float(low + (high - low) * how_fast),
        (across, down, size, angle),
        background_seed,
    )


def phases(clip: Clip, num_frames: int) -> NDArray[np.float64]:
    """Phases (T, 4) in [0, 1) of a clip: uniform motion along one axis, the others at rest."""
    axis, direction = MOTIONS[clip.motion]
    table = np.tile(np.asarray(clip.start), (num_frames, 1))
    table[:, axis] += direction * clip.amount * np.linspace(0.0, 1.0, num_frames)
    return table % 1.0


def background(seed: int, options: ClipOptions) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """A texture (Y, X, 3) in grey levels, without seams at the borders, and a lighter colour (3,) for the digit."""
    rng = np.random.default_rng(seed)
    side = options.frame_pixels
    fields = rng.standard_normal((2, side, side))
    coarse = ndimage.gaussian_filter(fields[0], rng.uniform(2.0, 6.0), mode="wrap")
    fine = ndimage.gaussian_filter(fields[1], rng.uniform(0.6, 1.2, size=2), mode="wrap")
    pattern = coarse / coarse.std() + fine / fine.std()
    tint = rng.uniform(0.7, 1.3, size=3)
    level = rng.uniform(60.0, 110.0)
    texture = level * tint + options.texture * pattern[..., None] / np.sqrt(2.0)
    return texture.astype(np.float32), rng.uniform(200.0, 255.0, size=3).astype(np.float32)


def render(clip: Clip, digit: NDArray[np.floating], options: ClipOptions) -> NDArray[np.uint8]:
    """Draws the frames (T, Y, X, 3) of a clip; `digit` is an opacity (8, 8) in [0, 1]."""
    texture, colour = background(clip.background_seed, options)
    # Twice the resolution, smoothly, with an empty border: then bilinear reading neither shows the digit's squares
    # nor a hard edge.
    picture = np.pad(np.clip(ndimage.zoom(digit, 2, order=3), 0, 1), 1)
    middle = (picture.shape[0] - 1) / 2
    side = options.frame_pixels
    frames = np.empty((options.frames, side, side, 3), np.uint8)
    for t, (across, down, size, angle) in enumerate(phases(clip, options.frames)):
        pixels = clip.digit_pixels * options.size_ratio ** (size - 0.5)
        centre_y, centre_x = down * side, across * side
        reach = int(np.ceil(0.5 * np.sqrt(2.0) * pixels)) + 1
        window = np.arange(-reach, reach + 1)  # (W,)
        rows, columns = int(centre_y) + window, int(centre_x) + window
        y, x = (rows + 0.5 - centre_y)[:, None], (columns + 0.5 - centre_x)[None, :]
        turn = 2.0 * np.pi * angle
        scale = 2.0 * digit.shape[0] / pixels
        source_y = middle + scale * (np.cos(turn) * y - np.sin(turn) * x)
        source_x = middle + scale * (np.sin(turn) * y + np.cos(turn) * x)
        opacity = ndimage.map_coordinates(picture, [source_y, source_x], order=1)  # (W, W), 0 outside
        # A window wider than the frame meets itself coming round; `maximum.at` keeps the stronger of the two.
        layer = np.zeros((side, side))
        np.maximum.at(layer, (rows[:, None] % side, columns[None, :] % side), opacity)
        mixed = texture + layer[..., None] * (colour - texture)
        frames[t] = np.clip(np.rint(mixed), 0, 255)
    return frames


def write_clip(frames: NDArray[np.uint8], path: Path, options: ClipOptions) -> None:
    """Writes frames (T, Y, X, 3) as an H.264 mp4 file. One thread and no B-frames: quick to write and to read, and
    the same bytes on every run."""
    with av.open(str(path), "w", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=options.frames_per_second)
        stream.width = stream.height = options.frame_pixels
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        stream.options = {"crf": str(options.quality), "preset": "veryfast", "bf": "0"}
        for pixels in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
