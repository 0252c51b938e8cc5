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
        self._left = 8 * len(data)

    def bits(self, count: int) -> int:
        """The next `count` bits as a number."""
        self._left -= count
        value = self._value >> self._left if self._left >= 0 else self._value << -self._left
        return value & ((1 << count) - 1)

    def flag(self) -> bool:
        """The next bit."""
        return bool(self.bits(1))

    def unsigned(self) -> int:
        """The next Exp-Golomb number, ue(v) of H.264 and HEVC."""
        zeros = 0
        while zeros < 32 and self._left > 0 and not self.flag():
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


def units_of(packet: bytes, length_size: int) -> Iterator[bytes]:
    """The units of a packet, each behind its length of `length_size` bytes. Ends at the first that does not fit."""
    at = 0
    while at + length_size < len(packet):
        length = int.from_bytes(packet[at : at + length_size], "big")
        at += length_size
        if length == 0 or at + length > len(packet):
            return
        yield packet[at : at + length]
        at += length


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
