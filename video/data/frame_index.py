"""Which frames a file has, in the order they are shown, found by reading its packets without decoding them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

import av
from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from revit.common.data.broken import BrokenSample

KEPT_BYTES = 64 << 20
"""Packets of files up to this size are kept in memory between indexing and decoding; others are read twice."""

FIRST_PACKETS = 16
"""Packets tried for a first frame."""

RATE_TOLERANCE = 0.03
"""Share by which a file's stamps may differ from the rate written in it, beside their rounding."""


class DecodeError(BrokenSample):
    """A video file that cannot be decoded. path: the file.  reason: one line saying what is wrong with it."""


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


@dataclass(frozen=True)
class FrameIndex:
    """One opened file: its frames by number, and the packets that hold them."""

    path: str
    container: InputContainer
    info: VideoInfo
    codec: str
    pixel_format: str
    pts: list[int] | None
    """Time stamps in the order shown, so frame i is the one stamped pts[i]. None: stamps are missing or doubled,
    frames are counted as the decoder returns them."""
    packet_pts: list[int | None]
    """Time stamp of every packet in file order."""
    packet_is_key: list[bool]
    """Whether decoding can begin at that packet, in file order."""
    packets: list[Packet] | None
    """Packets in file order, or None when the file is too large to keep them."""

    def read_packets(self) -> Iterator[Packet]:
        """All packets that carry a picture, in file order."""
        if self.packets is not None:
            yield from self.packets
        else:
            with open_container(self.path) as container:
                yield from picture_packets(container)


def picture_packets(container: InputContainer) -> Iterator[Packet]:
    """Packets of the first video stream; the empty ones, which some writers use as padding, are left out.

    An empty packet would also tell the decoder that the file has ended.
    """
    for packet in container.demux(container.streams.video[0]):
        if packet.size > 0:
            yield packet


def open_container(path: str) -> InputContainer:
    """Open `path` for reading, one thread. `DecodeError` says why it is not a video file."""
    try:
        if os.path.isdir(path):
            raise DecodeError(path, "is a folder, not a video file")
        with open(path, "rb") as file:
            head = file.read(4096)
    except OSError as error:
        raise DecodeError(path, (error.strerror or str(error)).lower()) from None
    if not head:
        raise DecodeError(path, "the file is empty (0 bytes)")
    try:
        container = av.open(path, metadata_errors="ignore")
    except (FFmpegError, OSError, ValueError) as error:
        raise DecodeError(path, _why_unreadable(head, error)) from None
    if not container.streams.video:
        kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
        container.close()
        raise DecodeError(path, f"has no video stream (only {kinds})")
    stream = container.streams.video[0]
    if stream.codec_context is None:
        container.close()
        raise DecodeError(path, "this build of FFmpeg has no decoder for the file's video codec")
    stream.codec_context.thread_count = 1
    return container


def index_frames(path: str) -> FrameIndex:
    """Open `path` and list its frames. The caller closes `.container`.

    `DecodeError` if it is no video, has no frame, or ends before its own index does (truncated).
    """
    container = open_container(path)
    try:
        stream = container.streams.video[0]
        keep = os.path.getsize(path) <= KEPT_BYTES
        kept: list[Packet] = []
        packet_pts: list[int | None] = []
        packet_is_key: list[bool] = []
        stamps: list[int | None] = []
        # The first packets of the file, and those from its first key frame on.
        heads: tuple[list[Packet], list[Packet]] = ([], [])
        met_key = False
        try:
            for packet in picture_packets(container):
                if packet.is_corrupt:
                    _refuse_truncated(path, container, len(stamps))
                    raise DecodeError(path, f"truncated: the file ends inside frame {len(stamps)}")
                pts = packet.pts
                packet_pts.append(pts)
                packet_is_key.append(packet.is_keyframe)
                if (
                    not packet.is_discard
                ):  # else outside the edit list: decoded when others need it, never shown
                    stamps.append(pts)
                met_key = met_key or packet.is_keyframe
                for head, begun in zip(heads, (True, met_key)):
                    if begun and len(head) < FIRST_PACKETS:
                        head.append(packet)
                if keep:
                    kept.append(packet)
        except FFmpegError as error:
            raise DecodeError(path, f"damaged: {error.strerror} after {len(stamps)} frames") from None
        _refuse_truncated(path, container, len(stamps))
        if not stamps:
            raise DecodeError(path, "has a video stream without a single frame")
        picture = _first_picture(path, stream.codec_context, *heads)
        # Without stamps for every frame, or with two frames on one stamp, only counting is exact.
        shown = sorted(stamp for stamp in stamps if stamp is not None)
        shown_pts = shown if len(set(shown)) == len(stamps) else None
        # A nonsensical display matrix has no angle (not a number, read as a huge integer): frames stay as they are.
        turn = picture.rotation if abs(picture.rotation) <= 360 else 0
        rotation = round(turn / 90) % 4 * 90
        turned = rotation in (90, 270)
        fps = _frames_per_second(stream, shown_pts)
        seconds = len(stamps) / fps
        if shown_pts is not None and stream.time_base is not None:
            seconds = float((shown_pts[-1] - shown_pts[0]) * stream.time_base) + 1 / fps
        info = VideoInfo(
            num_frames=len(stamps),
            fps=fps,
            width=picture.height if turned else picture.width,
            height=picture.width if turned else picture.height,
            rotation=rotation,
            duration_seconds=seconds,
        )
        return FrameIndex(
            path=path,
            container=container,
            info=info,
            codec=stream.codec_context.name,
            pixel_format=picture.format.name,
            pts=shown_pts,
            packet_pts=packet_pts,
            packet_is_key=packet_is_key,
            packets=kept if keep else None,
        )
    except BaseException:
        container.close()
        raise


def _first_picture(
    path: str, codec: VideoCodecContext, head: list[Packet], from_key: list[Packet]
) -> VideoFrame:
    """The first frame the decoder returns: the only place that tells rotation and true pixel format."""
    reason = "it returns nothing"
    # One packet is nearly always enough. Streams cut out of the middle of others need more; of some nothing comes before
    # their first key frame, which may be far.
    for packets in (head[:1], head, from_key):
        try:
            pictures = [picture for packet in packets for picture in codec.decode(packet)]
            pictures += codec.decode(None)
        except (FFmpegError, OSError) as error:
            reason = _text(error)
            continue
        finally:
            codec.flush_buffers()
        if pictures:
            return pictures[0]
    raise DecodeError(
        path, f"damaged, or no decoder for {codec.name}: its first frame cannot be decoded ({reason})"
    )


def _refuse_truncated(path: str, container: InputContainer, num_packets: int) -> None:
    """MP4 files list where every frame lies: a last frame beyond the end of the file was cut off."""
    if "mp4" not in container.format.name:
        return
    entries = container.streams.video[0].index_entries
    if len(entries) == 0:
        return
    last = entries[len(entries) - 1]
    if last.pos + last.size > os.path.getsize(path):
        raise DecodeError(
            path, f"truncated: {num_packets} of the {len(entries)} frames of its index are in the file"
        )


def _frames_per_second(stream: VideoStream, pts: list[int] | None) -> float:
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


def _why_unreadable(head: bytes, error: Exception) -> str:
    if head[4:8] == b"ftyp":
        return "its index (moov box) is missing or damaged; the recording was probably cut off"
    if b"\0" not in head:
        try:
            head[:1024].decode("utf-8")
        except UnicodeDecodeError:
            pass
        else:
            return "is a text file, not a video"
    return f"not readable as a video: {_text(error)}"


def _text(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
