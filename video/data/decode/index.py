"""Frames of a file in the order in which they are shown, found by reading its packets without decoding them.

Frame n is the n-th frame that a plain decode of the whole file hands out. How that is known without decoding everything
depends on the file, see `Numbering`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from itertools import pairwise

from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.video.stream import VideoStream

from revit.video.data.decode.opening import (
    DecodeError,
    num_bytes,
    open_container,
    opened_stream,
    picture_packets,
    refuse_truncated,
)
from revit.video.data.decode.scan.packets import Entry, Held, Scanner, scanner_for
from revit.video.data.decode.shape import Shape, VideoInfo, first_picture, header_suffices, picture_shape

KEPT_BYTES = 64 << 20
"""Packets of files up to this size are kept in memory between indexing and decoding; others are read twice."""

FIRST_PACKETS = 16  # packets from a key frame on that are tried for a first frame

RATE_TOLERANCE = 0.03
"""Share by which a file's stamps may differ from the rate written in it, beside their rounding."""

STAMPED_CONTAINERS = {"mp4", "matroska", "mpegts", "mpeg", "flv"}
"""FFmpeg's names of containers whose time stamps say when a frame is shown. Those of AVI and ASF say when it is decoded."""


class Numbering(Enum):
    """The way in which frames are known by their numbers."""

    STAMPS = "stamps"
    """By their time stamps: each packet has one of its own, and holds at most one frame."""
    COUNT = "count"
    """By counting what the decoder hands out from a point on where the number is known (`FrameIndex.starts`)."""
    WHOLE = "whole"
    """Only by decoding the whole file: packets of this kind are not understood, or they are irregular."""


@dataclass
class Packets:
    """All packets of a file, in file order."""

    kept: list[Packet] | None
    """None when the file is too large to keep them."""
    pts: list[int | None] = field(default_factory=list)
    held: list[Held] = field(default_factory=list)
    """Contents of every packet. Where `entry`, decoding can begin."""
    hidden: list[bool] = field(default_factory=list)
    """True for those outside the edit list: decoded when others need them, never shown."""
    num_frames: int = 0
    flags_true: bool = True
    """True if the container's key-frame flags are set just where decoding can begin."""
    first: list[Packet] = field(default_factory=list)
    """Packets from which a first frame comes out: up to the first key packet (`key`) and some behind it."""
    key: int = 0


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
    """True if size and rotation are those of the file's header and still to be compared with a decoded picture."""
    numbering: Numbering
    pts: list[int] | None
    """Time stamps in the order shown: frame i is the one stamped pts[i]. None where stamps do not number frames."""
    starts: list[tuple[int, int]]
    """Packets at which counting can begin, with the number of the frame that is handed out first from there on."""
    packets: Packets

    def read_packets(self) -> Iterator[Packet]:
        """Yield all packets that carry a picture, in file order."""
        if self.packets.kept is not None:
            yield from self.packets.kept
        else:
            with open_container(self.path) as container:
                yield from picture_packets(container)


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
        if quick:
            shape = Shape(codec.width, codec.height)
        else:
            shape = picture_shape(first_picture(path, codec, found.first, found.key))
        numbering, pts, starts = _number(container, found, scanner)
        # With two frames on one stamp, or none, the rate is the one written.
        fps = frames_per_second(stream, pts)
        seconds = found.num_frames / fps
        if pts is not None and stream.time_base is not None:
            seconds = float((pts[-1] - pts[0]) * stream.time_base) + 1 / fps
        info, name = shape.info(found.num_frames, fps, seconds), codec.codec.canonical_name
        return FrameIndex(path, container, info, name, shape.pixel_format, quick, numbering, pts, starts, found)
    except BaseException:
        container.close()
        raise


def _read_all(path: str, container: InputContainer, scanner: Scanner, quick: bool) -> Packets | None:
    """Read all packets; None if `quick` was asked for and the header does not suffice."""
    stream, found = opened_stream(container), Packets([] if num_bytes(path) <= KEPT_BYTES else None)
    is_cut, has_key, num_behind_key = False, False, 0
    try:
        for packet in picture_packets(container):
            if quick and not found.pts and not header_suffices(stream, packet):
                return None
            held = scanner.try_scan(packet)
            is_key, is_hidden, is_cut = packet.is_keyframe, packet.is_discard, packet.is_corrupt
            if is_cut:  # in the middle of a file, the end of one that was joined to another, or damage
                scanner.is_exact = False
            # Headers that change: whoever begins decoding behind them would miss that.
            if held.entry and found.pts and (packet.has_sidedata("new_extradata") or packet.has_sidedata("palette")):
                scanner.is_exact = False
            if is_key != bool(held.entry):
                found.flags_true = False
            if not is_hidden:
                found.num_frames += held.frames
            found.pts.append(packet.pts)
            found.held.append(held)
            found.hidden.append(is_hidden)
            if found.kept is not None:
                found.kept.append(packet)
            # Of packets outside the edit list no first frame comes out, however many there are.
            if not quick and num_behind_key < FIRST_PACKETS:
                found.first.append(packet)
                found.key += not (is_key or has_key)
                has_key = has_key or is_key
                num_behind_key += has_key and not is_hidden
    except FFmpegError as error:
        raise DecodeError(path, f"damaged: {error.strerror} after {found.num_frames} frames") from None
    refuse_truncated(path, container, len(found.pts) - is_cut)
    if is_cut:
        raise DecodeError(path, f"truncated: the file ends inside frame {max(found.num_frames - 1, 0)}")
    scanner.finish()
    if incomplete := scanner.headers.incomplete_entries():
        entry = iter(incomplete)
        found.held = [
            held._replace(entry=Entry.NONE) if held.entry and next(entry) and position else held
            for position, held in enumerate(found.held)
        ]
        found.flags_true = False
    return found


def _number(
    container: InputContainer, found: Packets, scanner: Scanner
) -> tuple[Numbering, list[int] | None, list[tuple[int, int]]]:
    """Return how frames are numbered, and by what: see `FrameIndex.pts` and `FrameIndex.starts`."""
    if not scanner.is_exact or not found.held[0].entry or not found.num_frames:
        return Numbering.WHOLE, None, []
    if scanner.must_begin_at_start:
        return Numbering.COUNT, None, [(0, 0)]
    if (pts := _shown_stamps(container, found, scanner.keys)) is not None:
        return Numbering.STAMPS, pts, []
    later = [] if any(found.hidden) else _later_starts(found.held, scanner.keys)
    return Numbering.COUNT, None, [(0, 0), *later]


def _shown_stamps(container: InputContainer, found: Packets, keys: list[int]) -> list[int] | None:
    """Return the time stamps of all frames in the order shown, or None if they cannot number them.

    They can in containers that have presentation times, if every frame has one of its own and they put frames in the order in
    which the pictures themselves say that they are shown. (In a file that was once an AVI they may be times of decoding.)
    """
    if not set(container.format.name.split(",")) & STAMPED_CONTAINERS:
        return None
    stamps: list[tuple[int, int]] = []
    key = iter(keys)
    for pts, held, is_hidden in zip(found.pts, found.held, found.hidden):
        order = next(key) if held.frames else 0
        if held.frames and not is_hidden:
            if pts is None:
                return None
            stamps.append((pts, order))
    stamps.sort()
    if any(one[0] == other[0] or one[1] >= other[1] for one, other in pairwise(stamps)):
        return None
    return [pts for pts, _ in stamps]


def _later_starts(held: list[Held], keys: list[int]) -> Iterator[tuple[int, int]]:
    """Yield entries behind the first packet, with the number of the frame that is handed out first from there on."""
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
    """Return the rate written in the file, which is exact, unless the frames' own stamps contradict it.

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
