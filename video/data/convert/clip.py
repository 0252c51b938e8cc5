"""One clip decoded whole, resized, and written as H.264: every frame under its number and its time. No torch here.

The new file is then compared with its source: the same number of frames, at the same times, showing the same.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from fractions import Fraction
from itertools import chain, pairwise, zip_longest
from typing import Any

import av
import numpy as np
from av.container import OutputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from numpy.typing import NDArray

from revit.common.system.errors import UserError, reason_of
from revit.video.data.decode.index import index_frames
from revit.video.data.decode.opening import opened_stream
from revit.video.data.decode.pyav import OtherFrames, same_size
from revit.video.data.decode.read import DecodeError, VideoInfo, read_frames
from revit.video.data.decode.whole import PlainDecode, decode_whole

Alive = Callable[[], object]

FORMAT = 1  # raised whenever equal settings would give other files
ENCODER = "libx264"
LIMITED_RANGE = 1  # FFmpeg's number for luma from 16 to 235, which is what yuv420p without a tag means

LUMA = np.array([0.299, 0.587, 0.114])
NOISE_ALLOWANCE = 6.0
"""dB by which a frame may stay below the usual limit: pure noise, encoded at any rate factor, stays within them."""
TIE = 0.5
"""dB by which a frame may resemble one beside its own more: pictures that differ by no more cannot be told apart."""
MOST_PSNR = 99.0  # dB of frames without any difference
FPS_TOLERANCE = 1e-3  # share by which the rates may differ: 300 frames of a clip then span the same 300


@dataclass(frozen=True)
class ConvertSettings:
    """Everything that a converted file depends on, its source apart."""

    short_side: int = 256
    """Pixels; larger clips are shrunk to it, smaller ones stay as they are."""
    gop: int = 16
    """Frames from one key frame to the next."""
    crf: int = 18
    """Constant rate factor of x264: less is better and larger."""

    def __post_init__(self) -> None:
        if self.short_side < 16 or self.short_side % 2:
            raise UserError(
                f"--short-side {self.short_side}: an even number from 16, as H.264 halves the colour planes"
            )
        if self.gop < 1:
            raise UserError(f"--gop {self.gop}: at least 1, which makes every frame a key frame")
        if not 1 <= self.crf <= 40:
            raise UserError(f"--crf {self.crf}: between 1 (large) and 40 (poor); 18 looks like the source")

    @property
    def encoder_options(self) -> dict[str, str]:
        """Options of libx264, chosen by measuring how long 8 frames take that are spread over a clip (README).

        CABAC alone doubles that time for 6 to 20 % of the size; of seven B-frames in a row, none of which others are built
        on, a reader leaves all undecoded but the one it wants.
        """
        return {
            "preset": "veryfast",
            "tune": "fastdecode",
            "crf": str(self.crf),
            "g": str(self.gop),
            "keyint_min": str(self.gop),
            "sc_threshold": "0",
            "bf": str(min(7, self.gop - 1)),
            "b_strategy": "0",
            "x264-params": "b-pyramid=none",
        }

    @property
    def smallest_psnr(self) -> float:
        """dB of luma that a frame must reach against its resized source, between 18 and 28.

        It is the error of a quantiser six steps coarser than asked for, as if all of its width were error. Another frame of
        a clip that moves is below.
        """
        step = 0.625 * 2 ** ((self.crf + 6) / 6)
        return min(28.0, max(18.0, 20 * math.log10(255 / step)))

    def fingerprint(self) -> dict[str, Any]:
        """Return the settings as JSON gives them back."""
        return {"format": FORMAT, "encoder": ENCODER, **asdict(self)}


def target_size(width: int, height: int, short_side: int) -> tuple[int, int]:
    """Return width and height with the shorter one at `short_side`, never enlarged, both even.

    The longer one is rounded to the nearest even number; those that are not shrunk, to the next lower one.
    """
    if min(width, height) <= short_side:
        return max(width - width % 2, 2), max(height - height % 2, 2)
    scale = short_side / min(width, height)
    return 2 * round(width * scale / 2), 2 * round(height * scale / 2)


@dataclass(frozen=True)
class Encoded:
    """A file that was written. seconds: when each frame is shown, from the first one on."""

    width: int
    height: int
    seconds: tuple[float, ...]


class LongerDecoded(Exception):
    """Uneven frames in the order in which they are decoded take longer than the clip."""


class OutputError(UserError):
    """The place cannot be written to: no other file could be written either."""


def encode_clip(source: str, target: str, settings: ConvertSettings, alive: Alive) -> Encoded:
    """Write `source` anew as `target`, upright, without audio. `alive` is called for every frame.

    Frames are those that decoding the whole file hands out. If these are not the ones that the file lists, it is decoded
    once more to learn their times first. `DecodeError` if the source is no whole video, `OutputError` without space or permission.
    """
    options = settings.encoder_options
    for times_of in (_listed_times, _decoded_times):
        with contextlib.suppress(OtherFrames):
            times = times_of(source, alive)
            with contextlib.suppress(LongerDecoded):
                return _encode(source, times, target, settings.short_side, options, alive)
            # Packets in the order of their frames have the frames' own distances.
            return _encode(source, times, target, settings.short_side, {**options, "bf": "0"}, alive)
    raise DecodeError(source, "damaged: decoding it twice gave other frames")


Times = tuple[VideoInfo, list[int] | None, Fraction | None]
"""Frames of a file, the time stamps by which they are known (None: they are only counted), and their unit in seconds."""


def _listed_times(source: str, alive: Alive) -> Times:
    index = index_frames(source)
    with index.container as container:
        if not index.is_numbered:
            raise OtherFrames
        return index.info, index.pts, opened_stream(container).time_base


def _decoded_times(source: str, alive: Alive) -> Times:
    whole = decode_whole(source, keep=False, alive=alive)
    return whole.info, whole.stamps, whole.unit


def _encode(source: str, times: Times, target: str, short_side: int, options: dict[str, str], alive: Alive) -> Encoded:
    """Encode a file. `OtherFrames` if not those of `times` come out, `LongerDecoded` if `options` do not suit them."""
    info, stamps, unit = times
    rate = Fraction(info.fps).limit_denominator(100_000)
    if stamps is None or unit is None:
        stamps, unit, begins = None, 1 / rate, list(range(info.num_frames + 1))
    else:
        begins = [stamp - stamps[0] for stamp in stamps]
        # The end that makes the average rate of the new file that of the old one: clips are spanned by it.
        begins.append(max(round(info.num_frames / info.fps / float(unit)), begins[-1] + 1))
    length_of = {begin: end - begin for begin, end in pairwise(begins)}
    with _output(target) as file, PlainDecode(source) as decode:
        frames = _expected(decode, info.num_frames, stamps, alive)
        first = next(frames)
        scaled, turns = target_size(first.width, first.height, short_side), info.rotation // 90
        width, height = scaled[::-1] if turns % 2 else scaled
        stream: Any = file.add_stream(ENCODER, rate=rate)
        stream.width, stream.height, stream.pix_fmt, stream.options = width, height, "yuv420p", options
        codec = stream.codec_context
        codec.thread_count = 1
        codec.time_base = stream.time_base = unit
        # Without these tags a reader would take other colours than it took from the source.
        codec.color_range, codec.colorspace = LIMITED_RANGE, first.colorspace
        codec.color_primaries, codec.color_trc = first.color_primaries, first.color_trc
        reformatter = VideoReformatter()

        def packets() -> Iterator[Packet]:
            # Behind the begins is the end: with it `frames` is asked for its end, too.
            for begin, frame in zip(begins, chain((first,), frames)):
                same_size(source, (first.height, first.width), frame)
                picture = reformatter.reformat(
                    frame,
                    *scaled,
                    format="yuv420p",
                    dst_color_range=LIMITED_RANGE,
                    interpolation=Interpolation.BICUBIC,
                    threads=1,
                )
                picture = _turned(picture, turns) if turns else picture
                picture.pict_type = 0  # the encoder decides, not the source
                picture.pts, picture.time_base = begin, unit
                yield from stream.encode(picture)
            yield from stream.encode(None)

        encoded = packets()
        last = next(encoded)
        end = begins[-1] + (last.dts or 0)
        for packet in encoded:
            last.duration = length_of.get(last.pts or 0, 1)
            file.mux(last)
            last = packet
        # MP4 notes the distances of packets as they are decoded, and readers take their sum for the length of the file: the
        # packet that is decoded last has the only one that is free to make it the length of the clip.
        last.duration = end - (last.dts or 0)
        if last.duration < 1:
            raise LongerDecoded
        file.mux(last)
    return Encoded(width, height, tuple(float(begin * unit) for begin in begins[:-1]))


def _expected(decode: PlainDecode, num_frames: int, stamps: list[int] | None, alive: Alive) -> Iterator[VideoFrame]:
    """Yield the decoded frames; `OtherFrames` at the first that has another stamp, is one too many, or is missing."""
    for number, frame in zip_longest(range(num_frames), decode):
        alive()
        if number is None or frame is None or (stamps is not None and frame.pts != stamps[number]):
            raise OtherFrames
        yield frame


def _turned(picture: VideoFrame, turns: int) -> VideoFrame:
    """Turn counter-clockwise by quarter turns, plane by plane."""
    rows, columns = picture.height, picture.width
    planes = picture.to_ndarray()  # (3/2 rows, columns): Y above U above V
    chroma = planes[rows:].reshape(2, rows // 2, columns // 2)
    turned = [np.rot90(plane, turns).ravel() for plane in (planes[:rows], *chroma)]
    width = rows if turns % 2 else columns
    return VideoFrame.from_ndarray(np.concatenate(turned).reshape(-1, width), format="yuv420p")


@contextlib.contextmanager
def _output(path: str) -> Iterator[OutputContainer]:
    """Open an MP4 file to write, its index in front. Errors of the source are DecodeErrors; any OSError is the target's."""
    try:
        with av.open(path, "w", format="mp4", options={"movflags": "+faststart"}) as file:
            yield file
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({reason_of(error).lower()})") from None


class CheckError(Exception):
    """The new file is not what its source is."""


def check_clip(source: str, target: str, written: Encoded, settings: ConvertSettings) -> float:
    """Return the smallest PSNR (dB, of luma) of the first, middle and last frame against the source's, resized.

    Each is read by its number from both files as a loader would read it. A frame below `settings.smallest_psnr` is kept all the
    same if it resembles its source more than the frames beside it: noise costs an encoder many bits and has few dB, in the
    right frame as well. `CheckError` for a difference, `DecodeError` if one of the files cannot be read so.
    """
    _check_times(target, written)
    before, old = _read_three(source, beside=1)
    after, new = _read_three(target, beside=0)
    if before.num_frames != after.num_frames:
        raise CheckError(f"{before.num_frames} frames became {after.num_frames}")
    if abs(after.fps / before.fps - 1) > FPS_TOLERANCE:
        raise CheckError(f"{before.fps:.3f} frames per second became {after.fps:.3f}")
    if (after.width, after.height, after.rotation) != (written.width, written.height, 0):
        raise CheckError(f"it is read with {after.width}x{after.height} pixels, turned by {after.rotation}")
    smaller = {number: resized(picture, written.width, written.height) for number, picture in old.items()}
    return min(check_frame(number, picture, smaller, settings) for number, picture in new.items())


def check_frame(
    number: int, picture: NDArray[np.uint8], sources: dict[int, NDArray[np.uint8]], settings: ConvertSettings
) -> float:
    """Return the PSNR of a new frame against its source. `CheckError` if it is another frame, or none at all."""
    own = psnr(sources[number], picture)
    if own >= settings.smallest_psnr:
        return own
    floor = settings.smallest_psnr - NOISE_ALLOWANCE
    if own < floor:
        decibels = f"{rounded_down(own)} dB, at least {floor:.1f} are wanted"
        raise CheckError(f"frame {number} differs from its source: {decibels}")
    others = [(psnr(sources[at], picture), at) for at in (number - 1, number + 1) if at in sources]
    most, beside = max(others, default=(own, number))
    if most > own + TIE:
        raise CheckError(
            f"frame {number} is rather frame {beside} of its source: {most:.1f} dB against that one, "
            f"{rounded_down(own)} against its own"
        )
    return own


def rounded_down(decibels: float) -> str:
    """Format with one digit, so that what is below a limit also reads so."""
    return f"{math.floor(10 * decibels) / 10:.1f}"


def psnr(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    """Return the PSNR of the luma of two RGB pictures (H, W, 3) in dB, at most `MOST_PSNR`."""
    error = float(np.mean(((one.astype(np.float64) - other) @ LUMA) ** 2))
    return MOST_PSNR if error == 0 else min(MOST_PSNR, 10 * float(np.log10(255**2 / error)))


def resized(picture: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    """Resize RGB (H, W, 3) to (height, width, 3)."""
    frame = VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
    smaller = frame.reformat(width, height, interpolation=Interpolation.BICUBIC)
    return smaller.to_ndarray().astype(np.uint8, copy=False)


def _read_three(path: str, beside: int) -> tuple[VideoInfo, dict[int, NDArray[np.uint8]]]:
    """Read the first, middle and last frame, with `beside` more on both sides: by number, (H, W, 3)."""
    known: dict[VideoInfo, list[int]] = {}

    def choose(info: VideoInfo) -> list[int]:
        last = info.num_frames - 1
        near = range(-beside, beside + 1)
        known[info] = sorted({min(max(at + step, 0), last) for at in (0, last // 2, last) for step in near})
        return known[info]

    frames = read_frames(path, choose, "pyav")
    info, wanted = known.popitem()  # what was told last
    return info, dict(zip(wanted, frames))


def _check_times(target: str, written: Encoded) -> None:
    index = index_frames(target)
    with index.container as container:
        unit = opened_stream(container).time_base
    if index.pts is None or unit is None:
        raise DecodeError(target, "its frames have no time stamps")
    seconds = [float((pts - index.pts[0]) * unit) for pts in index.pts]
    if len(seconds) != len(written.seconds):
        raise CheckError(f"{len(written.seconds)} frames became {len(seconds)}")
    moved = max(abs(one - other) for one, other in zip(seconds, written.seconds))
    if moved > max(float(unit), 1e-6):
        raise CheckError(f"a frame is shown {moved:.4f} s too early or too late")
