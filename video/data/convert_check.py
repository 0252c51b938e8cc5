"""Whether a converted clip is read as its source is: the same number of frames, at the same times, showing the same."""

from __future__ import annotations

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation
from numpy.typing import NDArray

from revit.video.data.convert_encode import Encoded
from revit.video.data.convert_options import ConvertSettings
from revit.video.data.decode import DecodeError, VideoInfo, read_frames
from revit.video.data.frame_index import index_frames

LUMA = np.array([0.299, 0.587, 0.114])
MOST_PSNR = 99.0
"""dB of frames without any difference."""
FPS_TOLERANCE = 1e-3
"""Share by which the rates may differ: 300 frames of a clip then span the same 300."""


class CheckError(Exception):
    """The new file is not what its source is. The message is one line."""


def check_clip(source: str, target: str, written: Encoded, settings: ConvertSettings) -> float:
    """The smallest PSNR (dB, of luma) of the first, middle and last frame, each read by its number from both files as a
    loader would read it, the source's resized.

    Raises:
        CheckError: a difference.
        DecodeError: one of the files cannot be read so.
    """
    _check_times(target, written)
    before, old = _three(source)
    after, new = _three(target)
    if before.num_frames != after.num_frames:
        raise CheckError(f"{before.num_frames} frames became {after.num_frames}")
    if abs(after.fps / before.fps - 1) > FPS_TOLERANCE:
        raise CheckError(f"{before.fps:.3f} frames per second became {after.fps:.3f}")
    if (after.width, after.height, after.rotation) != (written.width, written.height, 0):
        raise CheckError(f"it is read with {after.width}x{after.height} pixels, turned by {after.rotation}")
    worst = min(psnr(resized(one, written.width, written.height), other) for one, other in zip(old, new))
    if worst < settings.smallest_psnr:
        raise CheckError(
            f"a frame differs from its source: {worst:.1f} dB, at least {settings.smallest_psnr:.1f} are wanted"
        )
    return worst


def psnr(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    """Of the luma of two RGB pictures (H, W, 3), in dB, at most `MOST_PSNR`."""
    difference = (one.astype(np.float64) - other) @ LUMA
    error = float(np.mean(difference**2))
    return MOST_PSNR if error == 0 else min(MOST_PSNR, 10 * float(np.log10(255**2 / error)))


def resized(picture: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    """RGB (H, W, 3) to (height, width, 3)."""
    frame = VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
    smaller = frame.reformat(width, height, interpolation=Interpolation.BICUBIC)
    return smaller.to_ndarray().astype(np.uint8, copy=False)


def _three(path: str) -> tuple[VideoInfo, NDArray[np.uint8]]:
    """What is known of the file, and its first, middle and last frame (3, H, W, 3)."""
    known: list[VideoInfo] = []

    def choose(info: VideoInfo) -> list[int]:
        known.append(info)
        return [0, (info.num_frames - 1) // 2, info.num_frames - 1]

    frames = read_frames(path, choose, "pyav")
    return known[-1], frames


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
