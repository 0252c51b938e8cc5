"""What packets of H.264 and HEVC hold, from the headers of their units.

Sources: ITU-T H.264 (7.3.1, 7.3.2.1, 7.3.3, 7.4.1.2.4, D.1.8, D.1.27) and H.265 (7.3.1.2, 7.3.2.3, 7.4.2.2, D.2.17);
ISO/IEC 14496-15 for their place in MP4 and Matroska.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from av.packet import Packet

from revit.video.data.decode.bits import (
    BitReader,
    Bytes,
    has_start_code,
    messages,
    start_codes,
    unescaped,
    units_of,
)
from revit.video.data.decode.packets import NOTHING, Entry, Held, Scanner

ORIENTATION = 47
"""Payload type of the message that says how pictures are to be turned, in both standards."""
RECOVERY_POINT = 6
"""Payload type of the message that says from where on pictures are right, though they are no IDR."""
HEAD_BYTES = 24
"""Bytes of a unit in which the fields lie that are read from a slice."""

WITHOUT_ORIENTATION = ("mpeg4", "vp8", "vp9", "libvpx-vp9", "libdav1d")
"""Codecs whose streams cannot say it; the container's header still can."""

SCALED_PROFILES = (100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135)
"""H.264 profiles whose parameters name a chroma format and may hold scaling lists."""

B_SLICE = frozenset(
    byte for byte in range(0x80, 0x100) if byte >> 4 & 7 == 0b010 or byte >> 2 & 31 == 0b00111
)
"""First bytes of the first slice of a picture, where that is of type B (Exp-Golomb 1 or 6 behind 0)."""

H264_FRAME = Held(layer=0)
H264_OPEN = Held(entry=Entry.OPEN, layer=0)
H264_CLOSED = Held(entry=Entry.CLOSED, layer=0)


def length_size(codec: str, header: bytes) -> int:
    """Bytes of the lengths in front of units; 0 where units begin with start codes instead."""
    if codec == "h264" and len(header) > 6 and header[0] == 1:
        return (header[4] & 3) + 1
    if codec == "hevc" and len(header) > 22 and header[0] == 1:
        return (header[21] & 3) + 1
    return 0


def unit_places(data: Bytes, length_bytes: int) -> Iterator[tuple[int, int]]:
    """Where the units of a packet begin and end."""
    if not length_bytes:
        begins = list(start_codes(bytes(data)))
        yield from zip(begins, [*(begin - 3 for begin in begins[1:]), len(data)])
        return
    at, end = 0, len(data)
    while at + length_bytes < end:
        start = at + length_bytes
        at = start + int.from_bytes(data[at:start], "big")
        if at > start:
            yield start, min(at, end)


@dataclass(frozen=True)
class H264Parameters:
    """What of a sequence parameter set is needed to read a slice's header."""

    frame_num_bits: int
    has_planes: bool
    """Whether slices name their colour plane."""
    frames_only: bool
    """Whether no picture is a field."""


def h264_parameters(unit: Bytes) -> H264Parameters:
    """Read a sequence parameter set (H.264, 7.3.2.1.1)."""
    data = unescaped(unit)
    bits, profile, has_planes = BitReader(data[4:]), data[1], False
    bits.unsigned()  # its number
    if profile in SCALED_PROFILES:
        chroma = bits.unsigned()
        has_planes = chroma == 3 and bits.flag()
        bits.unsigned(), bits.unsigned(), bits.flag()  # depths, bypass
        if bits.flag():
            for number in range(8 if chroma != 3 else 12):
                if bits.flag():
                    _skip_scaling_list(bits, 16 if number < 6 else 64)
    frame_num_bits = bits.unsigned() + 4
    order = bits.unsigned()
    if order == 0:
        bits.unsigned()
    elif order == 1:
        bits.flag(), bits.signed(), bits.signed()
        for _ in range(min(bits.unsigned(), 255)):
            bits.signed()
    bits.unsigned(), bits.flag(), bits.unsigned(), bits.unsigned()  # references, gaps, width, height
    return H264Parameters(frame_num_bits, has_planes, bits.flag())


def _skip_scaling_list(bits: BitReader, size: int) -> None:
    last = following = 8
    for _ in range(size):
        if following:
            following = (last + bits.signed()) % 256
        last = following or last


class H264Scanner(Scanner):
    """Frames, not fields: the second field of a frame, in the same packet or the next one, adds none."""

    def __init__(self, header: bytes) -> None:
        super().__init__()
        self._length_bytes = length_size("h264", header)
        self._parameters: H264Parameters | None = None
        self._parameters_unit = b""
        self._open_field: tuple[int, int] | None = None  # frame number and parity of a first field
        if self._length_bytes:
            for begin, end in _record_units(header):
                self._read_parameters(header[begin:end])
        else:
            self._look_at(header)

    def scan(self, packet: Packet) -> Held:
        # The usual case at the price of one look: a packet that begins with the first slice of a frame. With lengths in front
        # of units it is one picture by its format; with start codes it is if there is no other unit.
        if self._length_bytes:
            data: Bytes = memoryview(packet)
            at, is_alone = self._length_bytes, True
        else:
            data = bytes(packet)
            at = 4 if data[:4] == b"\0\0\0\1" else 3
            is_alone = data[at - 3 : at] == b"\0\0\1" and not has_start_code(data, at)
        frames_only = self._parameters is not None and self._parameters.frames_only
        if frames_only and is_alone and len(data) > at + 1 and data[at] & 31 == 1 and data[at + 1] & 0x80:
            if data[at + 1] in B_SLICE:
                self.may_reorder = True
            return H264_FRAME
        return self._look_at(data)

    def _look_at(self, data: Bytes) -> Held:
        frames, is_idr, recovers, all_intra, is_field = 0, False, False, True, False
        plain = data if self._length_bytes else bytes(data)
        for at, end in unit_places(plain, self._length_bytes):
            kind = plain[at] & 31
            if kind in (1, 2, 5):
                bits = BitReader(unescaped(plain[at + 1 : at + HEAD_BYTES]))
                begins = bits.unsigned() == 0
                kind_of_slice = bits.unsigned() % 5
                all_intra = all_intra and kind_of_slice in (2, 4)
                self.may_reorder = self.may_reorder or kind_of_slice == 1
                is_idr = is_idr or kind == 5
                if begins:
                    new, field = self._begin(bits)
                    frames, is_field = frames + new, is_field or field
                elif frames == 0 and self._open_field is None and not is_field:
                    self.is_exact = False  # a picture without its beginning
            elif kind == 6:
                recovers = recovers or any(
                    type_ == RECOVERY_POINT and BitReader(payload).unsigned() == 0
                    for type_, payload in messages(plain[at + 1 : end])
                )
            elif kind == 7:
                self._read_parameters(plain[at:end])
        if frames > 1:
            self.is_exact = False
        if is_field:
            # Whether others are built on a field is said of each, but they are decoded in pairs.
            return Held(frames, Entry.CLOSED if is_idr and frames == 1 else Entry.NONE)
        if frames == 0:
            return NOTHING
        if is_idr:
            return H264_CLOSED
        return H264_OPEN if recovers and all_intra else H264_FRAME

    def _begin(self, bits: BitReader) -> tuple[int, bool]:
        """A picture begins: how many frames that makes (0: the second field of one), and whether it is a field."""
        parameters = self._parameters
        if parameters is None:
            self.is_exact = False
            return 1, False
        if parameters.frames_only:
            return 1, False
        bits.unsigned()
        if parameters.has_planes:
            bits.bits(2)
        frame_num = bits.bits(parameters.frame_num_bits)
        if not bits.flag():
            self._open_field = None
            return 1, False
        parity = bits.bits(1)
        if self._open_field == (frame_num, 1 - parity):
            self._open_field = None
            return 0, True
        if self._open_field is not None:
            self.is_exact = False  # a field without its other one
        self._open_field = (frame_num, parity)
        return 1, True

    def _read_parameters(self, unit: Bytes) -> None:
        unit = bytes(unit).rstrip(b"\0")
        if len(unit) < 5 or unit == self._parameters_unit:
            return
        found = h264_parameters(unit)
        if self._parameters is not None and found != self._parameters:
            self.is_exact = False
        self._parameters, self._parameters_unit = found, unit


def _record_units(header: bytes) -> Iterator[tuple[int, int]]:
    """Places of the sequence parameter sets in H.264's configuration record."""
    at = 6
    for _ in range(header[5] & 31):
        length = int.from_bytes(header[at : at + 2], "big")
        yield at + 2, at + 2 + length
        at += 2 + length


class HevcScanner(Scanner):
    """One picture a packet; those that lead a random access point at which the stream begins are not shown."""

    def __init__(self, header: bytes) -> None:
        super().__init__()
        self.may_reorder = True
        self._length_bytes = length_size("hevc", header)
        self._drops_leading = (
            True  # pictures that lead the last random access point (RASL) lack what they are built on
        )
        self._has_begun = False
        if self._length_bytes:
            for unit in header_units(header):
                self._look_at_parameters(unit)
        else:
            for begin, end in unit_places(header, 0):
                self._look_at_parameters(header[begin:end])

    def scan(self, packet: Packet) -> Held:
        data = memoryview(packet)
        plain = data if self._length_bytes else bytes(data)
        frames, unit_type, layer = 0, 0, 0
        for at, end in unit_places(plain, self._length_bytes):
            if at + 2 >= end:
                continue
            head = plain[at] << 8 | plain[at + 1]
            kind, view = head >> 9 & 63, head >> 3 & 63
            if kind < 32 and view == 0:
                if plain[at + 2] & 0x80:  # the first part of a picture
                    frames += 1
                    unit_type, layer = kind, (head & 7) - 1
                if self._length_bytes:
                    break  # one picture a sample, and its parameters come before it
            elif kind == 34:
                self._look_at_parameters(plain[at:end])
            elif kind in (36, 37):  # the end of a sequence: what leads the next one lacks what it is built on
                self.is_exact = False
        if frames > 1:
            self.is_exact = False
        if frames == 0:
            return NOTHING
        if 16 <= unit_type <= 21:
            # IDR and BLA begin anew; a CRA does so where the stream begins.
            self._drops_leading = unit_type <= 20 or not self._has_begun
            self._has_begun = True
            return Held(entry=Entry.CLOSED if self._drops_leading else Entry.LEADING, layer=layer)
        if unit_type in (8, 9):  # RASL: leads the random access point, and is built on what lies before
            return NOTHING if self._drops_leading else Held(leads=True, layer=layer)
        return Held(layer=layer)

    def _look_at_parameters(self, unit: Bytes) -> None:
        """Pictures whose parameters allow not to be shown are not counted here."""
        if unit[0] >> 1 & 63 != 34:
            return
        bits = BitReader(unescaped(unit[2:HEAD_BYTES]))
        bits.unsigned(), bits.unsigned(), bits.flag()  # its number, its sequence's, dependent slices
        if bits.flag():
            self.is_exact = False


def header_units(record: bytes) -> Iterator[bytes]:
    """The units in HEVC's configuration record: arrays, each with a type and a count, of units behind their length."""
    at = 23
    for _ in range(record[22]):
        count = int.from_bytes(record[at + 1 : at + 3], "big")
        at += 3
        for _ in range(count):
            length = int.from_bytes(record[at : at + 2], "big")
            if length:
                yield record[at + 2 : at + 2 + length]
            at += 2 + length


def may_be_turned(codec: str, extradata: bytes | None, packet: bytes) -> bool:
    """Whether the stream itself, in its header or its first packet, may ask for its pictures to be turned. True if unknown."""
    if codec in WITHOUT_ORIENTATION:
        return False
    header = extradata or b""
    size = length_size(codec, header)
    if not size:
        return True
    if codec == "h264":
        return any(unit[0] & 31 == 6 and _asks_for_turn(unit[1:]) for unit in units_of(packet, size))
    units = (*header_units(header), *units_of(packet, size))
    return any(unit[0] >> 1 & 63 in (39, 40) and _asks_for_turn(unit[2:]) for unit in units)


def _asks_for_turn(unit: bytes) -> bool:
    return any(kind == ORIENTATION for kind, _ in messages(unit))
