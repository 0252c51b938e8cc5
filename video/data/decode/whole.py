"""The whole file decoded from its first packet to its last, which is the meaning of frame numbers, whatever it looks like."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, islice, pairwise

from av.error import EOFError as FFmpegEnd
from av.error import FFmpegError
from av.packet import Packet
from av.video.frame import VideoFrame

from revit.video.data.decode.index import VideoInfo, frames_per_second, picture_shape
from revit.video.data.decode.opening import (
    DecodeError,
    error_text,
    num_indexed,
    open_container,
    opened_stream,
    picture_packets,
    refuse_truncated,
)
from revit.video.data.decode.scan import scanner_for
from revit.video.data.decode.scan.packets import UnknownScanner

HELD_BYTES = 128 << 20
"""Decoded pictures of files up to this size are kept until it is known which are wanted; larger ones are decoded twice."""


class PlainDecode:
    """Iterates over every frame of a file as FFmpeg hands them out. Use it as a context: it holds the file open.

    Incomplete frames at the very start (a stream cut out of another one) are not shown; later ones are damage.

    salvage: leave damaged frames out and go on, and read a truncated file as far as it goes.

    `DecodeError` at the first frame that is damaged, unless `salvage`.
    """

    def __init__(self, path: str, salvage: bool = False) -> None:
        self.path = path
        self.salvage = salvage
        self.reason: str | None = None
        """The first thing that was wrong."""
        self.is_exact = False
        """True if it is certain how many frames the packets hold; looked into to `salvage` alone."""
        self.num_held = 0
        """Frames of the packets read so far, damaged ones included."""
        self.num_indexed = 0
        """Frames of the index, where the file ends before it."""
        self._num_shown = 0
        self._container = open_container(path)
        self.stream = opened_stream(self._container)

    def __enter__(self) -> PlainDecode:
        return self

    def __exit__(self, *_: object) -> None:
        self._container.close()

    def __iter__(self) -> Iterator[VideoFrame]:
        codec = self.stream.codec_context
        scanner = scanner_for(codec) if self.salvage else UnknownScanner()
        for packet in chain(self._packets(), (None,)):
            if packet is not None:
                held = scanner.try_scan(packet)
                self.num_held += 0 if packet.is_discard else held.frames
            try:
                frames = codec.decode(packet)
            except FFmpegEnd:
                continue
            except (FFmpegError, OSError) as error:
                self._found(f"damaged{self._at(None if packet is None else packet.pts)}: {error_text(error)}")
                continue
            for frame in frames:
                if not frame.is_corrupt:
                    self._num_shown += 1
                    yield frame
                elif self._num_shown:
                    self._found(f"damaged{self._at(frame.pts)}: a frame is incomplete")
        scanner.finish()
        self.is_exact = scanner.is_exact

    def _packets(self) -> Iterator[Packet]:
        """Yield all but one that is last and incomplete. Of others that are, the decoder tells what can be made of them."""
        count, before = 0, None
        try:
            for packet in picture_packets(self._container):
                if before is not None:
                    yield before
                count, before = count + 1, packet
        except FFmpegError as error:
            self._found(f"damaged: {error_text(error)} after {self.num_held} frames")
        is_cut = before is not None and before.is_corrupt
        try:
            refuse_truncated(self.path, self._container, count - is_cut)
        except DecodeError as error:
            self.num_indexed = num_indexed(self._container)
            self._found(error.reason)
        if is_cut:
            self._found(f"truncated: the file ends inside frame {self.num_held}")
            self.num_held += 1
        elif before is not None:
            yield before

    def _found(self, reason: str) -> None:
        self.reason = self.reason or reason
        if not self.salvage:
            raise DecodeError(self.path, reason)

    def _at(self, pts: int | None) -> str:
        """Format a time, by the stream's own unit of time: frames that come out at the end may have none."""
        unit = self.stream.time_base
        return "" if pts is None or unit is None else f" at {float(pts * unit):.2f} s"


@dataclass(frozen=True)
class WholeFile:
    """A file of which every frame was decoded."""

    path: str
    info: VideoInfo
    stamps: list[int] | None
    """Time stamps of the frames in order, in units of `unit`; None unless each has one and they increase."""
    unit: Fraction | None
    """Seconds."""
    salvage: bool
    frames: list[VideoFrame] | None
    """All frames, or None if they are too large to be kept."""

    def read(self, wanted: set[int]) -> Iterator[tuple[int, VideoFrame]]:
        """Yield the frames numbered `wanted`, in order."""
        with PlainDecode(self.path, self.salvage) if self.frames is None else nullcontext(self.frames) as frames:
            upto = islice(enumerate(frames), max(wanted) + 1)
            yield from (numbered for numbered in upto if numbered[0] in wanted)


def decode_whole(
    path: str, salvage: bool = False, keep: bool = True, alive: Callable[[], object] = lambda: None
) -> WholeFile:
    """Decode every frame of `path`, see `PlainDecode`; with `salvage`, `info.num_lost` counts those left out.

    keep: keep pictures for `read`, as far as memory goes.  alive: called for every frame.

    `DecodeError` if no frame comes out and, unless `salvage`, at the first one that is damaged.
    """
    held: list[VideoFrame] = []
    stamps: list[int | None] = []
    num_bytes, shape = 0, None
    with PlainDecode(path, salvage) as decode:
        for frame in decode:
            alive()
            stamps.append(frame.pts)
            shape = shape or picture_shape(frame)
            if keep:
                num_bytes += sum(plane.buffer_size for plane in frame.planes)
                held.append(frame)
                if num_bytes > HELD_BYTES:
                    keep = False
                    held.clear()
        if shape is None:
            raise DecodeError(path, decode.reason or "no frame of it can be decoded")
        known = [stamp for stamp in stamps if stamp is not None]
        usable = len(known) == len(stamps) and all(a < b for a, b in pairwise(known))
        fps, unit = frames_per_second(decode.stream, known if usable else None), decode.stream.time_base
        is_known = decode.reason is not None or decode.is_exact
        num_lost = max(0, max(decode.num_held, decode.num_indexed) - len(stamps)) if salvage and is_known else 0
    info = shape.info(len(stamps), fps, len(stamps) / fps, num_lost)
    return WholeFile(path, info, known if usable else None, unit, salvage, held if keep else None)
