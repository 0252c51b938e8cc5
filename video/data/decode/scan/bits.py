"""Reading bits, start codes and units: what the scanners of packets share. No picture is decoded."""

from __future__ import annotations

import re
from collections.abc import Iterator

Bytes = bytes | memoryview  # part of a packet
ORIENTATION = 47  # payload type of the message that says how pictures are to be turned


class BitReader:
    """Reads numbers from the highest bit of the first byte on. Beyond the end there are zeros."""

    def __init__(self, data: Bytes) -> None:
        self._value = int.from_bytes(data, "big")
        self.left = 8 * len(data)
        """Number of bits that were not read; negative beyond the end."""

    def bits(self, count: int) -> int:
        """Read the next `count` bits as a number."""
        self.left -= count
        value = self._value >> self.left if self.left >= 0 else self._value << -self.left
        return value & ((1 << count) - 1)

    def flag(self) -> bool:
        """Read the next bit."""
        return bool(self.bits(1))

    def unsigned(self) -> int:
        """Read the next Exp-Golomb number, ue(v) of H.264 and HEVC."""
        left = max(self.left, 0)
        zeros = min(left - (self._value & (1 << left) - 1).bit_length(), 32)
        self.left -= zeros + (zeros < min(left, 32))  # and the one behind them
        return (1 << zeros) - 1 + self.bits(zeros)

    def signed(self) -> int:
        """Read the next signed Exp-Golomb number, se(v)."""
        code = self.unsigned()
        return (code + 1) // 2 if code % 2 else -(code // 2)

    def skip(self, pattern: str) -> None:
        """Read fields and forget them: a letter for each, f a flag, u an unsigned and s a signed Exp-Golomb number."""
        for letter in pattern:
            {"f": self.flag, "u": self.unsigned, "s": self.signed}[letter]()


def unescaped(unit: Bytes) -> bytes:
    """Return a unit of H.264 or HEVC without its emulation prevention bytes."""
    return bytes(unit).replace(b"\0\0\3", b"\0\0")


START_CODE = re.compile(re.escape(b"\0\0\1"))  # twice as fast as `bytes.find` over the pictures between


def start_codes(packet: bytes) -> Iterator[int]:
    """Yield the places behind each 00 00 01: of the byte that says what follows."""
    for found in START_CODE.finditer(packet):
        if found.end() < len(packet):
            yield found.end()


def messages(unit: Bytes) -> Iterator[tuple[int, bytes]]:
    """Yield payload types and payloads in a unit of supplemental information (SEI), its header left out."""
    payload = unescaped(unit)
    at = 0
    while at + 1 < len(payload):  # the last byte is the stop bit
        sums = []
        for _ in range(2):  # type, then size: bytes of 255 and one smaller one, added
            total = 0
            while at < len(payload) and payload[at] == 255:
                total, at = total + 255, at + 1
            sums.append(total + (payload[at] if at < len(payload) else 0))
            at += 1
        yield sums[0], payload[at : at + sums[1]]
        at += sums[1]


def asks_for_turn(unit: Bytes) -> bool:
    """Tell whether a unit of supplemental information, its header left out, says how pictures are to be turned."""
    return any(kind == ORIENTATION for kind, _ in messages(unit))


def unit_places(data: Bytes, length_bytes: int) -> Iterator[tuple[int, int]]:
    """Yield where units of a packet of H.264 or HEVC begin and end: behind lengths of so many bytes or, if 0, start codes."""
    if not length_bytes:
        begins = list(start_codes(bytes(data)))
        ends = [*(begin - 3 for begin in begins[1:]), len(data)]
        yield from ((begin, end) for begin, end in zip(begins, ends) if end > begin)
        return
    at, end = 0, len(data)
    while at + length_bytes < end:
        start = at + length_bytes
        at = start + int.from_bytes(data[at:start], "big")
        if at > start:
            yield start, min(at, end)


def units_of(data: bytes, length_bytes: int) -> Iterator[bytes]:
    """Yield the units of a packet, see `unit_places`."""
    return (data[begin:end] for begin, end in unit_places(data, length_bytes))


def counted_units(record: bytes, at: int, count: int) -> tuple[list[bytes], int]:
    """Return `count` units of a configuration record, each behind its length of two bytes, and the place behind them."""
    units = []
    for _ in range(count):
        end = at + 2 + int.from_bytes(record[at : at + 2], "big")
        if end <= len(record):
            units.append(record[at + 2 : end])
        at = end
    return units, at


class PictureOrder:
    """Picture order counts of H.264 and HEVC, of which packets hold the lowest bits alone (H.264, 8.2.1.1; HEVC, 8.3.1)."""

    def __init__(self) -> None:
        self._high = self._low = self._sequence = 0

    def key(self, low: int, bits: int, begins: bool, is_base: bool) -> int:
        """Return a number that rises in the order in which pictures are shown.

        low: the lowest `bits` bits.  begins: whether a new sequence begins, all of which is shown after all before.
        is_base: whether the next picture counts from this one.
        """
        size, high = 1 << bits, self._high
        if begins:
            self._sequence += 1
            high = 0
        elif self._low - low >= size // 2:
            high += size
        elif low - self._low > size // 2:
            high -= size
        if is_base:
            self._high, self._low = high, low
        return (self._sequence << 40) + (1 << 39) + high + low
