"""Which frames a file has, in the order they are shown, found by reading its packets without decoding them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from revit.video.data.bitstream import may_be_turned, sub_layer
from revit.video.data.opening import (
    DecodeError,
    error_text,
    open_container,
    picture_packets,
    refuse_truncated,
)

KEPT_BYTES = 64 << 20
"""Packets of files up to this size are kept in memory between indexing and decoding; others are read twice."""

FIRST_PACKETS = 16
"""Packets tried for a first frame."""

RATE_TOLERANCE = 0.03
"""Share by which a file's stamps may differ from the rate written in it, beside their rounding."""


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
    pixel_format: str | None
    """As decoded; None if no picture has been decoded yet."""
    assumed: bool
    """Whether size and rotation are those of the file's header and still to be compared with a decoded picture."""
    pts: list[int] | None
    """Time stamps in the order shown, so frame i is the one stamped pts[i]. None: stamps are missing or doubled,
    frames are counted as the decoder returns them."""
    packet_pts: list[int | None]
    """Time stamp of every packet in file order."""
    packet_is_key: list[bool]
    """Whether decoding can begin at that packet, in file order."""
    packet_layers: list[int | None]
    """Temporal sub-layer of every packet's picture in file order: none is built on pictures of higher ones. None where
    it is unknown, or marks of unused pictures cannot be relied on: all are then decoded."""
    packets: list[Packet] | None
    """Packets in file order, or None when the file is too large to keep them."""

    def read_packets(self) -> Iterator[Packet]:
        """All packets that carry a picture, in file order."""
        if self.packets is not None:
            yield from self.packets
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
        stream = container.streams.video[0]
        keep = os.path.getsize(path) <= KEPT_BYTES
        kept: list[Packet] = []
        packet_pts: list[int | None] = []
        packet_is_key: list[bool] = []
        packet_layers: list[int | None] = []
        codec = stream.codec_context
        header = codec.extradata
        stamps: list[int | None] = []
        # The first packets of the file, and those from its first key frame on.
        heads: tuple[list[Packet], list[Packet]] = ([], [])
        met_key = False
        try:
            for packet in picture_packets(container):
                if packet.is_corrupt:
                    refuse_truncated(path, container, len(stamps))
                    raise DecodeError(path, f"truncated: the file ends inside frame {len(stamps)}")
                pts, is_key = packet.pts, packet.is_keyframe
                if quick and not packet_pts and not _header_suffices(stream, packet):
                    container.close()
                    return index_frames(path)
                packet_pts.append(pts)
                packet_is_key.append(is_key)
                packet_layers.append(sub_layer(codec.name, header, packet))
                if (
                    not packet.is_discard
                ):  # else outside the edit list: decoded when others need it, never shown
                    stamps.append(pts)
                if not quick and len(heads[1]) < FIRST_PACKETS:
                    met_key = met_key or is_key
                    for head, begun in zip(heads, (True, met_key)):
                        if begun and len(head) < FIRST_PACKETS:
                            head.append(packet)
                if keep:
                    kept.append(packet)
        except FFmpegError as error:
            raise DecodeError(path, f"damaged: {error.strerror} after {len(stamps)} frames") from None
        refuse_truncated(path, container, len(stamps))
        if not stamps:
            raise DecodeError(path, "has a video stream without a single frame")
        shape = _header_shape(codec) if quick else picture_shape(_first_picture(path, codec, *heads))
        # Without stamps for every frame, or with two frames on one stamp, only counting is exact.
        shown = sorted(stamp for stamp in stamps if stamp is not None)
        shown_pts = shown if len(set(shown)) == len(stamps) else None
        fps = _frames_per_second(stream, shown_pts)
        seconds = len(stamps) / fps
        if shown_pts is not None and stream.time_base is not None:
            seconds = float((shown_pts[-1] - shown_pts[0]) * stream.time_base) + 1 / fps
        turned = shape.rotation in (90, 270)
        info = VideoInfo(
            num_frames=len(stamps),
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
            codec=codec.name,
            pixel_format=shape.pixel_format,
            assumed=quick,
            pts=shown_pts,
            packet_pts=packet_pts,
            packet_is_key=packet_is_key,
            packet_layers=packet_layers,
            packets=kept if keep else None,
        )
    except BaseException:
        container.close()
        raise


@dataclass(frozen=True)
class Shape:
    """What pictures look like before they are turned. width, height: pixels.  rotation: see `VideoInfo`."""

    width: int
    height: int
    rotation: int
    pixel_format: str | None


def picture_shape(picture: VideoFrame) -> Shape:
    """The shape of a decoded picture."""
    # A nonsensical display matrix has no angle (not a number, read as a huge integer): frames stay as they are.
    turn = picture.rotation if abs(picture.rotation) <= 360 else 0
    return Shape(picture.width, picture.height, round(turn / 90) % 4 * 90, picture.format.name)


def _header_shape(codec: VideoCodecContext) -> Shape:
    """The shape of pictures that are not turned, by the header of the file."""
    return Shape(codec.width, codec.height, 0, None)


def _header_suffices(stream: VideoStream, first: Packet) -> bool:
    """Whether the file's header says how all pictures look, and how many there are, unless the first decoded one differs."""
    codec = stream.codec_context
    return (
        "mp4" in stream.container.format.name
        and stream.frames > 0  # all frames are listed in one place, not fragment by fragment
        and codec.width > 0
        and first.is_keyframe
        and not may_be_turned(codec.name, codec.extradata, bytes(first))
    )


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
            reason = error_text(error)
            continue
        finally:
            codec.flush_buffers()
        if pictures:
            return pictures[0]
    raise DecodeError(
        path, f"damaged, or no decoder for {codec.name}: its first frame cannot be decoded ({reason})"
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
