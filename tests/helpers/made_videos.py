"""Video files of every kind that PyAV writes, whose frames carry their own number in a code that survives compression."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from av.packet import Packet

WIDTH, HEIGHT, NUM_FRAMES, GROUP = 128, 96, 48, 12
NUM_BITS = 6
LEFT, BAR = 4, 20
"""Pixels left of the first bar, and the width of each."""


def numbered_picture(number: int) -> np.ndarray:
    """Grey RGB (HEIGHT, WIDTH, 3) with `number` as six black or white bars in its middle, over light that moves."""
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    grey = (96 + (columns * 3 + rows * 2 + number * 7) % 64).astype(np.uint8)
    for bit in range(NUM_BITS):
        left = LEFT + bit * BAR
        grey[HEIGHT // 4 : 3 * HEIGHT // 4, left : left + BAR] = 235 if number >> bit & 1 else 16
    return np.stack([grey] * 3, -1)


def number_of(picture: np.ndarray) -> int:
    """The number that `numbered_picture` put there, at any size."""
    scale = picture.shape[1] / WIDTH
    middle = picture.shape[0] // 2
    row = picture[middle - 3 : middle + 3].mean(axis=(0, 2))
    bars = [row[int((LEFT + bit * BAR + 6) * scale) : int((LEFT + bit * BAR + 14) * scale)] for bit in range(NUM_BITS)]
    return sum(int(bar.mean() > 127) << bit for bit, bar in enumerate(bars))


PICTURES = [av.VideoFrame.from_ndarray(numbered_picture(number), format="rgb24") for number in range(NUM_FRAMES)]


@dataclass(frozen=True)
class Structure:
    """Codec and structure of a stream."""

    codec: str
    num_b: int = 0
    """B-frames between two others."""
    is_open: bool = False
    """Whether B-frames may be built on the key frame behind them."""
    interlaced: bool = False

    def __str__(self) -> str:
        ends = ("-open" if self.is_open else "", "-interlaced" if self.interlaced else "")
        return f"{self.codec}-b{self.num_b}{''.join(ends)}"


ENCODERS = {
    "h264": "libx264",
    "hevc": "libx265",
    "mpeg4": "mpeg4",
    "mpeg2": "mpeg2video",
    "mpeg1": "mpeg1video",
    "vp8": "libvpx",
    "vp8-hidden": "libvpx",
    "vp9": "libvpx-vp9",
    "vp9-hidden": "libvpx-vp9",
    "av1": "libsvtav1",
    "mjpeg": "mjpeg",
    "wmv1": "wmv1",
    "wmv2": "wmv2",
    "msmpeg4": "msmpeg4",
    "h263": "h263",
    "flv1": "flv",
    "ffv1": "ffv1",
}
HIDDEN = {"auto-alt-ref": "1", "lag-in-frames": "12", "cpu-used": "8", "g": str(2 * GROUP)}
"""Reference pictures that are never shown."""

STRUCTURES = (
    *(
        Structure(codec, num_b, is_open)
        for codec in ("h264", "hevc", "mpeg4", "mpeg2", "mpeg1")
        for num_b in (0, 1, 2, 3)
        for is_open in ((False, True) if num_b else (False,))
    ),
    *(
        Structure(codec, num_b, is_open, interlaced=True)
        for codec in ("h264", "mpeg4", "mpeg2")
        for num_b, is_open in ((0, False), (2, False), (2, True))
    ),
    *(Structure(codec) for codec in ENCODERS if codec not in ("h264", "hevc", "mpeg4", "mpeg2", "mpeg1")),
)

CONTAINERS: dict[str, tuple[str, str | None, dict[str, str]]] = {
    "avi": (".avi", None, {}),
    "asf": (".asf", None, {}),
    "wmv": (".wmv", None, {}),
    "mp4": (".mp4", None, {}),
    "mp4-fragmented": (".mp4", None, {"movflags": "frag_keyframe+empty_moov+default_base_moof"}),
    "mov": (".mov", None, {}),
    "mkv": (".mkv", None, {}),
    "webm": (".webm", None, {}),
    "ts": (".ts", "mpegts", {}),
    "mpg": (".mpg", None, {}),
    "vob": (".vob", "vob", {}),
    "flv": (".flv", None, {}),
    "3gp": (".3gp", None, {}),
    "ogv": (".ogv", None, {}),
}
"""End of the name, FFmpeg's name where the end does not tell it, options."""


def _options(structure: Structure) -> dict[str, str]:
    codec, num_b, is_open = structure.codec, structure.num_b, structure.is_open
    if codec in ("h264", "hevc"):
        groups = f"keyint={GROUP}:min-keyint={GROUP}:scenecut=0:bframes={num_b}:b-adapt=0:open-gop={int(is_open)}"
        if codec == "h264":
            return {"preset": "ultrafast", "x264-params": groups + (":tff=1" if structure.interlaced else "")}
        return {"preset": "ultrafast", "x265-params": f"log-level=none:pools=1:{groups}"}
    if codec in ("mpeg4", "mpeg2", "mpeg1"):
        flags = ("" if is_open else "+cgop") + ("+ildct+ilme" if structure.interlaced else "")
        options = {"g": str(GROUP), "bf": str(num_b), "sc_threshold": "1000000000", "b": "800k"}
        return options | ({"flags": flags} if flags else {})
    if codec.endswith("-hidden"):
        return HIDDEN
    if codec in ("vp8", "vp9"):
        return {"g": str(GROUP), "deadline": "realtime", "cpu-used": "8"}
    if codec == "av1":
        return {"g": str(GROUP), "preset": "9", "crf": "20", "svtav1-params": "lp=1"}
    if codec in ("mjpeg", "ffv1"):
        return {}
    return {"g": str(GROUP), "b": "800k"}


def write_video(path: Path, structure: Structure, container: str = "mp4", num_frames: int = NUM_FRAMES) -> bool:
    """Write a file; returns whether FFmpeg can put this codec into this container and read it back."""
    _, name, container_options = CONTAINERS[container]
    encoder = ENCODERS[structure.codec]
    try:
        with av.open(str(path), "w", format=name, options=container_options) as file:
            stream = file.add_stream(encoder, rate=25)
            stream.width, stream.height = WIDTH, HEIGHT
            stream.pix_fmt = "yuvj420p" if encoder == "mjpeg" else "yuv420p"
            stream.codec_context.thread_count = 1
            stream.options = _options(structure)
            for number in range(num_frames):
                frame = PICTURES[number].reformat(format=stream.pix_fmt)
                frame.pts = None
                file.mux(stream.encode(frame))
            file.mux(stream.encode())
        with av.open(str(path)) as file:  # some muxers write what their demuxers do not know
            return sum(1 for _ in file.decode(video=0)) > 0
    except (av.FFmpegError, ValueError, IndexError, AttributeError):
        return False


def packets_of(path: Path | str) -> tuple[list[bytes], bytes]:
    """The packets of a file's video, and its codec's header."""
    with av.open(str(path)) as file:
        packets = [bytes(packet) for packet in file.demux(video=0) if packet.size]
        return packets, file.streams.video[0].codec_context.extradata or b""


def remux(
    source: Path | str,
    target: Path,
    packets: Sequence[bytes],
    is_key: Callable[[int], bool] = lambda number: number == 0,
) -> None:
    """Write these packets as the video of `target`, one a frame, with the stream's settings of `source`."""
    with av.open(str(source)) as template, av.open(str(target), "w") as file:
        stream = file.add_stream_from_template(template.streams.video[0])
        for number, data in enumerate(packets):
            packet = Packet(data)
            packet.stream = stream
            packet.pts = packet.dts = number
            packet.time_base = 1 / template.streams.video[0].average_rate
            packet.is_keyframe = is_key(number)
            file.mux(packet)


STAND_IN = b"\x7f"
"""What XviD writes where a B-picture's own packet would be."""


def vop_type(packet: bytes) -> str:
    """I, P, B or S of the first picture in a packet of MPEG-4."""
    at = packet.index(b"\0\0\1\xb6")
    return "IPBS"[packet[at + 4] >> 6]


def packed(packets: Sequence[bytes], num_leading: int = 0) -> list[bytes]:
    """Packets of MPEG-4 as DivX and XviD pack them: a reference picture with the B-picture behind it, then the other
    B-pictures, then a stand-in. num_leading: stand-ins behind the first picture."""
    at = packets[0].index(b"\0\0\1\xb6")
    made = [packets[0][:at] + b"\0\0\1\xb2DivX503b1393p" + packets[0][at:], *[STAND_IN] * num_leading]
    number = 1
    while number < len(packets):
        reference = packets[number]
        number += 1
        behind: list[bytes] = []
        while number < len(packets) and vop_type(packets[number]) == "B":
            behind.append(packets[number])
            number += 1
        if behind:
            made += [reference + behind[0], *behind[1:], STAND_IN]
        else:
            made.append(reference)
    return made


def cut_beginning(path: Path, num_frames: int, rate: int = 25) -> None:
    """Have the edit list of an MP4 file begin `num_frames` later, as editors that do not encode anew do."""
    data = bytearray(path.read_bytes())
    at = data.rindex(b"elst") + 4
    movie_scale = struct.unpack_from(">I", data, data.rindex(b"mvhd") + 4 + 12)[0]
    media_scale = struct.unpack_from(">I", data, data.rindex(b"mdhd") + 4 + 12)[0]
    count, duration, begin = struct.unpack_from(">IIi", data, at + 4)
    assert count == 1
    duration -= num_frames * movie_scale // rate
    struct.pack_into(">IIi", data, at + 4, count, duration, begin + num_frames * media_scale // rate)
    path.write_bytes(data)
