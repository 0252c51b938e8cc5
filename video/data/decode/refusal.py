"""What a file is that is no video, in the words of the message that refuses it."""

from __future__ import annotations

import contextlib
import errno
import os
import re

ENCRYPTED = "its pictures are encrypted; decrypt it first"
MOST_INDEX_BYTES = 64 << 20
"""Of an index that are looked through."""
PICTURES = {
    "JPEG": rb"\xff\xd8\xff",
    "PNG": rb"\x89PNG(?!.*acTL)",  # with that chunk in front it is an animation
    "BMP": rb"BM....\0\0\0\0",
    "TIFF": rb"II\*\0|MM\0\*",
    "WebP": rb"RIFF....WEBP",
    "HEIF or AVIF": rb"....ftyp(avif|heic|heix|mif1)",
}
"""How files of still pictures begin."""


def is_mp4(head: bytes) -> bool:
    """Tell whether a file that begins with `head` is MP4 or QuickTime."""
    return head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide")


def is_encrypted(path: str) -> bool:
    """Tell whether the index of an MP4 file says that its pictures are encrypted (ISO/IEC 23001-7)."""
    with contextlib.suppress(OSError), open(path, "rb") as file:
        while len(head := file.read(16)) == 16:
            size, kind = int.from_bytes(head[:4], "big"), head[4:8]
            if size == 1:
                size = int.from_bytes(head[8:], "big")
            if kind == b"moov":
                index = file.read(min(size, MOST_INDEX_BYTES))
                return b"encv" in index or b"pssh" in index
            if size < 8:
                break
            file.seek(size - 16, os.SEEK_CUR)
    return False


def why_unreadable(path: str, head: bytes, error: Exception) -> str:
    """Say why FFmpeg cannot open a file that begins with `head`."""
    if is_mp4(head) and is_encrypted(path):
        return ENCRYPTED
    if is_mp4(head):
        return "its index (moov box) is missing or damaged; the recording was probably cut off"
    if b"\0" not in head:
        try:
            head[:1024].decode("utf-8")
        except UnicodeDecodeError as cut:
            if cut.start < 1020:  # else a letter was cut
                return _unreadable(error)
        if head.lstrip().startswith((b"#EXTM3U", b"ffconcat")):
            return "is a playlist, not a video; name the files in it"
        return "is a text file, not a video"
    return _unreadable(error)


def _unreadable(error: Exception) -> str:
    if getattr(error, "errno", None) == errno.EINVAL:  # its format is not among `CONTAINERS`
        return "is not of a kind that holds video"
    return f"not readable as a video: {error_text(error)}"


def error_text(error: Exception) -> str:
    """Give FFmpeg's own words for an error."""
    return getattr(error, "strerror", None) or str(error)


def still_picture(head: bytes) -> str | None:
    """Name the kind of still picture that a file begins like."""
    return next((name for name, begin in PICTURES.items() if re.match(begin, head, re.DOTALL)), None)
