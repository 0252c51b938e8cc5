"""Reading bits, start codes and units: what the scanners of packets share. No picture is decoded."""

from __future__ import annotations

import re
from collections.abc import Iterator

Bytes = bytes | memoryview
"""Part of a packet."""


class BitReader:
    """Reads numbers from the highest bit of the first byte on. Beyond the end there are zeros."""

    def __init__(self, data: Bytes) -> None:
        self._value = int.from_bytes(data, "big")
        self.left = 8 * len(data)
        """Bits that were not read; negative beyond the end."""

    def bits(self, count: int) -> int:
        """The next `count` bits as a number."""
        self.left -= count
        value = self._value >> self.left if self.left >= 0 else self._value << -self.left
        return value & ((1 << count) - 1)

    def flag(self) -> bool:
        """The next bit."""
        return bool(self.bits(1))

    def unsigned(self) -> int:
        """The next Exp-Golomb number, ue(v) of H.264 and HEVC."""
        zeros = 0
        while zeros < 32 and self.left > 0 and not self.flag():
            zeros += 1
        return (1 << zeros) - 1 + self.bits(zeros)

    def signed(self) -> int:
        """The next signed Exp-Golomb number, se(v)."""
        code = self.unsigned()
        return (code + 1) // 2 if code % 2 else -(code // 2)


def unescaped(unit: Bytes) -> bytes:
    """A unit of H.264 or HEVC without its emulation prevention bytes."""
    return bytes(unit).replace(b"\0\0\3", b"\0\0")


START_CODE = re.compile(re.escape(b"\0\0\1"))
"""Twice as fast as `bytes.find` over the pictures between."""


def start_codes(packet: bytes) -> Iterator[int]:
    """Places behind each 00 00 01: of the byte that says what follows."""
    for found in START_CODE.finditer(packet):
        if found.end() < len(packet):
            yield found.end()


def has_start_code(packet: bytes, begin: int) -> bool:
    """Whether there is one at `begin` or behind it."""
    return START_CODE.search(packet, begin) is not None


def messages(unit: Bytes) -> Iterator[tuple[int, bytes]]:
    """Payload types and payloads in a unit of supplemental information (SEI), its header left out."""
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


def unit_places(data: Bytes, length_bytes: int) -> Iterator[tuple[int, int]]:
    """Where the units of a packet of H.264 or HEVC begin and end: behind their lengths of so many bytes, or if that is 0,
    between start codes."""
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


class PictureOrder:
    """Picture order counts of H.264 and HEVC, of which packets hold the lowest bits alone (H.264, 8.2.1.1; HEVC, 8.3.1)."""

    def __init__(self) -> None:
        self._high = self._low = self._sequence = 0

    def key(self, low: int, bits: int, begins: bool, is_base: bool) -> int:
        """A number that rises in the order in which pictures are shown.

        low: the lowest `bits` bits.  begins: whether a new sequence begins, all of which is shown after all before.
        is_base: whether the next picture counts from this one.
        """
        size = 1 << bits
        if begins:
            self._sequence += 1
            high = 0
        elif low < self._low and self._low - low >= size // 2:
            high = self._high + size
        elif low > self._low and low - self._low > size // 2:
            high = self._high - size
        else:
            high = self._high
        if is_base:
            self._high, self._low = high, low
        return (self._sequence << 40) + (1 << 39) + high + low
