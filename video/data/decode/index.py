"""Frames of a file in the order in which they are shown, found by reading its packets without decoding them.

Frame n is the n-th frame that a plain decode of the whole file hands out. How that is known without decoding everything
depends on the file, see `FrameIndex`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from revit.video.data.decode.opening import (
    ENCRYPTED,
    DecodeError,
    error_text,
    is_encrypted,
    num_bytes,
    open_container,
    opened_stream,
    picture_packets,
    refuse_truncated,
)
from revit.video.data.decode.scan import h264, hevc, scanner_for
from revit.video.data.decode.scan.packets import Entry, Held, Scanner

KEPT_BYTES = 64 << 20
"""Packets of files up to this size are kept in memory between indexing and decoding; others are read twice."""

FIRST_PACKETS = 16  # packets from a key frame on that are tried for a first frame

RATE_TOLERANCE = 0.03
"""Share by which a file's stamps may differ from the rate written in it, beside their rounding."""

STAMPED_CONTAINERS = {"mp4", "matroska", "mpegts", "mpeg", "flv"}
"""FFmpeg's names of containers whose time stamps say when a frame is shown. Those of AVI and ASF say when it is decoded."""


@dataclass(frozen=True)
class VideoInfo:
    """Facts that choosing frames may depend on. The same whichever decoder reads the file."""

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
class Shape:
    """Looks of pictures before they are turned. width, height: pixels.  rotation: see `VideoInfo`."""

    width: int
    height: int
    rotation: int = 0
    pixel_format: str | None = None

    def info(self, num_frames: int, fps: float, seconds: float, num_lost: int = 0) -> VideoInfo:
        """Return what is known of a file of such pictures."""
        upright = self.rotation % 180 == 0
        width, height = (self.width, self.height) if upright else (self.height, self.width)
        return VideoInfo(num_frames, fps, width, height, self.rotation, seconds, num_lost)


def picture_shape(picture: VideoFrame) -> Shape:
    """Return the shape of a decoded picture."""
    # A nonsensical display matrix has no angle (not a number, read as a huge integer): frames stay as they are.
    turn = picture.rotation if abs(picture.rotation) <= 360 else 0
    return Shape(picture.width, picture.height, round(turn / 90) % 4 * 90, picture.format.name)


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
    """One opened file: its frames by number, and the packets that hold them.

    Frames are known by their time stamps (`pts`), or by counting what the decoder hands out (`starts`). With neither, only
    decoding the whole file tells them: packets of this kind are not understood, or they are irregular.
    """

    path: str
    container: InputContainer
    info: VideoInfo
    codec: str
    """FFmpeg's name, whichever library decodes."""
    pixel_format: str | None
    """As decoded; None if no picture has been decoded yet."""
    assumed: bool
    """True if size and rotation are those of the file's header and still to be compared with a decoded picture."""
    pts: list[int] | None
    """Time stamps in the order shown: frame i is the one stamped pts[i]. None where not each packet has one of its own."""
    starts: list[tuple[int, int]]
    """Packets at which counting can begin, with the number of the frame that is handed out first from there on."""
    packets: Packets

    @property
    def is_numbered(self) -> bool:
        """False if only decoding the whole file tells which frame is which."""
        return self.pts is not None or bool(self.starts)

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
        pts, starts = _number(container, found, scanner)
        # With two frames on one stamp, or none, the rate is the one written.
        fps = frames_per_second(stream, pts)
        seconds = found.num_frames / fps
        if pts is not None and stream.time_base is not None:
            seconds = float((pts[-1] - pts[0]) * stream.time_base) + 1 / fps
        info, name = shape.info(found.num_frames, fps, seconds), codec.codec.canonical_name
        return FrameIndex(path, container, info, name, shape.pixel_format, quick, pts, starts, found)
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
) -> tuple[list[int] | None, list[tuple[int, int]]]:
    """Return `FrameIndex.pts` and `FrameIndex.starts`."""
    if not scanner.is_exact or not found.held[0].entry or not found.num_frames:
        return None, []
    if scanner.must_begin_at_start:
        return None, [(0, 0)]
    if (pts := _shown_stamps(container, found, scanner.keys)) is not None:
        return pts, []
    later = [] if any(found.hidden) else _later_starts(found.held, scanner.keys)
    return None, [(0, 0), *later]


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


def header_suffices(stream: VideoStream, first: Packet) -> bool:
    """Tell whether the file's header says how all pictures look, and how many there are, unless the first decoded one differs."""
    codec = stream.codec_context
    return (
        "mp4" in stream.container.format.name
        and stream.frames > 0  # all frames are listed in one place, not fragment by fragment
        and codec.width > 0
        and first.is_keyframe
        and not _may_be_turned(codec, bytes(first))
    )


def _may_be_turned(codec: VideoCodecContext, first: bytes) -> bool:
    """Tell whether the stream itself, in its header or first packet, may say what only decoding tells; True if unknown.

    That is how pictures are to be turned, or which encoder's faults are to be made up for.
    """
    name, header = codec.codec.canonical_name, codec.extradata or b""
    if name == "h264":
        return h264.may_be_turned(header, first)
    if name == "hevc":
        return hevc.may_be_turned(header, first)
    if name == "mpeg4":
        return b"\0\0\1\xb2" in first
    return name not in ("vp8", "vp9", "av1")


def first_picture(path: str, codec: VideoCodecContext, packets: list[Packet], key: int) -> VideoFrame:
    """Decode the first frame, which alone tells rotation and true pixel format. key: place of the first key packet."""
    reason = "it returns nothing"
    # One packet is nearly always enough. Streams cut out of the middle of others need more; of some nothing comes before
    # their first key frame, which may be far.
    for some in (packets[:1], packets, packets[key:]):
        try:
            pictures = [picture for packet in some for picture in codec.decode(packet)]
            pictures += codec.decode(None)
        except (FFmpegError, OSError) as error:
            reason = error_text(error)
            continue
        finally:
            codec.flush_buffers()
        if pictures:
            return pictures[0]
    if is_encrypted(path):
        raise DecodeError(path, ENCRYPTED)
    raise DecodeError(path, f"damaged, or no decoder for {codec.name}: its first frame cannot be decoded ({reason})")
