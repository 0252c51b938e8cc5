"""Contents of each packet of a stream, read from its first bits: how many frames, in which order they are shown, and whether
decoding can begin there.

Containers answer all three, and often wrongly: AVI's key-frame flags are what the writer put there, ASF's and AVI's time
stamps are decoding times (and those of MP4 files made from them), a packet of MPEG-4 as XviD writes it may hold two pictures or
none. So frames are numbered by what is in the packets, and where that does not tell for certain what a decoder makes of them
(`Scanner.is_exact`) by decoding the whole file.
"""

from __future__ import annotations

from bisect import bisect, insort
from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple

from av.packet import Packet

PROBED_FRAMES = 7
"""Frames that FFmpeg decodes at least when it opens a file, to learn how far pictures are shown out of order."""


class Entry(IntEnum):
    """Possibility to begin decoding at a packet."""

    NONE = 0
    """It cannot: the picture is built on others, or those behind it are."""
    LEADING = 1
    """The picture and all that are shown after it come out; of those behind some may be shown before it, and need others."""
    CLOSED = 2
    """Everything from here on comes out, and is shown after everything before."""


class Held(NamedTuple):
    """Contents of one packet."""

    frames: int = 1
    """Frames that a decoder hands out because of this packet, now or later."""
    entry: Entry = Entry.NONE
    layer: int | None = None
    """Temporal sub-layer of H.264 and HEVC, of which a decoder leaves out pictures marked as unused: no picture is built on
    one of a higher layer. None where nothing is to be left out."""


FRAME = Held()  # a frame that is built on others
NOTHING = Held(frames=0)  # no frame: a stand-in, a picture that is not shown, the second field of a frame
START = Held(entry=Entry.CLOSED)  # a frame with which a new sequence begins
INTRA = Held(entry=Entry.LEADING)  # a frame that needs no other


class Scanner:
    """Looks into the packets of one stream, one after the other, in file order."""

    def __init__(self) -> None:
        self.is_exact = True
        """True if the frames counted so far are certain. Once False, only decoding tells how many there are."""
        self.must_begin_at_start = False
        """True if packets depend on those before in other ways than pictures do (packed bitstreams)."""
        self.keys: list[int] = []
        """One for every frame in the order of their packets; they rise in the order in which frames are shown."""
        self.most_reordered: int | None = None
        """Frames that a decoder holds back at most to put them in order; None if it holds back as many as needed."""
        self.learns_reordering = False
        """True if a decoder learns from the first frames how many that are."""
        self.headers = Headers()

    def scan(self, packet: Packet) -> Held:
        """Look into the next packet."""
        raise NotImplementedError

    def try_scan(self, packet: Packet) -> Held:
        """Look into the next packet; of one that is too damaged to be read nothing is certain."""
        try:
            return self.scan(packet)
        except (IndexError, ValueError, OverflowError):
            self.is_exact = False
            return FRAME

    def finish(self) -> None:
        """Turn `is_exact` False, after the last packet, if a decoder would not put the frames in order."""
        if self.most_reordered is not None and num_reordered(self.keys) > self.most_reordered:
            self.is_exact = False
        if self.learns_reordering and num_reordered(self.keys) > num_reordered(self.keys[:PROBED_FRAMES]):
            self.is_exact = False


class InOrderScanner(Scanner):
    """Codecs whose frames are shown in the order of their packets."""

    def scan(self, packet: Packet) -> Held:
        held = self.look(packet)
        self.keys += range(len(self.keys), len(self.keys) + held.frames)
        return held

    def look(self, packet: Packet) -> Held:
        """Look into the next packet: a frame of its own, in codecs without prediction between frames."""
        return START


class UnknownScanner(InOrderScanner):
    """Codecs whose packets are not looked into."""

    def __init__(self) -> None:
        super().__init__()
        self.is_exact = False

    def look(self, packet: Packet) -> Held:
        return FRAME


class Headers:
    """Headers in packets that hold for those behind. Whoever begins decoding behind one that changed, and is not repeated there,
    would miss it."""

    def __init__(self) -> None:
        self._known: dict[object, bytes] = {}
        self._changing: set[object] = set()
        self._carried: set[object] = set()
        self._num_packets = 0
        self._entries: list[frozenset[object]] = []

    def begin_packet(self) -> None:
        self._carried = set()
        self._num_packets += 1

    def note(self, which: object, header: bytes) -> bool:
        """Note a header by its kind and number; return whether it is new. One first seen behind the first packet is a change."""
        before = self._known.get(which)
        self._carried.add(which)
        if before == header:
            return False
        self._known[which] = header
        if before is not None or self._num_packets > 1:
            self._changing.add(which)
        return True

    def note_entry(self) -> None:
        """Note that decoding could begin at the packet, as far as its picture goes."""
        self._entries.append(frozenset(self._carried))

    def incomplete_entries(self) -> list[bool]:
        """Tell for every entry whether a header is missing there that is not the same throughout."""
        return [not self._changing <= carried for carried in self._entries] if self._changing else []


def num_reordered(keys: Sequence[int]) -> int:
    """Return how many frames must be held back at most so that `keys`, in the order of decoding, leave in rising order."""
    seen: list[int] = []
    most = 0
    for key in keys:
        most = max(most, len(seen) - bisect(seen, key))
        insort(seen, key)
    return most
