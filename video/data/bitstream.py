"""What the bits of H.264 and HEVC packets say without being decoded: no picture is looked into, only unit headers.

Sources: ITU-T H.264 (7.3.1, 7.4.1, D.1.27) and H.265 (7.3.1.2, 7.4.2.2, D.2.17); ISO/IEC 14496-15 for their place in MP4.
"""

from __future__ import annotations

from collections.abc import Iterator

from av.packet import Packet

ORIENTATION = 47
"""Payload type of the message that says how pictures are to be turned, in both standards."""

SLICES = 32
"""HEVC's types of units below this are parts of pictures."""

WITHOUT_ORIENTATION = ("mpeg4", "vp8", "vp9", "libvpx-vp9", "libdav1d")
"""Codecs whose streams cannot say it; the container's header still can."""


def may_be_turned(codec: str, extradata: bytes | None, packet: bytes) -> bool:
    """Whether the stream itself, in its header or its first packet, may ask for its pictures to be turned. True if unknown."""
    if codec in WITHOUT_ORIENTATION:
        return False
    # Only the layout of MP4: an ISO configuration record (version 1), then units behind their length.
    if codec == "h264" and extradata is not None and len(extradata) > 4 and extradata[0] == 1:
        units = units_of(packet, (extradata[4] & 3) + 1)
        return any(unit[0] & 31 == 6 and ORIENTATION in _messages(unit[1:]) for unit in units)
    if codec == "hevc" and extradata is not None and len(extradata) > 22 and extradata[0] == 1:
        everything = (*_header_units(extradata), *units_of(packet, (extradata[21] & 3) + 1))
        return any(
            unit[0] >> 1 & 63 in (39, 40) and ORIENTATION in _messages(unit[2:]) for unit in everything
        )
    return True


def sub_layer(codec: str, extradata: bytes | None, packet: Packet) -> int | None:
    """Temporal sub-layer, from 0, of a packet's picture: pictures are built on those of their own and lower ones alone.

    H.264's mark of an unused picture holds for all others, which is as good as one sub-layer. None for other codecs, and
    for HEVC in another layout than that of MP4 and Matroska.
    """
    if codec == "h264":
        return 0
    if codec != "hevc" or extradata is None or len(extradata) <= 22 or extradata[0] != 1:
        return None
    data, length_size, at = memoryview(packet), (extradata[21] & 3) + 1, 0
    while at + length_size + 1 < len(data):
        length = int.from_bytes(data[at : at + length_size], "big")
        header = int.from_bytes(data[at + length_size : at + length_size + 2], "big")
        unit_type, view_layer, layer = header >> 9 & 63, header >> 3 & 63, (header & 7) - 1
        if unit_type < SLICES and view_layer == 0:
            return layer
        at += length_size + length
    return None


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


def _header_units(record: bytes) -> Iterator[bytes]:
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


def _messages(unit: bytes) -> Iterator[int]:
    """Payload types in a unit of supplemental information, its header left out."""
    payload = unit.replace(b"\0\0\3", b"\0\0")
    at = 0
    while at + 1 < len(payload):  # the last byte is the stop bit
        sums = []
        for _ in range(2):  # type, then size: bytes of 255 and one smaller one, added
            total = 0
            while at < len(payload) and payload[at] == 255:
                total, at = total + 255, at + 1
            sums.append(total + (payload[at] if at < len(payload) else 0))
            at += 1
        yield sums[0]
        at += sums[1]
