"""Which frames a file has, in the order in which they are shown, found by reading its packets without decoding them.

Frame n is the n-th frame that a plain decode of the whole file hands out. How that is known without decoding everything
depends on the file, see `Numbering`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise

from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.video.stream import VideoStream

from revit.video.data.decode.opening import (
    DecodeError,
    open_container,
    opened_stream,
    picture_packets,
    refuse_truncated,
)
from revit.video.data.decode.scan.packets import Entry, Held, Scanner, scanner_for
from revit.video.data.decode.shape import (
    FirstPackets,
    first_picture,
    header_shape,
    header_suffices,
    picture_shape,
)

KEPT_BYTES = 64 << 20
"""Packets of files up to this size are kept in memory between indexing and decoding; others are read twice."""

RATE_TOLERANCE = 0.03
"""Share by which a file's stamps may differ from the rate written in it, beside their rounding."""

STAMPED_CONTAINERS = ("mp4", "matroska", "mpegts", "mpeg", "flv")
"""FFmpeg's names of containers whose time stamps say when a frame is shown. Those of AVI and ASF say when it is decoded."""


class Numbering(Enum):
    """How frames are known by their numbers."""

    STAMPS = "stamps"
    """By their time stamps: each packet has one of its own, and holds at most one frame."""
    COUNT = "count"
    """By counting what the decoder hands out from a point on where the number is known (`FrameIndex.starts`)."""
    WHOLE = "whole"
    """Only by decoding the whole file: packets of this kind are not understood, or they are irregular."""


@dataclass(frozen=True)
class VideoInfo:
    """What choosing frames may depend on. The same whichever decoder reads the file."""

    num_frames: int
    """Frames that are shown; the indices asked for are 0 .. num_frames - 1 in the order they are shown."""
    fps: float
    """Average frame rate, frames per second."""
    width: int
    """Pixels, after the rotation tag is applied."""
    height: int
    """Pixels, after the rotation tag is applied."""
    rotation: int
    """Degrees that the frames are turned counter-clockwise to be shown upright: 0, 90, 180 or 270."""
    duration_seconds: float
    """From the first frame's start to the last one's end."""
    num_lost: int = 0
    """Frames left out of `num_frames` because they are damaged or cut off; only where that was found and is allowed."""

    @property
    def remark(self) -> str | None:
        """A remark on a file that is not whole."""
        if not self.num_lost:
            return None
        return f"{self.num_frames} of {self.num_frames + self.num_lost} frames; the others are damaged or cut off"


@dataclass(frozen=True)
class FrameIndex:
    """One opened file: its frames by number, and the packets that hold them."""

    path: str
    container: InputContainer
    info: VideoInfo
    codec: str
    """FFmpeg's name, whichever library decodes."""
    pixel_format: str | None
    """As decoded; None if no picture has been decoded yet."""
    assumed: bool
    """Whether size and rotation are those of the file's header and still to be compared with a decoded picture."""
    numbering: Numbering
    pts: list[int] | None
    """Time stamps in the order shown: frame i is the one stamped pts[i]. None where stamps do not number frames."""
    packet_pts: list[int | None]
    """Time stamp of every packet in file order."""
    held: list[Held]
    """What every packet holds, in file order. Where `entry`, decoding can begin."""
    starts: list[tuple[int, int]]
    """Packets at which counting can begin, with the number of the frame that is handed out first from there on."""
    num_hidden: int
    """Packets outside the edit list: decoded when others need them, never shown."""
    flags_true: bool
    """Whether the container's key-frame flags are set just where decoding can begin."""
    packets: list[Packet] | None
    """Packets in file order, or None when the file is too large to keep them."""

    def read_packets(self) -> Iterator[Packet]:
        """Yield all packets that carry a picture, in file order."""
        if self.packets is not None:
            yield from self.packets
        else:
            with open_container(self.path) as container:
                yield from picture_packets(container)


@dataclass(frozen=True)
class _Packets:
    """What one pass over the packets of a file found, in file order."""

    pts: list[int | None]
    held: list[Held]
    hidden: list[bool]
    kept: list[Packet] | None
    num_frames: int
    flags_true: bool
    heads: FirstPackets


def index_frames(path: str, quick: bool = False) -> FrameIndex:
    """Open `path` and list its frames. The caller closes `.container`.

    quick: where the header of the file can be relied on, take rotation and size from there instead of from its first
    picture; decoding that one costs as much as all the rest here. Whoever decodes then compares (`FrameIndex.assumed`).

    `DecodeError` if it is no video, has no frame, or ends before its own index does (truncated).
    """
    container = open_container(path, quick)
    try:
        stream = opened_stream(container)
        codec = stream.codec_context
        scanner = scanner_for(codec)
        found = _read_all(path, container, scanner, quick)
        if found is None:
            container.close()
            return index_frames(path)
        if not found.held:
            raise DecodeError(path, "has a video stream without a single frame")
        shape = header_shape(codec) if quick else picture_shape(first_picture(path, codec, found.heads))
        numbering, pts, starts = _number(container, found, scanner)
        # With two frames on one stamp, or none, the rate is the one written.
        fps = frames_per_second(stream, pts)
        seconds = found.num_frames / fps
        if pts is not None and stream.time_base is not None:
            seconds = float((pts[-1] - pts[0]) * stream.time_base) + 1 / fps
        turned = shape.rotation in (90, 270)
        info = VideoInfo(
            num_frames=found.num_frames,
            fps=fps,
            width=shape.height if turned else shape.width,
            height=shape.width if turned else shape.height,
            rotation=shape.rotation,
            duration_seconds=seconds,
        )
        return FrameIndex(
            path=path,
            container=container,
            info=info,
            codec=codec.codec.canonical_name,
            pixel_format=shape.pixel_format,
            assumed=quick,
            numbering=numbering,
            pts=pts,
            packet_pts=found.pts,
            held=found.held,
            starts=starts,
            num_hidden=sum(found.hidden),
            flags_true=found.flags_true,
            packets=found.kept,
        )
    except BaseException:
        container.close()
        raise


def _read_all(path: str, container: InputContainer, scanner: Scanner, quick: bool) -> _Packets | None:
    """Reads all packets; None if `quick` was asked for and the header does not suffice."""
    stream, flags_true, is_cut, num_frames = opened_stream(container), True, False, 0
    all_pts: list[int | None] = []
    all_held: list[Held] = []
    all_hidden: list[bool] = []
    kept: list[Packet] | None = [] if os.path.getsize(path) <= KEPT_BYTES else None
    heads = FirstPackets(needed=not quick)
    try:
        for packet in picture_packets(container):
            if quick and not all_pts and not header_suffices(stream, packet):
                return None
            held = scanner.try_scan(packet)
            is_key, is_hidden, is_cut = packet.is_keyframe, packet.is_discard, packet.is_corrupt
            if held.entry and all_pts and _has_new_headers(packet):
                scanner.is_exact = False
            if is_cut:  # in the middle of a file, the end of one that was joined to another, or damage
                scanner.is_exact = False
            if is_key != bool(held.entry):
                flags_true = False
            if not is_hidden:
                num_frames += held.frames
            all_pts.append(packet.pts)
            all_held.append(held)
            all_hidden.append(is_hidden)
            if heads.needed:
                heads.add(packet, is_key, is_hidden)
            if kept is not None:
                kept.append(packet)
    except FFmpegError as error:
        raise DecodeError(path, f"damaged: {error.strerror} after {num_frames} frames") from None
    refuse_truncated(path, container, len(all_pts) - is_cut)
    if is_cut:
        raise DecodeError(path, f"truncated: the file ends inside frame {max(num_frames - 1, 0)}")
    scanner.finish()
    if incomplete := scanner.headers.incomplete_entries():
        entry = iter(incomplete)
        all_held = [
            held._replace(entry=Entry.NONE) if held.entry and next(entry) and position else held
            for position, held in enumerate(all_held)
        ]
        flags_true = False
    return _Packets(all_pts, all_held, all_hidden, kept, num_frames, flags_true, heads)


def _has_new_headers(packet: Packet) -> bool:
    """Whether what packets are decoded with changes here: whoever begins decoding behind it would miss that."""
    return packet.has_sidedata("new_extradata") or packet.has_sidedata("palette")


def _number(
    container: InputContainer, found: _Packets, scanner: Scanner
) -> tuple[Numbering, list[int] | None, list[tuple[int, int]]]:
    """How frames are numbered, and by what: see `FrameIndex.pts` and `FrameIndex.starts`."""
    if not scanner.is_exact or not found.held[0].entry or not found.num_frames:
        return Numbering.WHOLE, None, []
    starts = [(0, 0)]
    if scanner.must_begin_at_start:
        return Numbering.COUNT, None, starts
    if (pts := _shown_stamps(container, found, scanner.keys)) is not None:
        return Numbering.STAMPS, pts, []
    return (
        Numbering.COUNT,
        None,
        starts if any(found.hidden) else [*starts, *_later_starts(found.held, scanner.keys)],
    )


def _shown_stamps(container: InputContainer, found: _Packets, keys: list[int]) -> list[int] | None:
    """The time stamps of all frames in the order shown, or None if they cannot number them.

    They can in containers that have presentation times, if every frame has one of its own and they put frames in the order in
    which the pictures themselves say that they are shown. (In a file that was once an AVI they may be times of decoding.)
    """
    names = container.format.name.split(",")
    if not any(name in names for name in STAMPED_CONTAINERS):
        return None
    stamps: list[tuple[int, int]] = []
    key = iter(keys)
    for pts, held, is_hidden in zip(found.pts, found.held, found.hidden):
        if held.frames:
            order = next(key)
            if is_hidden:
                continue
            if pts is None:
                return None
            stamps.append((pts, order))
    stamps.sort()
    if any(one[0] == other[0] or one[1] >= other[1] for one, other in pairwise(stamps)):
        return None
    return [pts for pts, _ in stamps]


def _later_starts(held: list[Held], keys: list[int]) -> Iterator[tuple[int, int]]:
    """Entries behind the first packet, with the number of the frame that is handed out first from there on."""
    number = 0
    for position, one in enumerate(held):
        if position and one.entry is Entry.CLOSED:
            yield position, number
        elif position and one.entry is Entry.LEADING:
            behind = number + 1
            while behind < len(keys) and keys[behind] < keys[number]:
                behind += 1
            yield position, behind - 1
        number += one.frames


def frames_per_second(stream: VideoStream, pts: list[int] | None) -> float:
    """The rate written in the file, which is exact, unless the frames' own stamps contradict it.

    Matroska writes what the encoder was told, whatever the spacing became.
    """
    written = stream.average_rate or stream.guessed_rate or stream.base_rate
    if pts is not None and len(pts) > 1 and stream.time_base is not None:
        ticks = pts[-1] - pts[0]
        measured = (len(pts) - 1) / float(ticks * stream.time_base)
        if not written or abs(measured / float(written) - 1) > RATE_TOLERANCE + 1 / ticks:
            return measured
    if written:
        return float(written)
    return 30.0  # a single picture without a rate: any value chooses the same frame
