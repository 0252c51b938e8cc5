"""A converted clip compared with its source: the same number of frames, at the same times, showing the same."""

from __future__ import annotations

import math

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation
from numpy.typing import NDArray

from revit.video.data.convert.encode import ConvertSettings, Encoded
from revit.video.data.decode import DecodeError, VideoInfo, read_frames
from revit.video.data.decode.index import index_frames

LUMA = np.array([0.299, 0.587, 0.114])
NOISE_ALLOWANCE = 6.0
"""dB by which a frame may stay below the usual limit: pure noise, encoded at any rate factor, stays within them."""
TIE = 0.5
"""dB by which a frame may resemble one beside its own more: pictures that differ by no more cannot be told apart."""
MOST_PSNR = 99.0  # dB of frames without any difference
FPS_TOLERANCE = 1e-3  # share by which the rates may differ: 300 frames of a clip then span the same 300


class CheckError(Exception):
    """The new file is not what its source is. The message is one line."""


def check_clip(source: str, target: str, written: Encoded, settings: ConvertSettings) -> float:
    """Return the smallest PSNR (dB, of luma) of the first, middle and last frame against the source's, resized.

    Each is read by its number from both files as a loader would read it. A frame below `settings.smallest_psnr` is kept all the
    same if it resembles its source more than the frames beside it: noise costs an encoder many bits and has few dB, in the
    right frame as well.

    Raises:
        CheckError: a difference.
        DecodeError: one of the files cannot be read so.
    """
    _check_times(target, written)
    before, old = _read_three(source, beside=1)
    after, new = _read_three(target, beside=0)
    if before.num_frames != after.num_frames:
        raise CheckError(f"{before.num_frames} frames became {after.num_frames}")
    if abs(after.fps / before.fps - 1) > FPS_TOLERANCE:
        raise CheckError(f"{before.fps:.3f} frames per second became {after.fps:.3f}")
    if (after.width, after.height, after.rotation) != (written.width, written.height, 0):
        raise CheckError(f"it is read with {after.width}x{after.height} pixels, turned by {after.rotation}")
    smaller = {number: resized(picture, written.width, written.height) for number, picture in old.items()}
    return min(check_frame(number, picture, smaller, settings) for number, picture in new.items())


def check_frame(
    number: int, picture: NDArray[np.uint8], sources: dict[int, NDArray[np.uint8]], settings: ConvertSettings
) -> float:
    """Return the PSNR of a new frame against its source. `CheckError` if it is another frame, or none at all."""
    own = psnr(sources[number], picture)
    if own >= settings.smallest_psnr:
        return own
    floor = settings.smallest_psnr - NOISE_ALLOWANCE
    if own < floor:
        raise CheckError(
            f"frame {number} differs from its source: {rounded_down(own)} dB, at least {floor:.1f} are wanted"
        )
    others = [(psnr(sources[at], picture), at) for at in (number - 1, number + 1) if at in sources]
    most, beside = max(others, default=(own, number))
    if most > own + TIE:
        raise CheckError(
            f"frame {number} is rather frame {beside} of its source: {most:.1f} dB against that one, "
            f"{rounded_down(own)} against its own"
        )
    return own


def rounded_down(decibels: float) -> str:
    """Format with one digit, so that what is below a limit also reads so."""
    return f"{math.floor(10 * decibels) / 10:.1f}"


def psnr(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    """Return the PSNR of the luma of two RGB pictures (H, W, 3) in dB, at most `MOST_PSNR`."""
    error = float(np.mean(((one.astype(np.float64) - other) @ LUMA) ** 2))
    return MOST_PSNR if error == 0 else min(MOST_PSNR, 10 * float(np.log10(255**2 / error)))


def resized(picture: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    """Resize RGB (H, W, 3) to (height, width, 3)."""
    frame = VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
    smaller = frame.reformat(width, height, interpolation=Interpolation.BICUBIC)
    return smaller.to_ndarray().astype(np.uint8, copy=False)


def _read_three(path: str, beside: int) -> tuple[VideoInfo, dict[int, NDArray[np.uint8]]]:
    """Read the first, middle and last frame, with `beside` more on both sides: by number, (H, W, 3)."""
    known: list[tuple[VideoInfo, list[int]]] = []

    def choose(info: VideoInfo) -> list[int]:
        last = info.num_frames - 1
        near = range(-beside, beside + 1)
        wanted = sorted({min(max(at + step, 0), last) for at in (0, last // 2, last) for step in near})
        known.append((info, wanted))
        return wanted

    frames = read_frames(path, choose, "pyav")
    info, wanted = known[-1]
    return info, dict(zip(wanted, frames))


def _check_times(target: str, written: Encoded) -> None:
    index = index_frames(target)
    with index.container as container:
        unit = container.streams.video[0].time_base
        if index.pts is None or unit is None:
            raise DecodeError(target, "its frames have no time stamps")
        seconds = [float((pts - index.pts[0]) * unit) for pts in index.pts]
    if len(seconds) != len(written.seconds):
        raise CheckError(f"{len(written.seconds)} frames became {len(seconds)}")
    moved = max(abs(one - other) for one, other in zip(seconds, written.seconds))
    if moved > max(float(unit), 1e-6):
        raise CheckError(f"a frame is shown {moved:.4f} s too early or too late")
