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
from revit.video.data.sizes import short_side_size


def read(
    index: FrameIndex, wanted: set[int], short_side: int | None = None
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Decode the frames numbered `wanted`: pairs of number and picture (H, W, 3), in the order they come out.

    Numbers whose frame the decoder does not return whole are missing: `recount` then tells a file that promises too much
    from a damaged one. All are missing if pictures do not look as the index assumed.

    short_side: see `Converter`.  `DecodeError` where the decoder itself gives up, or frames change size.
    """
    to_rgb = Converter(short_side)
    size: tuple[int, int] | None = None
    for number, frame in _frames(index, wanted):
        if size is not None and size != (frame.height, frame.width):
            raise DecodeError(
                index.path, f"its frames change size from {size} to {(frame.height, frame.width)}"
            )
        size = frame.height, frame.width
        yield number, to_rgb(frame, index.info.rotation)


def _frames(index: FrameIndex, wanted: set[int]) -> Iterator[tuple[int, VideoFrame]]:
    """The frames numbered `wanted` as the decoder returns them."""
    if index.pts is None:
        yield from (
            (number, frame) for number, frame in _count(index, stop_after=max(wanted)) if number in wanted
        )
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
            yield wanted_number, frame


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
        """`frame` as (H, W, 3) uint8, turned counter-clockwise by `rotation` degrees."""
        if self.short_side is None or min(frame.height, frame.width) <= self.short_side:
            rgb = self._reformatter.reformat(
                frame, format="rgb24", interpolation=Interpolation.BILINEAR, threads=1
            )
        else:
            height, width = short_side_size(frame.height, frame.width, self.short_side)
            # In planes: swscale takes twice as long to scale into interleaved RGB, and halves the colours at even widths.
            rgb = self._reformatter.reformat(
                frame, width, height, format="gbrp", interpolation=Interpolation.BILINEAR, threads=1
            )
        picture: NDArray[np.uint8] = rgb.to_ndarray().astype(np.uint8, copy=False)
        return np.rot90(picture, rotation // 90) if rotation else picture


def _decode_runs(index: FrameIndex, wanted: set[int]) -> Iterator[VideoFrame]:
    """Frames of the runs of packets that the wanted stamps need; everything else in the file is passed over.

    In a run, pictures that say of themselves that no other is built on them are left undecoded unless they are wanted:
    in H.264 those with nal_ref_idc 0, in HEVC "sub-layer non-reference" ones, which say so for their own temporal
    sub-layer and those below (`FrameIndex.packet_layers`), so that the wanted ones must not be of a higher one. Neither
    changes any other picture: their order and numbers do not enter the decoding of the rest.

    B-pictures that others are built on (pyramids) are decoded, needed or not. Which pictures use them is in lists inside
    the others' slice headers, which FFmpeg does not tell before it decodes, and those after them may: x264 by default
    lets P-pictures refer to the B-picture in the middle of the group before, and a decoder that leaves it out shows
    other pictures from there to the next key frame. VP9 and AV1 mark pictures as not shown, not as not used: all are
    decoded.

    Stops early, leaving frames out, at a frame that is incomplete: those after it may be built on it.
    """
    codec = index.container.streams.video[0].codec_context
    packets = enumerate(index.read_packets())
    layers = index.packet_layers
    for start, stop in plan_runs(index.packet_pts, index.packet_is_key, wanted):
        codec.flush_buffers()
        first_pts = index.packet_pts[start]
        highest = _highest([layers[at] for at in range(start, stop) if index.packet_pts[at] in wanted])
        for position, packet in packets:
            if position < start:
                continue
            layer = layers[position]
            needed = packet.pts in wanted or layer is None or highest is None or layer < highest
            codec.skip_frame = "DEFAULT" if needed else "NONREF"
            last = position == stop - 1
            frames = _decode(index, packet)
            for frame in (*frames, *_decode(index, None)) if last else frames:
                if not frame.is_corrupt:
                    yield frame
                elif frame.pts is None or first_pts is None or frame.pts >= first_pts:
                    return
            if last:
                break


def _highest(layers: Sequence[int | None]) -> int | None:
    known = [layer for layer in layers if layer is not None]
    return max(known) if len(known) == len(layers) else None


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
