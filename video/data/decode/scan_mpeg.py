"""What packets of MPEG-1, MPEG-2 and MPEG-4 hold: the types of their pictures, and what packed bitstreams make of them.

Sources: ISO/IEC 11172-2 and 13818-2 (6.2.2.6, 6.2.3, 6.2.3.1), 14496-2 (6.2.3, 6.2.5). Packed bitstreams are in no standard:
DivX and XviD put a B-picture behind the reference picture that is decoded before it into one packet, and a stand-in where
the B-picture's own packet would be, because Video for Windows gives one picture back for every packet. FFmpeg decodes one
picture a packet, too, and keeps the second one for the next call; what that makes of irregular files is repeated here.
"""

from __future__ import annotations

from av.packet import Packet

from revit.video.data.decode.bits import BitReader, has_start_code, start_codes
from revit.video.data.decode.packets import FRAME, NOTHING, START, Entry, Held, Scanner

INTRA, B = 0, 2
"""MPEG-4's picture types; 1 is P, 3 a sprite, which is as good as P."""
STAND_IN_BYTES = 19
"""Packets up to this size never hold a coded picture beside one that was kept from the packet before (FFmpeg)."""

CODED_BYTES = 64
"""A packet of more bytes that begins with a picture and holds nothing else is a coded one."""
PICTURE = b"\0\0\1\xb6"

INTRA_PICTURE = Held(entry=Entry.LEADING)
B_PICTURE = Held(leads=True)


class _References:
    """Counts reference pictures: B-pictures before the second one have nothing to be built on and are not decoded."""

    def __init__(self) -> None:
        self.count = 0

    def held(self, is_intra: bool, is_b: bool) -> Held:
        """What a coded picture comes to."""
        if is_b:
            return B_PICTURE if self.count > 1 else NOTHING
        self.count += 1
        return INTRA_PICTURE if is_intra else FRAME


class Mpeg4Scanner(Scanner):
    """Counts coded pictures (VOPs); those that only say "as before" are none."""

    def __init__(self, header: bytes) -> None:
        super().__init__()
        self._time_bits = 0
        self._is_interlaced = False
        self._is_packed = False
        self._kept: int | None = None  # the type of a picture that waits for the next packet
        self._references = _References()
        self._read_headers(header)

    def scan(self, packet: Packet) -> Held:
        data = bytes(packet)
        is_simple = self._kept is None and len(data) > CODED_BYTES and data[:4] == PICTURE
        if is_simple and self._time_bits and not has_start_code(data, 4):
            kind = data[4] >> 6  # the usual case at the price of one look: a packet with one picture
            held = self._references.held(kind == INTRA, kind == B)
        else:
            held = self._decoded(data)
        if held.leads:
            self.may_reorder = True
            if self._is_interlaced:  # FFmpeg scales vectors by the time of the first B-picture that it met
                self.must_begin_at_start = True
        return held

    def _decoded(self, data: bytes) -> Held:
        """What FFmpeg decodes when it gets a packet."""
        pictures = self._read_headers(data)
        if self._kept is not None and (self._is_packed or len(data) <= STAND_IN_BYTES):
            # FFmpeg decodes the kept picture in place of this packet, of which it keeps the first one in turn.
            decoded, self._kept = self._kept, None
            self._keep(pictures[:1], len(data))
            return self._references.held(decoded == INTRA, decoded == B)
        self._kept = None
        if not pictures or not pictures[0][1]:
            return NOTHING
        self._keep(pictures[1:2], len(data))
        return self._references.held(pictures[0][0] == INTRA, pictures[0][0] == B)

    def _keep(self, pictures: list[tuple[int, bool]], num_bytes: int) -> None:
        if not pictures:
            return
        self.must_begin_at_start = True
        if self._is_packed and num_bytes > 7 and pictures[0][0] in (INTRA, B):
            self._kept = pictures[0][0]

    def _read_headers(self, data: bytes) -> list[tuple[int, bool]]:
        """Type of every picture, and whether it is coded."""
        pictures: list[tuple[int, bool]] = []
        for at in start_codes(data):
            code = data[at]
            if code == 0xB6:
                pictures.append(self._picture(data[at + 1 : at + 16]))
            elif code == 0xB2:
                self._is_packed = self._is_packed or _says_packed(data[at + 1 : at + 64])
            elif 0x20 <= code <= 0x2F:
                self._read_layer(data[at + 1 : at + 64])
        return pictures

    def _picture(self, data: bytes) -> tuple[int, bool]:
        bits = BitReader(data)
        kind = bits.bits(2)
        seconds = 0
        while bits.flag():
            seconds += 1
            if seconds > 64:
                break
        if not self._time_bits:
            self.is_exact = False
            return kind, True
        bits.bits(self._time_bits + 2)  # between two marker bits
        return kind, bits.flag()

    def _read_layer(self, data: bytes) -> None:
        """Of a video object layer, the width of the times in its pictures, and whether these are interlaced (14496-2, 6.2.3)."""
        bits = BitReader(data)
        bits.bits(9)
        version = 1
        if bits.flag():
            version = bits.bits(4)
            bits.bits(3)
        if bits.bits(4) == 15:
            bits.bits(16)
        if bits.flag():
            bits.bits(3)
            if bits.flag():
                bits.bits(79)
        shape = bits.bits(2)
        if shape == 3 and version != 1:
            bits.bits(4)
        bits.flag()
        self._time_bits = max(1, (bits.bits(16) - 1).bit_length())
        bits.flag()
        if bits.flag():  # a fixed rate
            bits.bits(self._time_bits)
        if shape == 0:
            bits.bits(29)  # width and height between markers
            self._is_interlaced = bits.flag()


def _says_packed(text: bytes) -> bool:
    """Whether user data is that of an encoder that packs: "DivX503b1393p"."""
    name = text.split(b"\0")[0]
    return name.startswith(b"DivX") and name.rstrip().endswith(b"p")


class Mpeg2Scanner(Scanner):
    """MPEG-1 and MPEG-2. Two fields are one frame."""

    def __init__(self) -> None:
        super().__init__()
        self._references = _References()
        self._is_closed = False
        self._first_field = 0

    def scan(self, packet: Packet) -> Held:
        data = bytes(packet)
        kinds: list[int] = []
        begins_closed = False
        structure = 3
        for at in start_codes(data):
            code = data[at]
            if code == 0x00 and at + 2 < len(data):
                kinds.append(data[at + 2] >> 3 & 7)
            elif code == 0xB8 and at + 4 < len(data):
                begins_closed = bool(data[at + 4] & 0x40)
                self._is_closed = begins_closed
            elif code == 0xB5 and at + 3 < len(data) and data[at + 1] >> 4 == 8:
                structure = data[at + 3] & 3
                if structure != 3 and not self._add_field(structure):
                    kinds.pop()
        if not kinds:
            return NOTHING
        if len(kinds) > 1:
            self.is_exact = False
        is_intra, is_b = kinds[0] == 1, kinds[0] == 3
        if is_b and self._is_closed and self._references.count == 1:
            self.may_reorder = True
            return B_PICTURE  # built on the picture behind it alone
        held = self._references.held(is_intra, is_b)
        self.may_reorder = self.may_reorder or held.leads
        return START if held is INTRA_PICTURE and begins_closed else held

    def _add_field(self, structure: int) -> bool:
        """Whether a frame begins with this field."""
        if self._first_field == 3 - structure:
            self._first_field = 0
            return False
        if self._first_field:
            self.is_exact = False
        self._first_field = structure
        return True
