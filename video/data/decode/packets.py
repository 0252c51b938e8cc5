"""What each packet of a stream holds, read from its first bits: how many frames, and whether decoding can begin there.

Containers answer both, and often wrongly: AVI's key-frame flags are what the writer put there, ASF's and AVI's time stamps
are decoding times, a packet of MPEG-4 as XviD writes it may hold two pictures or none. So frames are numbered by what is
in the packets, and where that cannot be told (`Scanner.is_exact`) by decoding the whole file.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

from av.packet import Packet
from av.video.codeccontext import VideoCodecContext


class Entry(IntEnum):
    """Whether decoding can begin at a packet."""

    NONE = 0
    """It cannot: the picture is built on others, or those behind it are."""
    OPEN = 1
    """The picture and all that are shown after it come out; how many of those behind are shown before it is not known."""
    LEADING = 2
    """The same; just those of the pictures directly behind that say so (`Held.leads`) are shown before it."""
    CLOSED = 3
    """Everything from here on comes out, and is shown after everything before."""


class Held(NamedTuple):
    """What one packet holds."""

    frames: int = 1
    """Frames that a decoder hands out because of this packet, now or later."""
    entry: Entry = Entry.NONE
    leads: bool = False
    """Whether it is shown before the entry, or in MPEG-1, -2 and -4 before whatever other picture, that is decoded before it."""
    layer: int | None = None
    """Temporal sub-layer of H.264 and HEVC, of which a decoder leaves out pictures marked as unused: no picture is built on
    one of a higher layer. None where nothing is to be left out."""


FRAME = Held()
"""A frame that is built on others."""
NOTHING = Held(frames=0)
"""No frame: a stand-in, a picture that is not shown, the second field of a frame."""
START = Held(entry=Entry.CLOSED)
"""A frame with which a new sequence begins."""


class Scanner:
    """Looks into the packets of one stream, one after the other, in file order."""

    def __init__(self) -> None:
        self.is_exact = True
        """Whether the frames counted so far are certain. Once False, only decoding tells how many there are."""
        self.must_begin_at_start = False
        """Whether packets depend on those before in other ways than pictures do (packed bitstreams)."""
        self.may_reorder = False
        """Whether frames may be shown in another order than that of their packets."""

    def scan(self, packet: Packet) -> Held:
        """What the next packet holds."""
        raise NotImplementedError


class IntraScanner(Scanner):
    """Codecs without prediction between frames: every packet is a frame of its own."""

    def scan(self, packet: Packet) -> Held:
        return START


class UnknownScanner(Scanner):
    """Codecs whose packets are not looked into."""

    def __init__(self) -> None:
        super().__init__()
        self.is_exact = False

    def scan(self, packet: Packet) -> Held:
        return FRAME


def scanner_for(codec: VideoCodecContext) -> Scanner:
    """The scanner of a stream's codec."""
    from revit.video.data.decode.scan_h26x import H264Scanner, HevcScanner
    from revit.video.data.decode.scan_mpeg import Mpeg2Scanner, Mpeg4Scanner
    from revit.video.data.decode.scan_others import OTHERS

    name, header = codec.codec.canonical_name, codec.extradata or b""
    if name == "h264":
        return H264Scanner(header)
    if name == "hevc":
        return HevcScanner(header)
    if name == "mpeg4":
        return Mpeg4Scanner(header)
    if name in ("mpeg1video", "mpeg2video"):
        return Mpeg2Scanner()
    if name in OTHERS:
        return OTHERS[name]()
    return IntraScanner() if codec.codec.intra_only else UnknownScanner()
