"""What pictures of a file look like: by its header where that can be relied on, or by the first one that is decoded."""

from __future__ import annotations

from dataclasses import dataclass

from av.error import FFmpegError
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from revit.video.data.decode.opening import DecodeError
from revit.video.data.decode.refusal import ENCRYPTED, error_text, is_encrypted
from revit.video.data.decode.scan import h264, hevc

FIRST_PACKETS = 16
"""Packets tried for a first frame."""


class FirstPackets:
    """The first packets of a file, and those from its first key frame on: from some of them a first frame comes out."""

    def __init__(self, needed: bool) -> None:
        self.needed = needed
        """Whether more of them are."""
        self.first: list[Packet] = []
        self.from_key: list[Packet] = []
        self._num_shown = 0

    def add(self, packet: Packet, is_key: bool, is_hidden: bool) -> None:
        """Note the next packet. Of those outside the edit list nothing comes out, however many there are."""
        self.first.append(packet)
        if is_key or self.from_key:
            self.from_key.append(packet)
            self._num_shown += not is_hidden
        self.needed = self._num_shown < FIRST_PACKETS


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


def header_shape(codec: VideoCodecContext) -> Shape:
    """The shape of pictures that are not turned, by the header of the file."""
    return Shape(codec.width, codec.height, 0, None)


def header_suffices(stream: VideoStream, first: Packet) -> bool:
    """Whether the file's header says how all pictures look, and how many there are, unless the first decoded one differs."""
    codec = stream.codec_context
    return (
        "mp4" in stream.container.format.name
        and stream.frames > 0  # all frames are listed in one place, not fragment by fragment
        and codec.width > 0
        and first.is_keyframe
        and not _may_be_turned(codec, bytes(first))
    )


def _may_be_turned(codec: VideoCodecContext, first: bytes) -> bool:
    """Whether the stream itself, in its header or its first packet, may say what only decoding it tells: how pictures are to be
    turned, or which encoder's faults are to be made up for. True if unknown."""
    name, header = codec.codec.canonical_name, codec.extradata or b""
    if name == "h264":
        return h264.may_be_turned(header, first)
    if name == "hevc":
        return hevc.may_be_turned(header, first)
    if name == "mpeg4":
        return b"\0\0\1\xb2" in first
    return name not in ("vp8", "vp9", "av1")


def first_picture(path: str, codec: VideoCodecContext, packets: FirstPackets) -> VideoFrame:
    """The first frame the decoder returns: the only place that tells rotation and true pixel format."""
    reason = "it returns nothing"
    # One packet is nearly always enough. Streams cut out of the middle of others need more; of some nothing comes before
    # their first key frame, which may be far.
    for some in (packets.first[:1], packets.first, packets.from_key):
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
    raise DecodeError(
        path, f"damaged, or no decoder for {codec.name}: its first frame cannot be decoded ({reason})"
    )
