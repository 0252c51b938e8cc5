"""Contents of packets of VP8, VP9, AV1 and the relatives of H.263.

Sources: RFC 6386 (9.1); the VP9 bitstream specification (6.2, annex B); the AV1 specification (5.3, 5.9.2); ITU-T H.263
(5.1). Sorenson's and Microsoft's variants as FFmpeg reads them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from av.packet import Packet

from revit.video.data.decode.scan.bits import BitReader
from revit.video.data.decode.scan.packets import FRAME, NOTHING, START, Entry, Held, InOrderScanner, Scanner

HIDDEN_START = Held(0, Entry.CLOSED)  # a picture that is not shown, with which a new sequence begins
HEAD_BYTES = 16
TABLE_BYTES = 2048  # of a JPEG picture, in which its Huffman tables lie


class Vp8Scanner(InOrderScanner):
    """One picture a packet, shown or not."""

    def look(self, packet: Packet) -> Held:
        first = memoryview(packet)[0]
        if first & 0x10:
            return FRAME if first & 1 else START
        return NOTHING if first & 1 else HIDDEN_START


class Vp9Scanner(InOrderScanner):
    """Pictures that are not shown come in a packet with one that is (a superframe), or alone."""

    def look(self, packet: Packet) -> Held:
        data = memoryview(packet)
        shown, is_entry = 0, False
        for number, picture in enumerate(_superframe(data)):
            bits = BitReader(picture[:4])
            bits.bits(2)
            if bits.bits(1) + 2 * bits.bits(1) == 3:
                bits.bits(1)
            if bits.flag():  # shows an earlier one again
                shown += 1
                continue
            is_key, is_shown = not bits.flag(), bits.flag()
            is_entry = is_entry or (is_key and number == 0)
            shown += is_shown
        if shown > 1:
            self.is_exact = False
        return Held(shown, Entry.CLOSED if is_entry else Entry.NONE)


def _superframe(data: memoryview) -> list[memoryview]:
    """Split a packet of VP9 into its pictures (annex B)."""
    last = data[-1]
    if last & 0xE0 == 0xC0:
        size_bytes, count = (last >> 3 & 3) + 1, (last & 7) + 1
        start = len(data) - 2 - size_bytes * count
        if start >= 0 and data[start] == last:
            pictures, at = [], 0
            for number in range(count):
                place = start + 1 + number * size_bytes
                size = int.from_bytes(data[place : place + size_bytes], "little")
                if size:
                    pictures.append(data[at : at + size])
                at += size
            return pictures
    return [data]


class Av1Scanner(InOrderScanner):
    """A temporal unit shows one frame. Decoding begins where a sequence header precedes a key frame that is shown."""

    def look(self, packet: Packet) -> Held:
        data, at, has_header = memoryview(packet), 0, False
        while at < len(data):
            kind, has_extension, has_size = data[at] >> 3 & 15, data[at] & 4, data[at] & 2
            at += 2 if has_extension else 1
            size = len(data) - at
            if has_size:
                size, at = _leb128(data, at)
            if kind == 1:
                has_header = True
            elif kind in (3, 6) and size:
                bits = BitReader(data[at : at + 1])
                is_old, frame_type, is_shown = bits.flag(), bits.bits(2), bits.flag()
                return START if has_header and not is_old and frame_type == 0 and is_shown else FRAME
            at += size
        return NOTHING


def _leb128(data: memoryview, at: int) -> tuple[int, int]:
    """Read a number of AV1's variable length; return it and the place behind it."""
    value = 0
    for number in range(8):
        if at >= len(data):
            break
        byte = data[at]
        value, at = value | (byte & 0x7F) << 7 * number, at + 1
        if not byte & 0x80:
            break
    return value, at


class MjpegScanner(InOrderScanner):
    """Pictures of their own, unless the first one alone holds the tables of all."""

    def __init__(self) -> None:
        super().__init__()
        self._has_tables = False

    def look(self, packet: Packet) -> Held:
        head = bytes(memoryview(packet)[:TABLE_BYTES])
        if b"\xff\xc4" in head:
            self._has_tables = True
        elif self._has_tables and head[:2] == b"\xff\xd8":
            self.must_begin_at_start = True
        return START


class H263Scanner(InOrderScanner):
    """No picture is shown out of order and none is left out; only whether it is an intra picture is read.

    is_intra: reads that from the first bits of a packet.
    """

    def __init__(self, is_intra: Callable[[BitReader], bool]) -> None:
        super().__init__()
        self._is_intra = is_intra

    def look(self, packet: Packet) -> Held:
        return START if self._is_intra(BitReader(memoryview(packet)[:HEAD_BYTES])) else FRAME


def _h263(bits: BitReader) -> bool:
    bits.bits(22 + 8 + 5)  # start code, time, markers and switches
    if bits.bits(3) != 7:
        return not bits.flag()
    if bits.bits(3) == 1:
        bits.bits(18)
    return bits.bits(3) == 0


def _sorenson(bits: BitReader) -> bool:
    bits.bits(17 + 5 + 8)  # start code, version, time
    bits.bits({0: 16, 1: 32}.get(bits.bits(3), 0))
    return bits.bits(2) == 0


INTRA_BITS: dict[str, Callable[[BitReader], bool]] = {
    "h263": _h263,
    "h263p": _h263,
    "flv1": _sorenson,
    "msmpeg4v1": lambda bits: bits.bits(32 + 5 + 2) & 3 == 0,
    "msmpeg4v2": lambda bits: bits.bits(2) == 0,
    "msmpeg4v3": lambda bits: bits.bits(2) == 0,
    "wmv1": lambda bits: bits.bits(2) == 0,
    "wmv2": lambda bits: not bits.flag(),
}
"""Functions that tell an intra picture by the first bits of a packet, by FFmpeg's name of the codec."""

OTHERS: dict[str, Callable[[], Scanner]] = {
    "vp8": Vp8Scanner,
    "vp9": Vp9Scanner,
    "av1": Av1Scanner,
    "mjpeg": MjpegScanner,
    **{name: partial(H263Scanner, is_intra) for name, is_intra in INTRA_BITS.items()},
}
"""Scanners by FFmpeg's name of the codec."""
