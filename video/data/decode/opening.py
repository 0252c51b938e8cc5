"""Opening a video file: what cannot be read says why, and nothing is decoded that need not be."""

from __future__ import annotations

import os
from collections.abc import Iterator

import av
from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet

from revit.common.data.broken import BrokenSample

UNDECODED: dict[str, str] = {"skip_frame": "all"}
"""Tells FFmpeg not to decode the first pictures when it opens a file, which takes as long as opening, or ten times as long."""


class DecodeError(BrokenSample):
    """A video file that cannot be decoded. path: the file.  reason: one line saying what is wrong with it."""


def picture_packets(container: InputContainer) -> Iterator[Packet]:
    """Packets of the first video stream; the empty ones, which some writers use as padding, are left out.

    An empty packet would also tell the decoder that the file has ended.
    """
    for packet in container.demux(container.streams.video[0]):
        if packet.size > 0:
            yield packet


def open_container(path: str, quick: bool = False) -> InputContainer:
    """Open `path` for reading, one thread. `DecodeError` says why it is not a video file.

    quick: if it is an MP4 file, without decoding pictures; the pixel format is then unknown. (Of other files FFmpeg learns
    rates and stamps from pictures, too.)
    """
    try:
        if os.path.isdir(path):
            raise DecodeError(path, "is a folder, not a video file")
        with open(path, "rb") as file:
            head = file.read(4096)
    except OSError as error:
        raise DecodeError(path, (error.strerror or str(error)).lower()) from None
    if not head:
        raise DecodeError(path, "the file is empty (0 bytes)")
    try:
        container = av.open(
            path, metadata_errors="ignore", options=UNDECODED if quick and is_mp4(head) else None
        )
    except (FFmpegError, OSError, ValueError) as error:
        raise DecodeError(path, _why_unreadable(head, error)) from None
    if not container.streams.video:
        kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
        container.close()
        raise DecodeError(path, f"has no video stream (only {kinds})")
    stream = container.streams.video[0]
    if stream.codec_context is None:
        container.close()
        raise DecodeError(path, "this build of FFmpeg has no decoder for the file's video codec")
    stream.codec_context.thread_count = 1
    return container


def is_mp4(head: bytes) -> bool:
    """Whether a file that begins with `head` is MP4 or QuickTime."""
    return head[4:8] == b"ftyp"


def num_indexed(container: InputContainer) -> int:
    """Frames that the index of an MP4 file lists; 0 in others, which have none that is complete."""
    return len(container.streams.video[0].index_entries) if "mp4" in container.format.name else 0


def refuse_truncated(path: str, container: InputContainer, num_packets: int) -> None:
    """MP4 files list where every frame lies: a last frame beyond the end of the file was cut off."""
    count = num_indexed(container)
    if count == 0:
        return
    last = container.streams.video[0].index_entries[count - 1]
    if last.pos + last.size > os.path.getsize(path):
        raise DecodeError(
            path, f"truncated: {num_packets} of the {count} frames of its index are in the file"
        )


def _why_unreadable(head: bytes, error: Exception) -> str:
    if is_mp4(head):
        return "its index (moov box) is missing or damaged; the recording was probably cut off"
    if b"\0" not in head:
        try:
            head[:1024].decode("utf-8")
        except UnicodeDecodeError:
            pass
        else:
            return "is a text file, not a video"
    return f"not readable as a video: {error_text(error)}"


def error_text(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
