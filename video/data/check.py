"""One clip as the data doctor sees it: every frame decoded, and what is odd about the file. No torch here."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import pairwise
from statistics import median

import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from revit.common.data.check.facts import PRINT_BYTES, Facts, Kind
from revit.common.system.crew import Alive
from revit.video.data.decode.frame_folder import FRAMES_PER_SECOND, frame_files, read_folder
from revit.video.data.decode.index import frames_per_second, picture_shape
from revit.video.data.decode.opening import DecodeError, num_bytes, open_bytes
from revit.video.data.decode.whole import PlainDecode

PRINTED_FRAMES = 4
"""Frames of a print, in the middle of as many equal parts of the clip."""
PRINT_SIDE = 12
"""Pixels of the side of each."""
LIMITED_FRAMES = 1800
"""Frames that the time limit is for, a minute at 30 a second."""
UNEVEN = 1.5
"""Times of the usual distance between frames from which on, or below the inverse of which, the rate is variable."""
SILENT_SHARE, SILENT_SECONDS = 0.1, 0.5
"""Share of the length that the container tells, and seconds, that may be missing without a remark: sound is often longer."""
UNSMOOTHED = {"skip_loop_filter": "all"}
"""Of the decoder: smoothing changes how a picture looks, not what can be read of it, and is a good part of the work."""
KINDS: dict[Kind, tuple[str, ...]] = {
    "truncated": ("truncated", "its index (moov box) is missing"),
    "damaged": ("damaged", "no frame of it can be decoded", "cannot be read as a picture"),
    "no_video": ("has no video stream", "has a video stream without", "is a "),
}
"""Beginnings of a `DecodeError`'s reason by kind; others are unreadable."""
NO_CONTAINER = ("is a text file", "is a playlist", "is a folder")

assert PRINTED_FRAMES * PRINT_SIDE**2 == PRINT_BYTES


class _Prints:
    """Small grey pictures of the frames shown at the middle of equal parts of `seconds`."""

    def __init__(self, seconds: float) -> None:
        self.times = [seconds * (part + 0.5) / PRINTED_FRAMES for part in range(PRINTED_FRAMES)]
        self.pictures: list[bytes] = []

    def see(self, frame: VideoFrame, seconds: float) -> None:
        if len(self.pictures) < PRINTED_FRAMES and seconds >= self.times[len(self.pictures)]:
            small = frame.reformat(PRINT_SIDE, PRINT_SIDE, "gray", interpolation="AREA").to_ndarray()
            turned = np.rot90(small, picture_shape(frame).rotation // 90)
            self.pictures.append(np.ascontiguousarray(turned).tobytes())

    @property
    def bytes(self) -> bytes:
        return b"".join(self.pictures) if len(self.pictures) == PRINTED_FRAMES else b""


def look_at_clip(path: str, alive: Alive) -> Facts:
    """Decode every frame of a clip, a file or a folder of pictures."""
    try:
        if os.path.isdir(path):
            return _folder_facts(frame_files(path), alive)
        with PlainDecode(path, salvage=True) as decode:
            return _facts(path, decode, alive)
    except DecodeError as error:
        which = "" if error.path == path else f"{os.path.basename(error.path)}: "
        return Facts(kind_of(error.reason), which + error.reason)


def kind_of(reason: str) -> Kind:
    """Return the kind of trouble that a `DecodeError` tells of."""
    if reason.startswith(NO_CONTAINER):
        return "unreadable"
    return next((kind for kind, begins in KINDS.items() if reason.startswith(begins)), "unreadable")


def _facts(path: str, decode: PlainDecode, alive: Alive) -> Facts:
    stream, told = decode.stream, _told_seconds(decode.stream)
    stream.codec_context.options = UNSMOOTHED
    rate, unit = float(stream.average_rate or stream.guessed_rate or 30), float(stream.time_base or 0)
    prints, stamps, shape = _Prints(told), list[int | None](), None
    for number, frame in enumerate(decode):
        shape = shape or picture_shape(frame)
        stamps.append(frame.pts)
        prints.see(frame, _seconds(stamps, number, rate, unit))
        if number % LIMITED_FRAMES == 0:
            alive()
    if shape is None:
        reason = decode.reason or "no frame of it can be decoded"
        return Facts(kind_of(reason), reason)
    num_frames, known = len(stamps), [one for one in stamps if one is not None]
    rises = len(known) == num_frames and all(a < b for a, b in pairwise(known))
    fps = frames_per_second(stream, known if rises else None)
    seconds = (known[-1] - known[0]) * unit + 1 / fps if rises and unit else num_frames / fps
    num_listed = max(decode.num_held, decode.num_indexed)
    if decode.reason is not None or _is_cut(path, seconds, told):
        reason = decode.reason or f"truncated: its container tells of {told:.1f} s and of bytes behind its end"
        lost = max(0, num_listed - num_frames)
        whole = f"{num_frames} of {num_frames + lost}" if lost else f"{num_frames}"
        return Facts(kind_of(reason), f"{reason}; {whole} frames are whole", seconds=seconds, frames=num_frames)
    remarks = []
    if shape.rotation:
        remarks.append(f"to be turned by {shape.rotation} degrees (it is, here)")
    if rises and (uneven := _uneven(known, unit)):
        remarks.append(uneven)
    if told - seconds > max(SILENT_SHARE * told, SILENT_SECONDS):
        remarks.append(f"its container tells of {told:.1f} s, its pictures end after {seconds:.1f} s")
    if decode.is_exact and num_listed > num_frames:
        remarks.append(f"{num_frames} of {num_listed} frames are shown, the others lack what was cut off")
    if num_frames >= PRINTED_FRAMES and (abs(seconds - told) > max(0.01 * seconds, 1.5 / fps) or not prints.bytes):
        prints = _second_look(path, seconds, rate, unit, alive)
    return Facts(odd="; ".join(remarks), print=prints.bytes, seconds=seconds, frames=num_frames)


def _folder_facts(files: Sequence[str], alive: Alive) -> Facts:
    """Read every picture of a folder of frames."""
    prints, sizes = _Prints(len(files) / FRAMES_PER_SECOND), set()
    for number, file in enumerate(files):
        picture = read_folder([file], np.zeros(1, np.int64), None)[0]
        sizes.add(picture.shape)
        prints.see(VideoFrame.from_ndarray(picture, format="rgb24"), number / FRAMES_PER_SECOND)
        if number % LIMITED_FRAMES == 0:
            alive()
    if len(sizes) > 1:
        return Facts("damaged", f"its frames are of {len(sizes)} sizes", frames=len(files))
    return Facts(print=prints.bytes, seconds=len(files) / FRAMES_PER_SECOND, frames=len(files))


def _second_look(path: str, seconds: float, rate: float, unit: float, alive: Alive) -> _Prints:
    """Take the print of a file whose container did not tell how long it is."""
    prints, stamps = _Prints(seconds), list[int | None]()
    with PlainDecode(path, salvage=True) as decode:
        decode.stream.codec_context.options = UNSMOOTHED
        for number, frame in enumerate(decode):
            stamps.append(frame.pts)
            prints.see(frame, _seconds(stamps, number, rate, unit))
            if number % LIMITED_FRAMES == 0:
                alive()
    return prints


def _seconds(stamps: Sequence[int | None], number: int, rate: float, unit: float) -> float:
    """Return when the last frame is shown, from the first one on."""
    first, last = stamps[0], stamps[-1]
    return number / rate if first is None or last is None or not unit else (last - first) * unit


def _told_seconds(stream: VideoStream) -> float:
    """Return how long the container says that the pictures last; 0 where it does not tell."""
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    if (text := stream.metadata.get("DURATION")) and text.count(":") == 2:  # Matroska, one for each stream
        hours, minutes, seconds = text.split(":")
        try:
            return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
        except ValueError:
            pass
    assert isinstance(stream.container, InputContainer)
    duration = stream.container.duration
    return duration / 1e6 if duration is not None and duration > 0 else 0.0


def _uneven(stamps: Sequence[int], unit: float) -> str | None:
    """Return a remark on frames that are not shown equally long; the last one's time is not known."""
    steps = [b - a for a, b in pairwise(stamps)]
    if len(steps) < 2:
        return None
    usual = median(steps)
    if max(steps) <= UNEVEN * usual + 1 and min(steps) >= usual / UNEVEN - 1:  # stamps are rounded
        return None
    return (
        f"variable frame rate: {1000 * min(steps) * unit:.0f} to {1000 * max(steps) * unit:.0f} ms from frame to frame"
    )


def _is_cut(path: str, seconds: float, told: float) -> bool:
    """Tell whether a file is shorter than its container says, in time and in bytes."""
    if told - seconds <= max(SILENT_SHARE * told, SILENT_SECONDS):
        return False
    with open_bytes(path) as file:
        head = file.read(4096)
    return told_bytes(head) > num_bytes(path)


def told_bytes(head: bytes) -> int:
    """Return how long a file that begins with `head` says that it is: AVI, Matroska and WebM do; 0 for others."""
    if head[:4] == b"RIFF":
        return int.from_bytes(head[4:8], "little") + 8
    at = head.find(b"\x18\x53\x80\x67")  # Matroska's segment
    if head[:4] != b"\x1a\x45\xdf\xa3" or not 0 <= at < len(head) - 12:
        return 0
    length = 9 - head[at + 4].bit_length()
    value = int.from_bytes(head[at + 4 : at + 4 + length], "big") - (1 << 7 * length)
    return 0 if length > 8 or value == (1 << 7 * length) - 1 else at + 4 + length + value
