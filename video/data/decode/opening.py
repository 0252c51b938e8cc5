"""Opening a video file: what cannot be read says why, and nothing is decoded that need not be."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from collections.abc import Iterator
from typing import BinaryIO

import av
from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.stream import Disposition
from av.video.stream import VideoStream

from revit.common.data.broken import BrokenSample
from revit.common.data.lists import FilePart

ENCRYPTED = "its pictures are encrypted; decrypt it first"
MOST_INDEX_BYTES = 64 << 20  # of an index that are looked through
PICTURES = {
    "JPEG": rb"\xff\xd8\xff",
    "PNG": rb"\x89PNG(?!.*acTL)",  # with that chunk in front it is an animation
    "BMP": rb"BM....\0\0\0\0",
    "TIFF": rb"II\*\0|MM\0\*",
    "WebP": rb"RIFF....WEBP",
    "HEIF or AVIF": rb"....ftyp(avif|heic|heix|mif1)",
}
"""Beginnings of files of still pictures."""
UNDECODED: dict[str, str] = {"skip_frame": "all", "probesize": "32"}
"""Tells FFmpeg not to decode the first pictures when it opens a file, nor to read packets to learn what the header of an MP4
file says: that takes as long as opening, or ten times as long."""


class DecodeError(BrokenSample):
    """A video file that cannot be decoded. path: the file.  reason: one line saying what is wrong with it."""


CONTAINERS = """
    3g2 3gp 4xm amv anm apng asf asf_o av1 avi avs avs2 avs3 bethsoftvid bfi bink c93 cavsvideo cdxl cine dfa
    dhav dirac dnxhd dsicin dv dxa ea evc film_cpk filmstrip flic flv gif gxf h261 h263 h264 hevc hnm idcin
    iff ifv ingenient ipmovie ipu iv8 ivf jpegxl_anim jv kux live_flv lmlm4 lvf lxf m4v matroska mgsts mjpeg
    mjpeg_2000 mlv mm moflex mov mp4 mpeg mpegts mpegtsraw mpegvideo mpjpeg msnwctcp mtv mv mvi mxf nc nsv nut
    nuv obu ogg paf pdv pmp psxstr pva r3d rl2 rm roq rpl ser siff smjpeg smk swf thp tiertexseq tmv ty usm
    vc1 vc1test viv vividas vivo vmd vvc webm wc3movie wtv xmv yop yuv4mpegpipe
""".split()  # noqa: SIM905 (a list that a page can hold)
"""FFmpeg's names of what holds video, moving GIFs included. It would also take text for subtitles or pictures of letters, and open
what playlists and patterns of names point at."""

WHITELIST = ",".join(CONTAINERS)


def real_path(path: str) -> str:
    """Return `path` from the root on, ".." left in, so that FFmpeg takes nothing in it for a protocol or an option; of a part of
    a file, what FFmpeg calls that part."""
    if isinstance(path, FilePart):
        whole = os.path.join(os.getcwd(), path.whole)
        return f"subfile,,start,{path.offset},end,{path.offset + path.size},,:{whole}"
    return os.path.join(os.getcwd(), path)


def open_bytes(path: str) -> BinaryIO:
    """Open a file at its beginning, or one that holds `path` where that begins. OSError if it cannot be opened."""
    file = open(path.whole if isinstance(path, FilePart) else path, "rb")  # noqa: SIM115 (the caller closes it)
    file.seek(path.offset if isinstance(path, FilePart) else 0)
    return file


def num_bytes(path: str) -> int:
    """Return the size of a file or of a part of one."""
    return path.size if isinstance(path, FilePart) else os.path.getsize(path)


def video_stream(container: InputContainer) -> VideoStream | None:
    """Return the first video stream that is not a cover picture."""
    return next((one for one in container.streams.video if not one.disposition & Disposition.attached_pic), None)


def picture_packets(container: InputContainer) -> Iterator[Packet]:
    """Yield the packets of the video stream; the empty ones, which some writers use as padding, are left out.

    An empty packet would also tell the decoder that the file has ended. FFmpegError if the file is damaged.
    """
    try:
        for packet in container.demux(opened_stream(container)):
            if packet.size > 0:
                yield packet
    except IndexError:  # PyAV's, where a damaged file seems to have more streams than it began with
        raise FFmpegError(errno.EIO, "a packet belongs to a stream that is not there") from None


def opened_stream(container: InputContainer) -> VideoStream:
    """Return the video stream of a file that `open_container` has opened."""
    stream = video_stream(container)
    assert stream is not None
    return stream


def open_container(path: str, quick: bool = False) -> InputContainer:
    """Open `path` for reading, one thread. `DecodeError` says why it is not a video file.

    Whatever its name, it is a file: no protocol, pipe, playlist or pattern, and neither is what it holds.

    quick: if it is an MP4 file, without decoding pictures; the pixel format is then unknown. (Of other files FFmpeg learns
    rates and stamps from pictures, too.)
    """
    head = _read_head(path)
    for kind, begin in PICTURES.items():
        if re.match(begin, head, re.DOTALL):
            raise DecodeError(path, f"is a {kind} picture, not a video")
    options = {"format_whitelist": WHITELIST, "protocol_whitelist": "file"}
    if isinstance(path, FilePart):
        options["protocol_whitelist"] += ",subfile"
    if quick and is_mp4(head):
        options |= UNDECODED
    try:
        container = av.open(real_path(path), format=_format(head), metadata_errors="ignore", options=options)
    except (FFmpegError, OSError, ValueError) as error:
        raise DecodeError(path, why_unreadable(path, head, error)) from None
    stream = video_stream(container)
    if stream is None:
        kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
        container.close()
        raise DecodeError(path, f"has no video stream (only {kinds.replace('video', 'a cover picture')})")
    if stream.codec_context is None:
        container.close()
        reason = "this build of FFmpeg has no decoder for the file's video codec"
        raise DecodeError(path, ENCRYPTED if is_encrypted(path) else reason)
    stream.codec_context.thread_count = 1
    return container


def _read_head(path: str) -> bytes:
    """Read the first bytes of a file. `DecodeError` if it is none, cannot be read or is empty."""
    try:
        mode = os.stat(path.whole if isinstance(path, FilePart) else path).st_mode
        if stat.S_ISDIR(mode):
            raise DecodeError(path, "is a folder, not a video file")
        if not stat.S_ISREG(mode):  # opening a pipe would wait for its writer
            raise DecodeError(path, "is not a file, but a pipe, socket or device")
        with open_bytes(path) as file:
            head = file.read(4096)
    except OSError as error:
        raise DecodeError(path, (error.strerror or str(error)).lower()) from None
    except ValueError as error:  # a null character
        raise DecodeError(path, f"is not the name of a file ({error})") from None
    if not head:
        raise DecodeError(path, "the file is empty (0 bytes)")
    return head


def _format(head: bytes) -> str | None:
    """Return FFmpeg's name of what a file plainly is, which spares it trying all that it knows; None lets it try."""
    if head[4:8] == b"ftyp":
        return "mp4"
    return "avi" if head[:4] == b"RIFF" and head[8:12] == b"AVI " else None


def num_indexed(container: InputContainer) -> int:
    """Count the frames that the index of an MP4 file lists; 0 in others, which have none that is complete."""
    return len(opened_stream(container).index_entries) if "mp4" in container.format.name else 0


def refuse_truncated(path: str, container: InputContainer, num_packets: int) -> None:
    """Raise `DecodeError` for an MP4 file whose index lists a last frame beyond the end of the file."""
    count = num_indexed(container)
    if count == 0:
        return
    last = opened_stream(container).index_entries[count - 1]
    if last.pos + last.size > num_bytes(path):
        raise DecodeError(path, f"truncated: {num_packets} of the {count} frames of its index are in the file")


def is_mp4(head: bytes) -> bool:
    """Tell whether a file that begins with `head` is MP4 or QuickTime."""
    return head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide")


def is_encrypted(path: str) -> bool:
    """Tell whether the index of an MP4 file says that its pictures are encrypted (ISO/IEC 23001-7)."""
    with contextlib.suppress(OSError), open_bytes(path) as file:
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
    if is_mp4(head):
        damaged = "its index (moov box) is missing or damaged; the recording was probably cut off"
        return ENCRYPTED if is_encrypted(path) else damaged
    if _is_text(head):
        is_list = head.lstrip().startswith((b"#EXTM3U", b"ffconcat"))
        return "is a playlist, not a video; name the files in it" if is_list else "is a text file, not a video"
    if getattr(error, "errno", None) == errno.EINVAL:  # its format is not among `CONTAINERS`
        return "is not of a kind that holds video"
    return f"not readable as a video: {error_text(error)}"


def _is_text(head: bytes) -> bool:
    try:
        head[:1024].decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < 1020:  # else a letter was cut
            return False
    return b"\0" not in head


def error_text(error: Exception) -> str:
    """Give FFmpeg's own words for an error."""
    return getattr(error, "strerror", None) or str(error)
