"""H.264 in fields, as camcorders write it: no encoder here does, so units are written bit by bit (H.264, 7.3.2.1.1 and 7.3.3)."""

from __future__ import annotations

import av
import pytest

from revit.video.data.decode.scan.h264 import H264Scanner, read_parameters
from revit.video.data.decode.scan.packets import Entry


def golomb(number: int) -> str:
    """Exp-Golomb bits, ue(v)."""
    bits = f"{number + 1:b}"
    return "0" * (len(bits) - 1) + bits


def packed_bits(bits: str) -> bytes:
    """Bits as bytes, with the stop bit."""
    bits += "1"
    bits += "0" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8, "big")


def parameters() -> bytes:
    """Main profile, frame numbers of 4 bits, order counts of 6 bits, 16x2 macroblocks, pictures that may be fields."""
    numbers = "".join(
        map(golomb, (0, 0, 0, 2, 2))
    )  # its number, frame bits - 4, order type, order bits - 4, references
    size = golomb(15) + golomb(0)
    return bytes([0x67, 77, 0, 30]) + packed_bits(numbers + "0" + size + "0" + "0" + "0" + "0" + "0")


def field(frame_num: int, order: int, bottom: bool | None, is_idr: bool = False, is_reference: bool = True) -> bytes:
    """The first slice of a field (top or bottom) or, with None, of a frame."""
    kind = 5 if is_idr else 1
    structure = "0" if bottom is None else f"1{int(bottom)}"
    bits = golomb(0) + golomb(7 if is_idr else 5) + golomb(0) + f"{frame_num:04b}" + structure
    bits += (golomb(0) if is_idr else "") + f"{order:06b}"
    return bytes([(0x60 if is_reference else 0) | kind]) + packed_bits(bits + "01" * 40)


def packet(*units: bytes) -> av.Packet:
    return av.Packet(b"".join(b"\0\0\0\1" + unit for unit in units))


def test_what_is_written_here_is_what_it_says():
    found = read_parameters(parameters())
    assert (found.frame_num_bits, found.order_type, found.order_bits) == (4, 0, 6)
    assert not found.frames_only


@pytest.mark.parametrize("together", [False, True])
def test_two_fields_are_one_frame_in_one_packet_or_in_two(together):
    scanner = H264Scanner(b"")
    frames = [
        (field(0, 0, False, is_idr=True), field(0, 1, True)),
        (field(1, 8, False), field(1, 9, True)),
        (field(2, 4, False, is_reference=False), field(2, 5, True, is_reference=False)),
        (field(2, 12, True), field(2, 13, False)),  # the bottom one first
    ]
    held = []
    for number, (one, other) in enumerate(frames):
        header = (parameters(),) if number == 0 else ()
        packets = [packet(*header, one, other)] if together else [packet(*header, one), packet(other)]
        held += [scanner.scan(one) for one in packets]
    assert [one.frames for one in held] == ([1] * 4 if together else [1, 0] * 4)
    assert [bool(one.entry) for one in held] == [True] + [False] * (len(held) - 1)
    assert held[0].entry is Entry.CLOSED
    assert scanner.is_exact
    order = sorted(range(4), key=lambda number: scanner.keys[number])
    assert order == [0, 2, 1, 3]  # shown by their order counts


@pytest.mark.parametrize(
    "units",
    [
        [field(0, 0, False, is_idr=True), field(1, 4, False)],  # a field without its other one
        [field(0, 0, None, is_idr=True), field(2, 8, None)],  # a frame is missing
    ],
)
def test_what_is_missing_makes_the_count_uncertain(units):
    scanner = H264Scanner(b"")
    scanner.scan(packet(parameters(), units[0]))
    assert scanner.is_exact
    scanner.scan(packet(units[1]))
    assert not scanner.is_exact
