"""Looks of the pictures of a file: by its header where that can be relied on, or by the first one that is decoded."""

from __future__ import annotations

from dataclasses import dataclass

from av.error import FFmpegError
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from revit.video.data.decode.opening import ENCRYPTED, DecodeError, error_text, is_encrypted
from revit.video.data.decode.scan import h264, hevc


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
