"""Files that were cut, joined, thinned out or re-wrapped without being encoded anew: what they say of themselves is no longer so."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import av
import pytest
from made_videos import (
    GROUP,
    HEIGHT,
    NUM_FRAMES,
    PICTURES,
    WIDTH,
    Structure,
    number_of,
    packets_of,
    remux,
    vop_type,
    write_video,
)
from plain_decode import check, plain_decode

pytestmark = pytest.mark.filterwarnings("ignore")  # the encoders' chatter


def encoded(codec: str, options: dict[str, str], first: int, last: int) -> list[bytes]:
    """Packets of the numbered pictures from `first` to before `last`, headers inside."""
    context = av.CodecContext.create(codec, "w")
    context.width, context.height, context.pix_fmt = WIDTH, HEIGHT, "yuv420p"
    context.time_base, context.framerate = Fraction(1, 25), Fraction(25)
    context.thread_count, context.options = 1, options
    packets: list[bytes] = []
    for number in range(first, last):
        frame = PICTURES[number].reformat(format="yuv420p")
        frame.pts = number - first
        packets += map(bytes, context.encode(frame))
    return packets + [bytes(packet) for packet in context.encode(None)]


def without(packet: bytes, unwanted: Sequence[int], mask: int) -> bytes:
    """A packet without the parts whose first byte behind the start code, masked, is one of these."""
    parts = packet.split(b"\0\0\1")
    kept = [part for part in parts[1:] if part[0] & mask not in unwanted]
    return b"".join(b"\0\0\1" + part for part in kept)


X264 = "keyint=12:min-keyint=12:scenecut=0:bframes=2:b-adapt=0:"
JOINED = {
    # Another entropy coding, and other parameters of pictures alone.
    "h264": ("libx264", [{"x264-params": X264 + "cabac=1"}, {"x264-params": X264 + "cabac=0"}], (7, 8), 31),
    "h264-pictures": (
        "libx264",
        [{"x264-params": X264 + "chroma-qp-offset=0"}, {"x264-params": X264 + "chroma-qp-offset=6"}],
        (7, 8),
        31,
    ),
    "mpeg4": (
        "mpeg4",
        [{"g": "12", "bf": "2", "b": "800k"}, {"g": "12", "bf": "2", "b": "800k", "mpeg_quant": "1"}],
        range(0x20, 0x30),
        255,
    ),
}


@pytest.mark.parametrize("name", JOINED)
@pytest.mark.parametrize("is_repeated", [True, False])
@pytest.mark.parametrize("end", [".avi", ".mkv"])
def test_two_streams_joined_each_with_headers_of_its_own(name, is_repeated, end, tmp_path):
    """Repeated with every key frame, or once: decoding may not begin behind them."""
    codec, settings, headers, mask = JOINED[name]
    source, path = tmp_path / f"source{end}", tmp_path / f"joined{end}"
    assert write_video(source, Structure(name.partition("-")[0], 2), end[1:])
    one, other = encoded(codec, settings[0], 0, 24), encoded(codec, settings[1], 24, NUM_FRAMES)
    if not is_repeated:
        other = [other[0], *(without(packet, headers, mask) for packet in other[1:])]
    if end == ".avi":
        remux(source, path, one + other, lambda number: number % GROUP == 0)
    else:  # in an AVI first: with start codes, its header is in its packets
        bare = tmp_path / "bare.avi"
        assert write_video(bare, Structure(name.partition("-")[0], 2), "avi")
        remux(bare, path, one + other, lambda number: number % GROUP == 0)
    assert [number_of(frame) for frame in plain_decode(path)] == list(range(NUM_FRAMES))
    assert check(path) == []


@pytest.mark.parametrize("codec", ["h264", "mpeg4", "mpeg2", "msmpeg4"])
@pytest.mark.parametrize("lost", [1, 5, GROUP, GROUP + 1, 30])
def test_a_packet_is_lost(codec, lost, tmp_path):
    """Decoders then drop others, conceal, or complain; the frames are those that they hand out, or there is a reason."""
    source, path = tmp_path / "source.avi", tmp_path / "lost.avi"
    assert write_video(source, Structure(codec, 0 if codec == "msmpeg4" else 2), "avi")
    packets, _ = packets_of(source)
    del packets[lost]
    remux(source, path, packets, lambda number: number % GROUP == 0)
    assert check(path, may_refuse=True) == []


@pytest.mark.parametrize("codec", ["h264", "mpeg4", "hevc"])
@pytest.mark.parametrize("is_open", [False, True])
@pytest.mark.parametrize("begin", [GROUP, GROUP + 1, 20])
def test_a_file_goes_on_in_the_middle_of_another(codec, is_open, begin, tmp_path):
    """At a key frame, as tools that cut and join do it, or anywhere."""
    end = ".mkv" if codec == "hevc" else ".avi"
    source, path = tmp_path / f"source{end}", tmp_path / f"spliced{end}"
    assert write_video(source, Structure(codec, 2, is_open=is_open), end[1:])
    packets, _ = packets_of(source)
    remux(source, path, packets[:30] + packets[begin:], lambda number: number == 0)
    assert check(path, may_refuse=True) == []


@pytest.mark.parametrize("codec", ["h264", "mpeg2", "hevc"])
def test_transport_streams_one_behind_the_other(codec, tmp_path):
    """Their time stamps begin anew. (`cat a.ts b.ts`.)"""
    one, path = tmp_path / "one.ts", tmp_path / "two.ts"
    assert write_video(one, Structure(codec, 2), "ts")
    path.write_bytes(one.read_bytes() * 2)
    assert check(path, may_refuse=True) == []


@pytest.mark.parametrize("share", [0.2, 0.45, 0.7])
@pytest.mark.parametrize("codec", ["h264", "mpeg2", "mpeg4"])
def test_a_transport_stream_begins_anywhere(codec, share, tmp_path):
    whole, path = tmp_path / "whole.ts", tmp_path / "late.ts"
    assert write_video(whole, Structure(codec, 2, is_open=True), "ts")
    data = whole.read_bytes()
    path.write_bytes(data[: 3 * 188] + data[188 * int(share * len(data) / 188) :])
    assert check(path, may_refuse=True) == []


def test_frames_that_a_capture_dropped_are_no_frames(tmp_path):
    """A picture of MPEG-4 that only says "as before": a decoder hands out nothing for it."""
    source, path = tmp_path / "source.avi", tmp_path / "dropped.avi"
    assert write_video(source, Structure("mpeg4"), "avi")
    packets, _ = packets_of(source)
    as_before = b"\0\0\1\xb6" + bytes([0b01_0_1_0000, 0b0_1_0_01111])  # P, no second, a tick of 25, not coded
    remux(source, path, packets[:9] + [as_before] * 3 + packets[9:], lambda number: number == 0)
    assert [number_of(frame) for frame in plain_decode(path)] == list(range(NUM_FRAMES))
    assert check(path) == []


@pytest.mark.parametrize("end", [".avi", ".mkv", ".mp4"])
def test_another_encoder_s_name_behind_the_beginning(end, tmp_path):
    """FFmpeg makes up for the faults of XviD's and DivX's versions from the packet on that names them, as in a joined file."""
    source, path = tmp_path / "source.avi", tmp_path / f"named{end}"
    assert write_video(source, Structure("mpeg4", 2), "avi")
    packets, _ = packets_of(source)
    number = [at for at, packet in enumerate(packets) if vop_type(packet) == "I"][1]
    at = packets[number].index(b"\0\0\1\xb6")
    packets[number] = packets[number][:at] + b"\0\0\1\xb2XviD0046" + packets[number][at:]
    remux(source, path, packets)
    assert check(path) == []


def test_units_without_a_byte_are_passed_over(tmp_path):
    source, path = tmp_path / "source.avi", tmp_path / "empty.avi"
    assert write_video(source, Structure("h264", 2), "avi")
    packets, _ = packets_of(source)
    for number in (0, 5, 24):
        packets[number] = b"\0\0\1" + packets[number]
    remux(source, path, packets)
    assert check(path) == []
