"""Contents of packets of MPEG-1, MPEG-2 and MPEG-4: the types of their pictures, and packed bitstreams.

Sources: ISO/IEC 11172-2 and 13818-2 (6.2.2.3, 6.2.2.6, 6.2.3, 6.2.3.1), 14496-2 (6.2.3, 6.2.5). Packed bitstreams are in no
standard: DivX and XviD put a B-picture behind the reference picture that is decoded before it into one packet, and a stand-in
where the B-picture's own packet would be, because Video for Windows gives one picture back for every packet. FFmpeg decodes one
picture a packet, too, and keeps the second one for the next call; what that makes of irregular files is repeated here.
"""

from __future__ import annotations

from typing import NamedTuple

from av.packet import Packet

from revit.video.data.decode.scan.bits import START_CODE, BitReader, start_codes
from revit.video.data.decode.scan.packets import FRAME, INTRA, NOTHING, Held, Scanner

INTRA_TYPE, B_TYPE = 0, 2
"""MPEG-4's picture types; 1 is P, 3 a sprite, which is as good as P."""
STAND_IN_BYTES = 19
"""Packets up to this size never hold a coded picture beside one that was kept from the packet before (FFmpeg)."""
PICTURE = b"\0\0\1\xb6"
VOP_BYTES = 12  # of a picture, in which the fields lie that are read
MOST_B = 1 << 20  # B-pictures between two others are fewer


class MpegScanner(Scanner):
    """Numbers pictures in the order in which they are shown: a B-picture at once, others when the next one of them comes."""

    def __init__(self) -> None:
        super().__init__()
        self._references = self._behind = 0

    def _shown(self, is_intra: bool, is_b: bool, alone: bool = False) -> Held:
        """Number a coded picture. alone: whether a B-picture behind the first picture is built on that one alone."""
        if not is_b:
            self._references, self._behind = self._references + 1, 0
            self.keys.append(self._references * MOST_B)
            if is_intra:
                self.headers.note_entry()
            return INTRA if is_intra else FRAME
        if self._references < (1 if alone else 2):  # nothing that it could be built on: it is not decoded
            return NOTHING
        self._behind += 1
        self.keys.append((self._references - 1) * MOST_B + self._behind)
        return FRAME


class _Vop(NamedTuple):
    """A picture of MPEG-4."""

    kind: int
    is_coded: bool
    seconds: int
    """Since the second of the reference picture before, or in a B-picture of the one before that."""
    ticks: int
    """Within the second."""


class Mpeg4Scanner(MpegScanner):
    """Counts coded pictures (VOPs); those that only say "as before" are none."""

    def __init__(self, header: bytes) -> None:
        super().__init__()
        self._time_bits = self._ticks_per_second = 0
        self._tells_delay = self._is_interlaced = self._is_packed = False
        self._kept: _Vop | None = None  # a picture that waits for the next packet
        self._second = self._second_before = 0  # of the last two reference pictures
        self._times = (0, 0)  # theirs, in ticks
        self._read_headers(header)

    def scan(self, packet: Packet) -> Held:
        data = bytes(packet)
        pictures = self._plain_pictures(data)
        if pictures is None:
            pictures = self._read_headers(data)
        else:
            self.headers.begin_packet()
        if self._kept is not None and (self._is_packed or len(data) <= STAND_IN_BYTES):
            # FFmpeg decodes the kept picture in place of this packet, of which it keeps the first one in turn.
            kept, self._kept = self._kept, None
            self._keep(pictures[:1], len(data))
            return self._decoded(kept)
        self._kept = None
        if not pictures or not pictures[0].is_coded:
            return NOTHING
        self._keep(pictures[1:2], len(data))
        return self._decoded(pictures[0])

    def _decoded(self, vop: _Vop) -> Held:
        if vop.kind != B_TYPE:
            self._second_before, self._second = self._second, self._second + vop.seconds
            self._times = (self._times[1], self._second * self._ticks_per_second + vop.ticks)
        else:
            time = (self._second_before + vop.seconds) * self._ticks_per_second + vop.ticks
            is_between = self._times[0] < time < self._times[1] or self._references < 2
            # FFmpeg leaves out what is not between its two references, as where one is lost; it goes by other times between
            # fields; and it takes streams for ones without B-pictures, until there is one, unless they say that they have some.
            if not is_between or self._is_interlaced or not self._tells_delay:
                self.is_exact = False
        return self._shown(vop.kind == INTRA_TYPE, vop.kind == B_TYPE)

    def _keep(self, pictures: list[_Vop], num_bytes: int) -> None:
        if not pictures:
            return
        self.must_begin_at_start = True
        if self._is_packed and num_bytes > 7 and pictures[0].kind in (INTRA_TYPE, B_TYPE):
            self._kept = pictures[0]

    def _plain_pictures(self, data: bytes) -> list[_Vop] | None:
        """Read the pictures of a packet that holds one or two and nothing else, or a stand-in, by one look; None for others."""
        if data[:4] != PICTURE or not self._time_bits:
            return [] if len(data) < 4 else None
        # What is behind the first picture, FFmpeg leaves alone unless the stream calls itself packed.
        second = START_CODE.search(data, 4) if self._is_packed else None
        if second is None:
            return [self._picture(data[4 : 4 + VOP_BYTES])]
        at = second.end()
        if data[at - 3 : at + 1] != PICTURE or START_CODE.search(data, at):
            return None
        return [self._picture(data[4 : 4 + VOP_BYTES]), self._picture(data[at + 1 : at + 1 + VOP_BYTES])]

    def _read_headers(self, data: bytes) -> list[_Vop]:
        """Read the headers and pictures of a packet."""
        pictures: list[_Vop] = []
        self.headers.begin_packet()
        places = list(start_codes(data))
        for at, following in zip(places, [*places[1:], len(data) + 3]):
            code = data[at]
            if code == 0xB6:
                self.is_exact = self.is_exact and self._time_bits > 0
                pictures.append(self._picture(data[at + 1 : at + 1 + VOP_BYTES]))
            elif code == 0xB3:  # a group: the time of day
                bits = BitReader(data[at + 1 : at + 4])
                hours, minutes = bits.bits(5), bits.bits(6)
                bits.flag()
                self._second = (hours * 60 + minutes) * 60 + bits.bits(6)
            elif code == 0xB2:
                text = data[at + 1 : min(following - 3, at + 64)].rstrip(b"\0")
                # The name of an encoder, for whose faults FFmpeg makes up from there on, whatever other names follow.
                self.headers.note((code, text[:4]), text)
                self._is_packed = self._is_packed or _says_packed(text)
            elif 0x20 <= code <= 0x2F:
                layer = data[at + 1 : following - 3].rstrip(b"\0")
                if self.headers.note(code, layer):
                    self._read_layer(layer)
        return pictures

    def _picture(self, data: bytes) -> _Vop:
        """Read the first bytes of a picture, at most `VOP_BYTES` (14496-2, 6.2.5)."""
        value = int.from_bytes(data.ljust(VOP_BYTES, b"\0"), "big")
        left, seconds = 8 * VOP_BYTES - 3, 0
        while value >> left & 1 and seconds < 60:
            seconds, left = seconds + 1, left - 1
        left -= 1 + self._time_bits  # behind a marker bit
        ticks = value >> left & (1 << self._time_bits) - 1
        return _Vop(value >> 8 * VOP_BYTES - 2, bool(value >> left - 2 & 1), seconds, ticks)

    def _read_layer(self, data: bytes) -> None:
        """Read the width of times, the presence of B-pictures and interlacing off a video object layer (14496-2, 6.2.3)."""
        bits = BitReader(data)
        bits.bits(9)
        version = 1
        if bits.flag():
            version = bits.bits(4)
            bits.bits(3)
        if bits.bits(4) == 15:
            bits.bits(16)
        self._tells_delay = bits.flag()
        if self._tells_delay:
            bits.bits(2)
            self._tells_delay = not bits.flag()
            if bits.flag():
                bits.bits(79)
        shape = bits.bits(2)
        if shape == 3 and version != 1:
            bits.bits(4)
        bits.flag()
        self._ticks_per_second = bits.bits(16)
        self._time_bits = max(1, (self._ticks_per_second - 1).bit_length())
        bits.flag()
        if bits.flag():  # a fixed rate
            bits.bits(self._time_bits)
        if shape == 0:
            bits.bits(29)  # width and height between markers
            self._is_interlaced = bits.flag()


def _says_packed(text: bytes) -> bool:
    """Tell whether user data is that of an encoder that packs: "DivX503b1393p"."""
    name = text.split(b"\0")[0]
    return name.startswith(b"DivX") and name.rstrip().endswith(b"p")


class Mpeg2Scanner(MpegScanner):
    """MPEG-1 and MPEG-2. Two fields are one frame."""

    def __init__(self) -> None:
        super().__init__()
        self._is_closed = self._has_ended = self._has_no_delay = False
        self._first_field = 0

    def scan(self, packet: Packet) -> Held:
        data = bytes(packet)
        kinds: list[int] = []
        self.headers.begin_packet()
        places = list(start_codes(data))
        for at, following in zip(places, [*places[1:], len(data) + 3]):
            code, header = data[at], data[at + 1 : min(following - 3, at + 160)]
            if code == 0x00 and len(header) > 1:
                kinds.append(header[1] >> 3 & 7)
            elif code == 0xB3:
                self.headers.note(code, header.rstrip(b"\0"))
            elif code == 0xB7:
                self._has_ended = not kinds
            elif code == 0xB8 and len(header) > 3:
                self._is_closed = bool(header[3] & 0x40)
            elif code == 0xB5 and len(header) > 2 and header[0] >> 4 == 1:
                self._has_no_delay = len(header) > 5 and bool(header[5] & 0x80)
            elif code == 0xB5 and header[:1] and header[0] >> 4 == 3:  # matrices, until they change again
                self.must_begin_at_start = True
            elif code == 0xB5 and len(header) > 2 and header[0] >> 4 == 8:
                structure = header[2] & 3
                if structure != 3 and kinds and not self._begin_field(structure):
                    kinds.pop()
        if not kinds:
            return NOTHING
        if len(kinds) > 1 or self._has_ended:  # the end of a sequence, not in the packet of its last picture
            self.is_exact = False
        is_b = kinds[0] == 3
        if self._has_no_delay and is_b:
            self.is_exact = False
        return self._shown(kinds[0] == 1, is_b, alone=self._is_closed)

    def _begin_field(self, structure: int) -> bool:
        """Tell whether a frame begins with this field."""
        if self._first_field == 3 - structure:
            self._first_field = 0
            return False
        if self._first_field:
            self.is_exact = False
        self._first_field = structure
        return True
