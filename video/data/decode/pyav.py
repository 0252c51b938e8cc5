"""Frames by number through PyAV: exact, and only the pictures that the wanted ones depend on are decoded."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, groupby

import numpy as np
from av.error import EOFError as FFmpegEnd
from av.error import FFmpegError
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from numpy.typing import NDArray

from revit.video.data.decode.index import FrameIndex, picture_shape
from revit.video.data.decode.opening import DecodeError, opened_stream
from revit.video.data.decode.scan.packets import Entry


def short_side_size(height: int, width: int, short_side: int) -> tuple[int, int]:
    """Return height and width with the shorter one at `short_side` pixels; the longer one is rounded down (published)."""
    if width < height:
        return math.floor(height / width * short_side), short_side
    return short_side, math.floor(width / height * short_side)


class OtherFrames(Exception):
    """The decoder hands out other frames than the packets say that they hold."""


def read(index: FrameIndex, wanted: set[int], short_side: int | None = None) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Decode the frames numbered `wanted`: pairs of number and picture (H, W, 3), in the order they come out.

    Numbers whose frame the decoder does not return whole are missing: decoding the whole file then tells one that promises
    too much from a damaged one. All are missing if pictures do not look as the index assumed.

    short_side: see `Converter`.  OtherFrames if it turns out that the index is not to be believed; `DecodeError` where the
    decoder itself gives up, or frames change size.
    """
    return pictures(index.path, _frames(index, wanted), index.info.rotation, short_side)


def pictures(
    path: str, frames: Iterable[tuple[int, VideoFrame]], rotation: int, short_side: int | None
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Convert numbered frames. `DecodeError` if they change size."""
    to_rgb, size = Converter(short_side), None
    for number, frame in frames:
        size = same_size(path, size, frame)
        yield number, to_rgb(frame, rotation)


def same_size(path: str, size: tuple[int, int] | None, frame: VideoFrame) -> tuple[int, int]:
    """Return height and width of a frame. `DecodeError` if the ones before had others."""
    if size is not None and size != (frame.height, frame.width):
        raise DecodeError(path, f"its frames change size from {size} to {(frame.height, frame.width)}")
    return frame.height, frame.width


def _frames(index: FrameIndex, wanted: set[int]) -> Iterator[tuple[int, VideoFrame]]:
    """Yield the frames numbered `wanted` as the decoder returns them."""
    is_assumed, info = index.assumed, index.info
    for number, frame in _counted(index, wanted) if index.pts is None else _stamped(index, index.pts, wanted):
        if is_assumed:
            shape, is_assumed = picture_shape(frame), False
            if shape.rotation or (shape.height, shape.width) != (info.height, info.width):
                return
        yield number, frame


class Converter:
    """Frames to upright RGB, bit for bit as decord's filter graph does it.

    That is swscale with the bilinear flag and neither accurate rounding nor full chroma interpolation, at the size of
    the frame, with the colour matrix and range of the frame's tags; measured equal for 8-bit 4:2:0 at even sizes. (Accurate
    rounding would move pixels by 7 levels on average, because it also smooths chroma.)

    short_side: larger frames are shrunk to it in the same step, each colour plane from its own size to the new one.
    swscale's bilinear filter covers all pixels that it stands for, as the transform's does with `antialias`; against that
    one, textures measured 45 dB of luma (PSNR) and 37 dB of the worst colour, because in 4:2:0 the transform shrinks colours
    that were enlarged by repetition. Without `antialias` the transform keeps aliasing that is not made here. `benchmarks/loading.py --resize`
    says what it saves.
    """

    def __init__(self, short_side: int | None = None) -> None:
        self._reformatter = VideoReformatter()
        self.short_side = short_side

    def __call__(self, frame: VideoFrame, rotation: int) -> NDArray[np.uint8]:
        """Return `frame` as (H, W, 3) uint8, turned counter-clockwise by `rotation` degrees."""
        if self.short_side is None or min(frame.height, frame.width) <= self.short_side:
            rgb = self._reformatter.reformat(frame, format="rgb24", interpolation=Interpolation.BILINEAR, threads=1)
            # Where they lie: they are copied once, into the array that is returned.
            plane = rgb.planes[0]
            rows = np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size)
            picture = rows[:, : 3 * rgb.width].reshape(rgb.height, rgb.width, 3)
        else:
            height, width = short_side_size(frame.height, frame.width, self.short_side)
            # In planes: swscale takes twice as long to scale into interleaved RGB, and halves the colours at even widths.
            planes = self._reformatter.reformat(
                frame, width, height, format="gbrp", interpolation=Interpolation.BILINEAR, threads=1
            )
            picture = planes.to_ndarray().astype(np.uint8, copy=False)
        return np.rot90(picture, rotation // 90) if rotation else picture


def _stamped(index: FrameIndex, pts: list[int], wanted: set[int]) -> Iterator[tuple[int, VideoFrame]]:
    number_of = {pts[number]: number for number in wanted}
    for frame in _decode_runs(index, set(number_of)):
        number = number_of.get(frame.pts) if frame.pts is not None else None
        if number is not None:
            yield number, frame


def _decode_runs(index: FrameIndex, wanted: set[int]) -> Iterator[VideoFrame]:
    """Yield frames of the runs of packets that the wanted stamps need; everything else in the file is passed over.

    In a run, pictures that say of themselves that no other is built on them are left undecoded unless they are wanted:
    in H.264 those with nal_ref_idc 0, in HEVC "sub-layer non-reference" ones, which say so for their own temporal
    sub-layer and those below (`Held.layer`), so that the wanted ones must not be of a higher one. Neither
    changes any other picture: their order and numbers do not enter the decoding of the rest.

    B-pictures that others are built on (pyramids) are decoded, needed or not. Which pictures use them is in lists inside
    the others' slice headers, which FFmpeg does not tell before it decodes, and those after them may: x264 by default
    lets P-pictures refer to the B-picture in the middle of the group before, and a decoder that leaves it out shows
    other pictures from there to the next key frame. VP9 and AV1 mark pictures as not shown, not as not used: all are
    decoded.

    Stops early, leaving frames out, at a frame that is incomplete, as those after it may be built on it. Raises OtherFrames if
    they come out in another order than that of the stamps, or if one is missing.
    """
    codec = opened_stream(index.container).codec_context
    packets = enumerate(index.read_packets())
    held = index.packets.held
    for start, stop in plan_runs(index.packets.pts, [bool(one.entry) for one in held], wanted):
        while stop < len(held) and held[stop].frames == 0:  # the second field of a frame
            stop += 1
        codec.flush_buffers()
        first_pts = index.packets.pts[start]
        layers = [held[at].layer for at in range(start, stop) if index.packets.pts[at] in wanted]
        highest = max(math.inf if layer is None else layer for layer in layers)
        shown: int | None = None
        due: set[int] = set()
        for position, packet in packets:
            if position < start:
                continue
            layer = held[position].layer
            needed = packet.pts in wanted or layer is None or layer < highest
            codec.skip_frame = "DEFAULT" if needed else "NONREF"
            last = position == stop - 1
            is_shown = held[position].frames and not packet.is_discard
            if needed and is_shown and packet.pts is not None and packet.pts >= (first_pts or 0):
                due.add(packet.pts)
            frames = decode_packet(codec, packet, index)
            for frame in (*frames, *decode_packet(codec, None, index)) if last else frames:
                if frame.is_corrupt:
                    if frame.pts is None or first_pts is None or frame.pts >= first_pts:
                        return
                    continue
                if frame.pts is None or (shown is not None and frame.pts <= shown):
                    raise OtherFrames
                shown = frame.pts
                due.discard(shown)
                yield frame
            if last:
                break
        if due:
            raise OtherFrames


def plan_runs(
    packet_pts: Sequence[int | None], packet_is_entry: Sequence[bool], wanted: set[int]
) -> list[tuple[int, int]]:
    """Return ranges [start, stop) of packets, in file order, that hold the wanted stamps and all that these depend on.

    A range begins where decoding can. A frame shown before the one at which it begins (a leading picture of an open group)
    also needs the group before.
    """
    runs: list[tuple[int, int]] = []
    keys: list[int] = []
    for position, (pts, is_entry) in enumerate(zip(packet_pts, packet_is_entry)):
        if is_entry or not keys:
            keys.append(position)
        if pts is None or pts not in wanted:
            continue
        back = 1
        while back < len(keys) and pts < (packet_pts[keys[-back]] or 0):
            back += 1
        start = keys[-back]
        while runs and start <= runs[-1][1]:
            start = min(start, runs.pop()[0])
        runs.append((start, position + 1))
    return runs


def _counted(index: FrameIndex, wanted: set[int]) -> Iterator[tuple[int, VideoFrame]]:
    """Yield the wanted frames, counted as the decoder hands them out, each from the last start before it.

    Stops early, leaving frames out, at one that is incomplete.
    """
    codec = opened_stream(index.container).codec_context
    codec.skip_frame = "DEFAULT"
    firsts = [number for _, number in index.starts]
    groups = [
        (index.starts[which], set(numbers))
        for which, numbers in groupby(sorted(wanted), lambda number: bisect_right(firsts, number) - 1)
    ]
    unread, kept = enumerate(index.read_packets()), list[tuple[int, Packet]]()

    def packets_from(start: int, next_start: int) -> Iterator[tuple[int, Packet]]:
        """Yield packets with their places; those from `next_start` on are kept, wherever this ends."""
        nonlocal kept
        before, kept = kept, [one for one in kept if one[0] >= next_start]
        yield from (one for one in before if one[0] >= start)
        for one in unread:
            if one[0] >= next_start:
                kept.append(one)
            if one[0] >= start:
                yield one

    ends = [*(start for (start, _), _ in groups[1:]), len(index.packets.held)]
    for ((start, number), numbers), end in zip(groups, ends):
        codec.flush_buffers()
        for frame in _handed_out(index, start, packets_from(start, end)):
            if frame.is_corrupt:
                return
            if number in numbers:
                yield number, frame
                numbers.discard(number)
                if not numbers:
                    break
            number += 1
        else:
            if number != index.info.num_frames:
                raise OtherFrames


def _handed_out(index: FrameIndex, start: int, packets: Iterator[tuple[int, Packet]]) -> Iterator[VideoFrame]:
    """Yield what the decoder hands out from the packet at `start` on.

    Packets are stamped with their place, so that what leads the first picture is told from it: some decoders leave it out,
    others show it damaged.
    """
    codec = opened_stream(index.container).codec_context
    begun = start == 0 or index.packets.held[start].entry is Entry.CLOSED
    for position, packet in chain(packets, ((-1, None),)):
        if packet is not None:
            packet.pts = packet.dts = position
        for frame in decode_packet(codec, packet, index):
            begun = begun or frame.pts == start
            if begun:
                yield frame


def decode_packet(codec: VideoCodecContext, packet: Packet | None, index: FrameIndex) -> list[VideoFrame]:
    """Send one packet (None: the end) to the decoder and take what it returns. `DecodeError` if it cannot be decoded."""
    try:
        return codec.decode(packet)
    except FFmpegEnd:
        return []
    except (FFmpegError, OSError) as error:
        unit, pts = opened_stream(index.container).time_base, None if packet is None else packet.pts
        if index.pts is None and pts is not None:  # it was stamped with its place
            pts = index.packets.pts[pts]
        where = "" if pts is None or unit is None else f" at {float(pts * unit):.2f} s"
        raise DecodeError(index.path, f"damaged{where}: {error.strerror}") from None
