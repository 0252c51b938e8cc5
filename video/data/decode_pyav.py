"""Frames by number through PyAV: exact, and only the pictures that the wanted ones depend on are decoded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain, pairwise

import numpy as np
from av.error import EOFError as FFmpegEnd
from av.error import FFmpegError
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from numpy.typing import NDArray

from revit.video.data.frame_index import FrameIndex, picture_shape
from revit.video.data.opening import DecodeError

SKIPPABLE = ("h264",)
"""Codecs in which a picture marked as unused by others can be left undecoded without changing any other picture."""


def read(index: FrameIndex, wanted: set[int]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Decode the frames numbered `wanted`: pairs of number and picture (H, W, 3), in the order they come out.

    Numbers whose frame the decoder does not return whole are missing: `recount` then tells a file that promises too much
    from a damaged one. All are missing if pictures do not look as the index assumed. `DecodeError` where the decoder itself gives up.
    """
    to_rgb = Converter()
    if index.pts is None:
        for number, frame in _count(index, stop_after=max(wanted)):
            if number in wanted:
                yield number, to_rgb(frame, index.info.rotation)
        return
    number_of = {index.pts[number]: number for number in wanted}
    compared = not index.assumed
    for frame in _decode_runs(index, set(number_of)):
        if not compared:
            shape, info = picture_shape(frame), index.info
            if shape.rotation or (shape.height, shape.width) != (info.height, info.width):
                return
            compared = True
        wanted_number = number_of.get(frame.pts) if frame.pts is not None else None
        if wanted_number is not None:
            yield wanted_number, to_rgb(frame, index.info.rotation)


def recount(index: FrameIndex) -> FrameIndex:
    """Decode the whole file and trust what came out: for files that promise more frames than they hold.

    `DecodeError` if no frame comes out, or an incomplete one (FFmpeg fills the holes and goes on; this does not).
    """
    stamps = [frame.pts for _, frame in _count(index)]
    if not stamps:
        raise DecodeError(index.path, "no frame of it can be decoded")
    known = [stamp for stamp in stamps if stamp is not None]
    usable = len(known) == len(stamps) and all(a < b for a, b in pairwise(known))
    info = replace(index.info, num_frames=len(stamps), duration_seconds=len(stamps) / index.info.fps)
    return replace(index, info=info, pts=known if usable else None)


class Converter:
    """Frames to upright RGB, bit for bit as decord's filter graph does it.

    That is swscale with the bilinear flag and neither accurate rounding nor full chroma interpolation, at the size of
    the frame, with the colour matrix and range of the frame's tags; measured equal for 8-bit 4:2:0 at even sizes. (Accurate
    rounding would move pixels by 7 levels on average, because it also smooths chroma.)
    """

    def __init__(self) -> None:
        self._reformatter = VideoReformatter()

    def __call__(self, frame: VideoFrame, rotation: int) -> NDArray[np.uint8]:
        """`frame` as (H, W, 3) uint8, turned counter-clockwise by `rotation` degrees."""
        rgb = self._reformatter.reformat(
            frame, format="rgb24", interpolation=Interpolation.BILINEAR, threads=1
        )
        picture: NDArray[np.uint8] = rgb.to_ndarray().astype(np.uint8, copy=False)
        return np.rot90(picture, rotation // 90) if rotation else picture


def _decode_runs(index: FrameIndex, wanted: set[int]) -> Iterator[VideoFrame]:
    """Frames of the runs of packets that the wanted stamps need; everything else in the file is passed over.

    Stops early, leaving frames out, at a frame that is incomplete: those after it may be built on it.
    """
    codec = index.container.streams.video[0].codec_context
    skip = codec.name in SKIPPABLE
    packets = enumerate(index.read_packets())
    for start, stop in plan_runs(index.packet_pts, index.packet_is_key, wanted):
        codec.flush_buffers()
        first_pts = index.packet_pts[start]
        for position, packet in packets:
            if position < start:
                continue
            if skip:
                codec.skip_frame = "DEFAULT" if packet.pts in wanted else "NONREF"
            last = position == stop - 1
            frames = _decode(index, packet)
            for frame in (*frames, *_decode(index, None)) if last else frames:
                if not frame.is_corrupt:
                    yield frame
                elif frame.pts is None or first_pts is None or frame.pts >= first_pts:
                    return
            if last:
                break


def plan_runs(
    packet_pts: Sequence[int | None], packet_is_key: Sequence[bool], wanted: set[int]
) -> list[tuple[int, int]]:
    """Ranges [start, stop) of packets, in file order, that hold the wanted stamps and all that these depend on.

    A range begins at a key frame. A frame shown before the key frame it follows in the file (a leading picture of an
    open group) also needs the group before.
    """
    runs: list[tuple[int, int]] = []
    keys: list[int] = []
    for position, (pts, is_key) in enumerate(zip(packet_pts, packet_is_key)):
        if is_key or not keys:
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


def _count(index: FrameIndex, stop_after: int | None = None) -> Iterator[tuple[int, VideoFrame]]:
    """Every frame the decoder returns, numbered as it comes out.

    Incomplete frames at the very start (a stream cut out of another one) are not shown; later ones are damage.
    """
    codec = index.container.streams.video[0].codec_context
    codec.flush_buffers()
    codec.skip_frame = "DEFAULT"
    number = 0
    for packet in chain(index.read_packets(), (None,)):
        for frame in _decode(index, packet):
            if frame.is_corrupt and number == 0:
                continue
            if frame.is_corrupt:
                raise DecodeError(index.path, f"damaged{_where(index, frame.pts)}: a frame is incomplete")
            yield number, frame
            number += 1
            if stop_after is not None and number > stop_after:
                return


def _decode(index: FrameIndex, packet: Packet | None) -> list[VideoFrame]:
    """Send one packet (None: the end) to the decoder and take what it returns."""
    try:
        return index.container.streams.video[0].codec_context.decode(packet)
    except FFmpegEnd:
        return []
    except (FFmpegError, OSError) as error:
        where = _where(index, packet.pts if packet is not None else None)
        raise DecodeError(index.path, f"damaged{where}: {error.strerror}") from None


def _where(index: FrameIndex, pts: int | None) -> str:
    """What to say of the time, by the stream's own unit of time: frames that come out at the end of a file have none."""
    unit = index.container.streams.video[0].time_base
    return "" if pts is None or unit is None else f" at {float(pts * unit):.2f} s"
