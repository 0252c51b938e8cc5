"""Contents of packets of HEVC, from the headers of their units.

Sources: ITU-T H.265 (7.3.1.2, 7.3.2.2, 7.3.2.3, 7.3.3, 7.3.6.1, 7.4.2.2, 8.3.1, C.5.2, D.2.17); ISO/IEC 14496-15 for their place in
MP4 and Matroska.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from av.packet import Packet

from revit.video.data.decode.scan.bits import (
    BitReader,
    Bytes,
    PictureOrder,
    asks_for_turn,
    counted_units,
    unescaped,
    unit_places,
    units_of,
)
from revit.video.data.decode.scan.h264 import HEAD_BYTES
from revit.video.data.decode.scan.packets import NOTHING, Entry, Held, Scanner

SLICES = 32  # types of units below this are parts of pictures
RASL = (8, 9)  # types of pictures that lead a random access point and are built on what lies before
RADL = (6, 7)  # types of pictures that lead one and are not
ENTRIES = range(16, 22)  # types of random access points: BLA, IDR, and CRA (the last one)
IDR = (19, 20)
CRA = 21


def length_size(header: bytes) -> int:
    """Return the bytes of lengths in front of units; 0 where units begin with start codes instead."""
    is_record = len(header) > 22 and (header[0] or header[1] or header[2] > 1)  # as FFmpeg tells them
    return (header[21] & 3) + 1 if is_record else 0


@dataclass(frozen=True)
class Parameters:
    """Part of a sequence parameter set that is needed to read a slice's header."""

    order_bits: int
    """Lowest bits of the picture order count that slices hold."""
    has_planes: bool
    """True if slices name their colour plane."""
    num_reorder: int
    """Frames to be held back to put pictures in order, with all sub-layers."""


def read_parameters(unit: Bytes) -> Parameters:
    """Read a sequence parameter set (7.3.2.2)."""
    bits = BitReader(unescaped(unit[2:]))
    bits.bits(4)
    num_layers = bits.bits(3)
    bits.bits(1 + 96)  # nesting; profile, tier and level
    if num_layers:
        present = [(bits.flag(), bits.flag()) for _ in range(8)][:num_layers]
        for has_profile, has_level in present:
            bits.bits(88 * has_profile + 8 * has_level)
    bits.unsigned()
    has_planes = bits.unsigned() == 3 and bits.flag()
    bits.skip("uu")  # width, height
    if bits.flag():
        bits.skip("uuuu")
    bits.skip("uu")  # depths
    order_bits, num_reorder = bits.unsigned() + 4, 0
    for _ in range(num_layers + 1 if bits.flag() else 1):
        bits.unsigned()
        num_reorder = bits.unsigned()
        bits.unsigned()
    return Parameters(order_bits, has_planes, num_reorder)


class HevcScanner(Scanner):
    """One picture a packet; those that lead a random access point at which the stream begins are not shown."""

    def __init__(self, header: bytes) -> None:
        super().__init__()
        self._length_bytes = length_size(header)
        self._parameters: Parameters | None = None
        self._extra_bits: int | None = None  # of slices, before their type
        self._order = PictureOrder()
        self._drops_leading = True
        self._has_begun = False
        for unit in header_units(header) if self._length_bytes else units_of(header, 0):
            self._note_parameters(unit)

    def scan(self, packet: Packet) -> Held:
        data: Bytes = memoryview(packet) if self._length_bytes else bytes(packet)
        held = NOTHING
        self.headers.begin_packet()
        for begin, end in unit_places(data, self._length_bytes):
            if end - begin < 2:
                continue
            head = data[begin] << 8 | data[begin + 1]
            kind, view = head >> 9 & 63, head >> 3 & 63
            if kind < SLICES and view == 0 and end - begin > 2:
                if data[begin + 2] & 0x80:  # the first part of a picture
                    if held is not NOTHING:
                        self.is_exact = False
                    held = self._picture(kind, (head & 7) - 1, data[begin + 2 : begin + HEAD_BYTES])
            elif kind in (32, 33, 34):
                self._note_parameters(bytes(data[begin:end]))
            elif kind in (36, 37):  # the end of a sequence: what leads the next one lacks what it is built on
                self.is_exact = False
        if held.entry:
            self.headers.note_entry()
        return held

    def _picture(self, kind: int, layer: int, slice_: Bytes) -> Held:
        if kind in ENTRIES:
            if self._has_begun and slice_[0] & 0x40:  # pictures before it may stay unshown
                self.is_exact = False
            # IDR and BLA begin anew; a CRA does so where the stream begins.
            self._drops_leading = kind != CRA or not self._has_begun
            self._has_begun = True
            self._number(kind, layer, slice_, self._drops_leading)
            return Held(entry=Entry.CLOSED if self._drops_leading else Entry.LEADING, layer=layer)
        if kind in RASL and self._drops_leading:
            return NOTHING
        self._number(kind, layer, slice_, begins=False)
        return Held(layer=layer)

    def _number(self, kind: int, layer: int, slice_: Bytes, begins: bool) -> None:
        """Note the picture order count of a picture."""
        parameters, low = self._parameters, 0
        if parameters is None:
            self.is_exact = False
            self.keys.append(0)
            return
        if kind not in IDR:
            bits = BitReader(unescaped(slice_))
            bits.bits(2 if kind in ENTRIES else 1)
            bits.unsigned()
            bits.bits(self._extra_bits or 0)
            bits.unsigned()
            if parameters.has_planes:
                bits.bits(2)
            low = bits.bits(parameters.order_bits)
        is_unused = kind < 16 and kind % 2 == 0
        is_base = layer == 0 and kind not in (*RASL, *RADL) and not is_unused
        self.keys.append(self._order.key(low, parameters.order_bits, begins, is_base))

    def finish(self) -> None:
        super().finish()
        # The references of pictures are not read, but what is lost leaves a gap in the count.
        in_order = sorted(self.keys)
        steps = {after - before for before, after in pairwise(in_order) if before >> 40 == after >> 40}
        if len(steps) > 1:
            self.is_exact = False

    def _note_parameters(self, unit: bytes) -> None:
        kind, data = unit[0] >> 1 & 63, unit.rstrip(b"\0")
        if kind not in (32, 33, 34) or len(data) < 3 or not self.headers.note(kind, data):
            return
        if kind == 33:
            found = read_parameters(data)
            if self._parameters is not None and found != self._parameters:
                self.is_exact = False  # which of two is used is said elsewhere
            self._parameters, self.most_reordered = found, found.num_reorder
        elif kind == 34:
            before, self._extra_bits = self._extra_bits, 0
            bits = BitReader(unescaped(data[2:]))
            bits.skip("uuf")  # its number, its sequence's, dependent slices
            if bits.flag():  # slices may say that their picture is not shown
                self.is_exact = False
            self._extra_bits = bits.bits(3)
            if before is not None and before != self._extra_bits:
                self.is_exact = False


def header_units(record: bytes) -> Iterator[bytes]:
    """Yield the units in the configuration record: arrays, each with a type and a count."""
    at = 23
    for _ in range(record[22]):
        units, at = counted_units(record, at + 3, int.from_bytes(record[at + 1 : at + 3], "big"))
        yield from (unit for unit in units if len(unit) > 2)


def may_be_turned(header: bytes, packet: bytes) -> bool:
    """Tell whether a message in the header or the first packet may ask for pictures to be turned. True if unknown layout."""
    size = length_size(header)
    if not size:
        return True
    units = (*header_units(header), *units_of(packet, size))
    return any(unit[0] >> 1 & 63 in (39, 40) and asks_for_turn(unit[2:]) for unit in units)
