"""One clip decoded whole, resized, and written as H.264: every frame under its number and its time.

Nothing here imports torch: the processes that convert must start fast.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, pairwise
from typing import Any

import av
import numpy as np
from av.error import EOFError as FFmpegEnd
from av.error import FFmpegError
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter

from revit.common.errors import UserError
from revit.video.data.convert_options import ENCODER, ConvertSettings, target_size
from revit.video.data.decode import DecodeError
from revit.video.data.decode_pyav import recount
from revit.video.data.frame_index import FrameIndex, index_frames

LIMITED_RANGE = 1
"""FFmpeg's number for luma from 16 to 235, which is what yuv420p without a tag means."""


@dataclass(frozen=True)
class Encoded:
    """What was written."""

    width: int
    height: int
    fps: float
    seconds: tuple[float, ...]
    """When each frame is shown, from the first one on."""


class LongerDecoded(Exception):
    """Uneven frames in the order in which they are decoded take longer than the clip."""


class OutputError(UserError):
    """The place cannot be written to: no other file could be written either."""


def encode_clip(source: str, target: str, settings: ConvertSettings, alive: Callable[[], None]) -> Encoded:
    """Writes `source` anew as `target`, upright, without audio. `alive` is called for every frame.

    Raises:
        DecodeError: the source is no whole video.
        OutputError: no space, no permission.
    """
    index = index_frames(source)
    try:
        written = _encode(index, target, settings, alive)
        if written is None:
            index = recount(index)
            written = _encode(index, target, settings, alive)
        if written is None:
            raise DecodeError(
                source, f"damaged: not every one of its {index.info.num_frames} frames can be decoded"
            )
        return written
    finally:
        index.container.close()


def shown_frames(index: FrameIndex) -> Iterator[VideoFrame]:
    """Every frame of a file in the order of its numbers; ends early at one that is missing or incomplete."""
    codec = index.container.streams.video[0].codec_context
    codec.flush_buffers()
    codec.skip_frame = "DEFAULT"
    number_of = None if index.pts is None else {pts: number for number, pts in enumerate(index.pts)}
    first = index.packet_pts[0]
    number = 0
    for packet in chain(index.read_packets(), (None,)):
        for frame in _decode(index, packet):
            if number_of is not None:
                if frame.is_corrupt and (frame.pts is None or first is None or frame.pts >= first):
                    return
                found = None if frame.pts is None or frame.is_corrupt else number_of.get(frame.pts)
                if found is None:  # outside the edit list, or from before the file's first key frame
                    continue
                if found != number:
                    return
            elif frame.is_corrupt:
                if number:
                    return
                continue
            yield frame
            number += 1


def _decode(index: FrameIndex, packet: Packet | None) -> list[VideoFrame]:
    try:
        return index.container.streams.video[0].codec_context.decode(packet)
    except FFmpegEnd:
        return []
    except (FFmpegError, OSError) as error:
        raise DecodeError(index.path, f"damaged: {error.strerror}") from None


def _stamps(index: FrameIndex) -> tuple[list[int], Fraction]:
    """When frames begin, from 0, with the end of the last one behind them, and the unit in seconds."""
    stream, info = index.container.streams.video[0], index.info
    if index.pts is None or stream.time_base is None:
        unit = 1 / Fraction(info.fps).limit_denominator(100_000)
        return list(range(info.num_frames + 1)), unit
    begins = [pts - index.pts[0] for pts in index.pts]
    # The end that makes the average rate of the new file that of the old one: clips are spanned by it.
    end = round(info.num_frames / info.fps / float(stream.time_base))
    return [*begins, max(end, begins[-1] + 1)], stream.time_base


def _encode(
    index: FrameIndex, target: str, settings: ConvertSettings, alive: Callable[[], None]
) -> Encoded | None:
    """None if frames are missing."""
    try:
        return _encode_with(index, target, settings, settings.encoder_options, alive)
    except LongerDecoded:  # packets in the order of their frames have the frames' own distances
        return _encode_with(index, target, settings, {**settings.encoder_options, "bf": "0"}, alive)


def _encode_with(
    index: FrameIndex,
    target: str,
    settings: ConvertSettings,
    encoder_options: dict[str, str],
    alive: Callable[[], None],
) -> Encoded | None:
    stamps, unit = _stamps(index)
    length_of = {begin: end - begin for begin, end in pairwise(stamps)}
    shape: Shaper | None = None
    with Writer(target) as writer:
        number = 0
        for frame in shown_frames(index):
            alive()
            if shape is None:
                shape = Shaper(index, frame, settings)
                writer.begin(shape, unit, encoder_options)
            picture = shape(frame)
            picture.pts, picture.time_base = stamps[number], unit
            writer.write(picture, length_of)
            number += 1
        if number != index.info.num_frames or shape is None:
            return None
        writer.finish(length_of, stamps[-1] - stamps[0])
    seconds = tuple(float(begin * unit) for begin in stamps[:-1])
    return Encoded(shape.width, shape.height, index.info.fps, seconds)


class Shaper:
    """Frames of one file to upright yuv420p of the new size, in the colours that their tags mean."""

    def __init__(self, index: FrameIndex, first: VideoFrame, settings: ConvertSettings) -> None:
        self.path = index.path
        self.turns = index.info.rotation // 90
        self.fps = index.info.fps
        self.size = (first.width, first.height)
        self.scaled = target_size(first.width, first.height, settings.short_side)
        self.width, self.height = self.scaled[::-1] if self.turns % 2 else self.scaled
        self.first = first
        self._reformatter = VideoReformatter()

    def __call__(self, frame: VideoFrame) -> VideoFrame:
        """`DecodeError` if its size is not that of the first."""
        if (frame.width, frame.height) != self.size:
            raise DecodeError(
                self.path, f"its frames change size from {self.size} to {(frame.width, frame.height)}"
            )
        picture = self._reformatter.reformat(
            frame,
            *self.scaled,
            format="yuv420p",
            dst_color_range=LIMITED_RANGE,
            interpolation=Interpolation.BICUBIC,
            threads=1,
        )
        if self.turns:
            picture = _turned(picture, self.turns)
        picture.pict_type = 0  # the encoder decides, not the source
        return picture


def _turned(picture: VideoFrame, turns: int) -> VideoFrame:
    """Counter-clockwise by quarter turns, plane by plane."""
    rows, columns = picture.height, picture.width
    planes = picture.to_ndarray()  # (3/2 rows, columns): Y above U above V
    chroma = planes[rows:].reshape(2, rows // 2, columns // 2)
    turned = [np.rot90(plane, turns).ravel() for plane in (planes[:rows], *chroma)]
    width = rows if turns % 2 else columns
    return VideoFrame.from_ndarray(np.concatenate(turned).reshape(-1, width), format="yuv420p")


class Writer:
    """An MP4 file with one H.264 stream, its index in front. What goes wrong with the place is an `OutputError`."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._last: Packet | None = None
        self._first_dts = 0

    def __enter__(self) -> Writer:
        try:
            self._file = av.open(self.path, "w", format="mp4", options={"movflags": "+faststart"})
        except OSError as error:
            raise self._refused(error) from None
        return self

    def begin(self, shape: Shaper, unit: Fraction, encoder_options: dict[str, str]) -> None:
        """Choose size, rate and colours, before the first frame."""
        rate = Fraction(shape.fps).limit_denominator(100_000)
        stream: Any = self._file.add_stream(ENCODER, rate=rate)
        self._stream = stream
        stream.width, stream.height, stream.pix_fmt = shape.width, shape.height, "yuv420p"
        codec = stream.codec_context
        codec.thread_count = 1
        codec.time_base = stream.time_base = unit
        # Without these tags a reader would take other colours than it took from the source.
        codec.color_range = LIMITED_RANGE
        codec.colorspace = shape.first.colorspace
        codec.color_primaries = shape.first.color_primaries
        codec.color_trc = shape.first.color_trc
        stream.options = encoder_options

    def write(self, picture: VideoFrame | None, length_of: dict[int, int]) -> None:
        """One frame, or None at the end. `length_of`: how long the frame of a time stamp is shown."""
        for packet in self._stream.encode(picture):
            packet.duration = length_of.get(packet.pts or 0, 1)
            if self._last is None:
                self._first_dts = packet.dts or 0
            else:
                self._mux(self._last)
            self._last = packet

    def finish(self, length_of: dict[int, int], length: int) -> None:
        """What is left in the encoder. The average rate of the file becomes that of as many frames in `length`: MP4 notes
        the distances of packets as they are decoded, and readers divide by their sum, in which the packet that is decoded
        last has the only length that is free. `LongerDecoded` if nothing is left for it."""
        self.write(None, length_of)
        if self._last is not None:
            self._last.duration = length - ((self._last.dts or 0) - self._first_dts)
            if self._last.duration < 1:
                raise LongerDecoded
            self._mux(self._last)

    def _mux(self, packet: Packet) -> None:
        try:
            self._file.mux(packet)
        except OSError as error:
            raise self._refused(error) from None

    def __exit__(self, kind: type | None, *_: object) -> None:
        try:
            self._file.close()
        except OSError as error:
            if kind is None:
                raise self._refused(error) from None

    def _refused(self, error: OSError) -> OutputError:
        return OutputError(f"{self.path}: cannot be written ({(error.strerror or str(error)).lower()})")
