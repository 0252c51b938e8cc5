"""One clip decoded whole, resized, and written as H.264: every frame under its number and its time.

Nothing here imports torch: the processes that convert must start fast.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Any

import av
import numpy as np
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter

from revit.common.system.errors import UserError
from revit.video.data.convert_options import ENCODER, ConvertSettings, target_size
from revit.video.data.decode import DecodeError, VideoInfo
from revit.video.data.decode.index import Numbering, index_frames
from revit.video.data.decode.opening import opened_stream
from revit.video.data.decode.whole import PlainDecode, decode_whole

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


@dataclass(frozen=True)
class Timeline:
    """When the frames of a file are shown."""

    fps: float
    rotation: int
    """See `VideoInfo`."""
    begins: list[int]
    """Of each frame, from 0, in units of `unit`; the end of the last one behind them."""
    unit: Fraction
    """Seconds."""
    stamps: list[int] | None
    """Time stamps that the frames come with, where it is by them that they are known."""

    @property
    def num_frames(self) -> int:
        return len(self.begins) - 1


def encode_clip(source: str, target: str, settings: ConvertSettings, alive: Callable[[], None]) -> Encoded:
    """Writes `source` anew as `target`, upright, without audio. `alive` is called for every frame.

    Frames are those that decoding the whole file hands out. If these are not the ones that the file lists, it is decoded
    once more to learn their times first.

    Raises:
        DecodeError: the source is no whole video.
        OutputError: no space, no permission.
    """
    for timeline in (_listed_timeline, _decoded_timeline):
        known = timeline(source, alive)
        written = None if known is None else _encode(source, known, target, settings, alive)
        if written is not None:
            return written
    raise DecodeError(source, "damaged: decoding it twice gave other frames")


def _listed_timeline(source: str, alive: Callable[[], None]) -> Timeline | None:
    """By the file's list of frames; None if that does not number them."""
    index = index_frames(source)
    with index.container as container:
        unit = opened_stream(container).time_base
        if index.numbering is Numbering.WHOLE:
            return None
        return _timeline(index.info, index.pts, unit)


def _decoded_timeline(source: str, alive: Callable[[], None]) -> Timeline:
    whole = decode_whole(source, keep=False, alive=alive)
    return _timeline(whole.info, whole.stamps, whole.unit)


def _timeline(info: VideoInfo, stamps: list[int] | None, unit: Fraction | None) -> Timeline:
    if stamps is None or unit is None:
        unit = 1 / Fraction(info.fps).limit_denominator(100_000)
        return Timeline(info.fps, info.rotation, list(range(info.num_frames + 1)), unit, None)
    begins = [stamp - stamps[0] for stamp in stamps]
    # The end that makes the average rate of the new file that of the old one: clips are spanned by it.
    end = round(info.num_frames / info.fps / float(unit))
    return Timeline(info.fps, info.rotation, [*begins, max(end, begins[-1] + 1)], unit, stamps)


def _encode(
    source: str, timeline: Timeline, target: str, settings: ConvertSettings, alive: Callable[[], None]
) -> Encoded | None:
    """None if other frames come out than those of the timeline."""
    try:
        return _encode_with(source, timeline, target, settings, settings.encoder_options, alive)
    except LongerDecoded:  # packets in the order of their frames have the frames' own distances
        options = {**settings.encoder_options, "bf": "0"}
        return _encode_with(source, timeline, target, settings, options, alive)


def _encode_with(
    source: str,
    timeline: Timeline,
    target: str,
    settings: ConvertSettings,
    encoder_options: dict[str, str],
    alive: Callable[[], None],
) -> Encoded | None:
    begins, unit, stamps = timeline.begins, timeline.unit, timeline.stamps
    length_of = {begin: end - begin for begin, end in pairwise(begins)}
    shape: Shaper | None = None
    with Writer(target) as writer, PlainDecode(source) as frames:
        number = 0
        for frame in frames:
            alive()
            if number == timeline.num_frames or (stamps is not None and frame.pts != stamps[number]):
                return None
            if shape is None:
                shape = Shaper(source, timeline, frame, settings)
                writer.begin(shape, unit, encoder_options)
            picture = shape(frame)
            picture.pts, picture.time_base = begins[number], unit
            writer.write(picture, length_of)
            number += 1
        if number != timeline.num_frames or shape is None:
            return None
        writer.finish(length_of, begins[-1] - begins[0])
    seconds = tuple(float(begin * unit) for begin in begins[:-1])
    return Encoded(shape.width, shape.height, timeline.fps, seconds)


class Shaper:
    """Frames of one file to upright yuv420p of the new size, in the colours that their tags mean."""

    def __init__(self, path: str, timeline: Timeline, first: VideoFrame, settings: ConvertSettings) -> None:
        self.path = path
        self.turns = timeline.rotation // 90
        self.fps = timeline.fps
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
