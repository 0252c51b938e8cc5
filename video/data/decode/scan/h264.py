"""Contents of packets of H.264, from the headers of their units.

Sources: ITU-T H.264 (7.3.1, 7.3.2.1, 7.3.3, 7.4.1.2.4, 7.4.3, 8.2.1, D.1.8, D.1.27, E.1.1); ISO/IEC 14496-15 for their place in
MP4 and Matroska.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from av.packet import Packet

from revit.video.data.decode.scan.bits import (
    BitReader,
    Bytes,
    PictureOrder,
    asks_for_turn,
    counted_units,
    messages,
    unescaped,
    unit_places,
    units_of,
)
from revit.video.data.decode.scan.packets import NOTHING, Entry, Held, Scanner

RECOVERY_POINT = 6
"""Payload type of the message that says from where on pictures are right, though they are no IDR."""
HEAD_BYTES = 24  # bytes of a slice in which the fields lie that are read

SCALED_PROFILES = (100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135)
"""Profiles whose parameters name a chroma format and may hold scaling lists."""

H264_FRAME = Held(layer=0)
H264_OPEN = Held(entry=Entry.LEADING, layer=0)
H264_CLOSED = Held(entry=Entry.CLOSED, layer=0)
H264_FIELDS = Held(entry=Entry.CLOSED)


def length_size(header: bytes) -> int:
    """Return the bytes of lengths in front of units; 0 where units begin with start codes instead."""
    return (header[4] & 3) + 1 if len(header) > 6 and header[0] == 1 else 0


@dataclass(frozen=True)
class Parameters:
    """Part of a sequence parameter set that is needed to read a slice's header."""

    frame_num_bits: int
    order_type: int
    order_bits: int
    """Bits of the picture order count in slices, if its type is 0."""
    has_gaps: bool
    """True if frame numbers may be left out."""
    has_planes: bool
    """True if slices name their colour plane."""
    frames_only: bool
    """True if no picture is a field."""
    num_reorder: int | None
    """Frames to be held back to put pictures in order, if that is said."""


def read_parameters(unit: Bytes) -> Parameters:
    """Read a sequence parameter set (7.3.2.1.1)."""
    data = unescaped(unit)
    bits, profile, has_planes = BitReader(data[4:]), data[1], False
    bits.unsigned()  # its number
    if profile in SCALED_PROFILES:
        chroma = bits.unsigned()
        has_planes = chroma == 3 and bits.flag()
        bits.skip("uuf")  # depths, bypass
        if bits.flag():
            for number in range(8 if chroma != 3 else 12):
                if bits.flag():
                    _skip_scaling_list(bits, 16 if number < 6 else 64)
    frame_num_bits, order_type, order_bits = bits.unsigned() + 4, bits.unsigned(), 0
    if order_type == 0:
        order_bits = bits.unsigned() + 4
    elif order_type == 1:
        bits.skip("fss")
        bits.skip("s" * min(bits.unsigned(), 255))
    bits.unsigned()  # reference frames
    has_gaps = bits.flag()
    bits.skip("uu")  # width, height
    frames_only = bits.flag()
    bits.skip("f" if frames_only else "ff")
    if bits.flag():  # cropping
        bits.skip("uuuu")
    num_reorder = _read_num_reorder(bits) if bits.flag() else None
    return Parameters(frame_num_bits, order_type, order_bits, has_gaps, has_planes, frames_only, num_reorder)


def _skip_scaling_list(bits: BitReader, size: int) -> None:
    last = following = 8
    for _ in range(size):
        if following:
            following = (last + bits.signed()) % 256
        last = following or last


def _read_num_reorder(bits: BitReader) -> int | None:
    """Read max_num_reorder_frames of the usability information (E.1.1); None if it is not there."""
    if bits.flag() and bits.bits(8) == 255:  # aspect ratio
        bits.bits(32)
    if bits.flag():  # overscan
        bits.flag()
    if bits.flag():  # video signal
        bits.bits(4)
        if bits.flag():
            bits.bits(24)
    if bits.flag():  # place of chroma
        bits.skip("uu")
    if bits.flag():  # timing
        bits.bits(65)
    has_buffers = False
    for _ in range(2):
        if bits.flag():
            has_buffers = True
            count = min(bits.unsigned(), 31)
            bits.bits(8)
            bits.skip("uuf" * (count + 1))
            bits.bits(20)
    bits.skip("ff" if has_buffers else "f")
    if not bits.flag():
        return None
    bits.skip("fuuuu")
    return bits.unsigned()


class H264Scanner(Scanner):
    """Frames, not fields: the second field of a frame, in the same packet or the next one, adds none."""

    def __init__(self, header: bytes) -> None:
        super().__init__()
        self._length_bytes = length_size(header)
        self._parameters: Parameters | None = None
        self._order = PictureOrder()
        self._next_frame_num: int | None = None
        self._open_field: tuple[int, int] | None = None  # frame number and parity of a first field
        for unit in _record_units(header) if self._length_bytes else units_of(header, 0):
            self._note_parameters(unit)

    def scan(self, packet: Packet) -> Held:
        frames, is_idr, recovers, all_intra, is_field = 0, False, False, True, False
        self.headers.begin_packet()
        data: Bytes = memoryview(packet) if self._length_bytes else bytes(packet)
        for at, end in unit_places(data, self._length_bytes):
            kind = data[at] & 31
            if kind in (1, 2, 5):
                bits = BitReader(unescaped(data[at + 1 : at + HEAD_BYTES]))
                begins = bits.unsigned() == 0
                is_intra = bits.unsigned() % 5 in (2, 4)
                all_intra = all_intra and is_intra
                is_idr = is_idr or kind == 5
                if begins:
                    new, field = self._begin(bits, kind == 5, bool(data[at] & 0x60))
                    frames, is_field = frames + new, is_field or field
                elif frames == 0 and self._open_field is None and not is_field:
                    self.is_exact = False  # a picture without its beginning
            elif kind == 6:
                recovers = recovers or any(
                    type_ == RECOVERY_POINT and _is_exact_at_once(payload)
                    for type_, payload in messages(data[at + 1 : end])
                )
            else:
                self._note_parameters(data[at:end])
        if frames > 1:
            self.is_exact = False
        if is_field:  # others may be built on one field alone, but they are decoded in pairs
            held = H264_FIELDS if is_idr and frames == 1 else Held(frames)
        elif frames == 0:
            held = NOTHING
        elif is_idr:
            held = H264_CLOSED
        else:
            held = H264_OPEN if recovers and all_intra else H264_FRAME
        if held.entry:
            self.headers.note_entry()
        return held

    def _number(self, parameters: Parameters, frame_num: int, low: int, is_idr: bool, is_reference: bool) -> None:
        """Note the numbers of a frame, of which one too many or too few means that others are missing."""
        if frame_num != self._next_frame_num and not is_idr and not parameters.has_gaps:
            self.is_exact = False
        if is_reference:
            self._next_frame_num = (frame_num + 1) % (1 << parameters.frame_num_bits)
        if parameters.order_type == 0:
            self.keys.append(self._order.key(low, parameters.order_bits, is_idr, is_reference))
        elif parameters.order_type == 2:  # shown as decoded
            self.keys.append(self.keys[-1] + 1 if self.keys else 0)
        else:
            self.keys.append(0)
            self.is_exact = False

    def _begin(self, bits: BitReader, is_idr: bool, is_reference: bool) -> tuple[int, bool]:
        """Begin a picture; return how many frames that makes (0: the second field of one), and whether it is a field."""
        parameters = self._parameters
        if parameters is None:
            self.is_exact = False
            self.keys.append(0)
            return 1, False
        bits.unsigned()
        if parameters.has_planes:
            bits.bits(2)
        frame_num = bits.bits(parameters.frame_num_bits)
        is_field = not parameters.frames_only and bits.flag()
        parity = bits.bits(1) if is_field else 0
        if is_idr:
            bits.unsigned()
        if is_field and self._open_field == (frame_num, 1 - parity):
            self._open_field = None
            return 0, True
        if self._open_field is not None:
            self.is_exact = False  # a field without its other one
        self._open_field = (frame_num, parity) if is_field else None
        low = bits.bits(parameters.order_bits) if parameters.order_bits else 0
        self._number(parameters, frame_num, low, is_idr, is_reference)
        return 1, is_field

    def _note_parameters(self, unit: Bytes) -> None:
        kind, data = unit[0] & 31, bytes(unit).rstrip(b"\0")
        if kind not in (7, 8) or len(data) < 3:
            return
        number = BitReader(unescaped(data[4:10] if kind == 7 else data[1:7])).unsigned()
        if self.headers.note((kind, number), data) and kind == 7 and len(data) > 4:
            found = read_parameters(data)
            if self._parameters is not None and found != self._parameters:
                self.is_exact = False  # which of two is used is said elsewhere
            self._parameters = found
            self.most_reordered = self._parameters.num_reorder
            self.learns_reordering = self.most_reordered is None


def _is_exact_at_once(recovery_point: bytes) -> bool:
    """Tell whether pictures are right, and not only nearly, from the one on that the message belongs to (D.2.8)."""
    bits = BitReader(recovery_point)
    return bits.unsigned() == 0 and bits.flag()


def _record_units(header: bytes) -> Iterator[bytes]:
    """Yield the parameter sets in the configuration record: of sequences, then of pictures."""
    at = 5
    for mask in (31, 255):
        if at < len(header):
            units, at = counted_units(header, at + 1, header[at] & mask)
            yield from filter(None, units)


def may_be_turned(header: bytes, packet: bytes) -> bool:
    """Tell whether a message in the first packet may ask for pictures to be turned. True if the layout is not that of MP4."""
    size = length_size(header)
    return not size or any(unit[0] & 31 == 6 and asks_for_turn(unit[1:]) for unit in units_of(packet, size))
