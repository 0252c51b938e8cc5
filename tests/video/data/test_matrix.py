"""Frame k is frame k: containers by codecs by structures, against a plain decode, pixel for pixel, by every decoder."""

from __future__ import annotations

from itertools import product

import av
import made_videos
import numpy as np
import pytest
from made_videos import (
    CONTAINERS,
    GROUP,
    NUM_FRAMES,
    STRUCTURES,
    Structure,
    number_of,
    packed,
    packets_of,
    remux,
    write_video,
)
from plain_decode import DECODERS, check, plain_decode

from revit.video import read_frames
from revit.video.data.decode import index as index_module
from revit.video.data.decode import whole as whole_module
from revit.video.data.decode.index import index_frames
from revit.video.data.decode.libraries import suits
from revit.video.data.decode.read import DecodeError, Wanted
from revit.video.data.decode.read import read_frames as read_chosen
from revit.video.data.decode.scan.packets import UnknownScanner

pytestmark = pytest.mark.filterwarnings("ignore")  # the encoders' chatter

SMALL = 48
"""Short side, pixels, where the decoder shrinks."""


MOVIES, WINDOWS = ("mp4", "mp4-fragmented", "mov"), ("avi", "asf", "wmv")
STREAMS = ("ts", "mpg", "vob")
WRITTEN: dict[str, tuple[str, ...]] = {
    "h264": (*MOVIES, *WINDOWS, *STREAMS, "mkv", "flv", "3gp"),
    "hevc": (*MOVIES, *STREAMS, "mkv", "flv"),
    "mpeg4": (*MOVIES, *WINDOWS, *STREAMS, "mkv", "3gp"),
    "mpeg2": (*MOVIES, *WINDOWS, *STREAMS, "mkv"),
    "mpeg1": (*MOVIES, *WINDOWS, *STREAMS, "mkv"),
    "vp8": (*WINDOWS, "mkv", "webm", "ogv"),
    "vp9": (*MOVIES[:2], *WINDOWS, "mkv", "webm", "flv"),
    "av1": (*MOVIES[:2], *WINDOWS, "mkv", "webm", "flv"),
    "mjpeg": (*MOVIES, *WINDOWS, "mkv"),
    "ffv1": (*MOVIES[:2], *WINDOWS, "mkv"),
    "wmv1": WINDOWS,
    "wmv2": WINDOWS,
    "msmpeg4": (*WINDOWS, "mkv", "mov"),
    "h263": (*WINDOWS, "mov", "3gp"),
    "flv1": (*WINDOWS, "flv"),
}
"""Containers that PyAV's FFmpeg writes a codec into and reads back."""


@pytest.mark.parametrize("structure", STRUCTURES, ids=str)
def test_every_frame_is_that_of_a_plain_decode(structure, tmp_path):
    wrong: dict[str, list[str]] = {}
    written = []
    for number, container in enumerate(CONTAINERS):
        path = tmp_path / f"{container}{CONTAINERS[container][0]}"
        if not write_video(path, structure, container):
            continue
        written.append(container)
        shown = [number_of(frame) for frame in plain_decode(path)]
        if shown != list(range(NUM_FRAMES)):
            wrong[f"{container}, plain decode"] = [f"{shown[:9]}"]
        if found := check(path, seed=number):
            wrong[container] = found
        small = plain_decode(path, SMALL)
        for decoder, numbers in product(DECODERS, ([40, 7, 18, 7], [23])):
            frames = read_chosen(str(path), lambda _, n=numbers: Wanted(n, SMALL), decoder)
            if not all(np.array_equal(frame, small[one]) for one, frame in zip(numbers, frames)):
                wrong[f"{container}, shrunk, {decoder}"] = [str([number_of(frame) for frame in frames])]
    assert sorted(written) == sorted(WRITTEN[structure.codec.partition("-")[0]])
    assert wrong == {}


@pytest.mark.parametrize("num_b", [1, 2, 3])
@pytest.mark.parametrize("num_leading", [0, 2])
@pytest.mark.parametrize("is_open", [False, True])
@pytest.mark.parametrize("end", [".avi", ".mkv", ".mp4"])
def test_packed_bitstreams(num_b, num_leading, is_open, end, tmp_path):
    """As XviD and DivX write them: some packets hold two pictures, others a stand-in, and any may be flagged as a key frame."""
    source, path = tmp_path / "plain.avi", tmp_path / f"packed{end}"
    write_video(source, Structure("mpeg4", num_b, is_open), "avi")
    packets = packed(packets_of(source)[0], num_leading)
    assert any(len(packet) == 1 for packet in packets)
    for is_key in (lambda number: number == 0, lambda number: len(packets[number]) == 1, lambda _: True):
        remux(source, path, packets, is_key)
        assert [number_of(frame) for frame in plain_decode(path)] == list(range(NUM_FRAMES))
        assert check(path) == []


@pytest.mark.parametrize(
    ("codec", "end"),
    [
        ("mpeg4", ".avi"),
        ("mpeg4", ".mp4"),
        ("mpeg4", ".mkv"),
        ("h264", ".avi"),
        ("h264", ".flv"),
        ("h263", ".avi"),
        ("h264", ".mp4"),
        ("h264", ".mkv"),
        ("mpeg2", ".mkv"),
        ("hevc", ".mp4"),
        ("hevc", ".mkv"),
    ],
)
def test_neither_key_frame_flags_nor_time_stamps_are_believed(codec, end, tmp_path):
    """Every packet flagged, or every third, and times that are those of decoding, as in a file that was once an AVI."""
    num_b = 0 if codec == "h263" else 2
    source, path = tmp_path / f"source{end}", tmp_path / f"flags{end}"
    assert write_video(source, Structure(codec, num_b), end[1:])
    packets, _ = packets_of(source)
    for is_key in (lambda _: True, lambda number: number % 3 == 0, lambda number: number % GROUP == 0):
        remux(source, path, packets, is_key)
        assert check(path) == []


@pytest.mark.parametrize("codec", ["h264", "hevc", "mpeg4"])
@pytest.mark.parametrize("num_b", [0, 2])
@pytest.mark.parametrize("num_cut", [1, 5, GROUP, 20])
def test_an_edited_file_begins_where_it_says(codec, num_b, num_cut, tmp_path):
    """Frames before the edit are decoded where others need them, and are not shown."""
    path = tmp_path / "edited.mp4"
    write_video(path, Structure(codec, num_b))
    made_videos.cut_beginning(path, num_cut)
    assert [number_of(frame) for frame in plain_decode(path)] == list(range(num_cut, NUM_FRAMES))
    assert check(path) == []


CUT = [
    (container, codec)
    for codec in ("h264", "hevc", "mpeg4", "mpeg2", "vp9", "av1")
    for container in WRITTEN[codec]
    if container not in ("wmv", "vob", "3gp")  # written as asf, mpg and mp4 are
]


@pytest.mark.parametrize(("container", "codec"), CUT)
def test_a_cut_file_is_refused_or_read_as_a_plain_decode_reads_it(container, codec, tmp_path):
    """Wherever it was cut."""
    path, whole = tmp_path / f"cut{CONTAINERS[container][0]}", tmp_path / f"whole{CONTAINERS[container][0]}"
    num_b = 0 if codec in ("vp9", "av1") else 2
    assert write_video(whole, Structure(codec, num_b), container)
    data = whole.read_bytes()
    for share in (0.31, 0.5, 0.77, 0.9, 0.99):
        path.write_bytes(data[: int(share * len(data))])
        try:
            frames = read_chosen(str(path), lambda info: range(info.num_frames))
        except DecodeError:
            continue
        try:
            expected = plain_decode(path)
        except av.FFmpegError:
            expected = []  # its last packet is what the reader was not asked for
        assert len(frames) == len(expected)
        assert all(np.array_equal(one, other) for one, other in zip(frames, expected))
        assert check(path) == []


@pytest.mark.parametrize("structure", [Structure("mpeg4", 2), Structure("h264", 3), Structure("mjpeg")], ids=str)
def test_files_and_pictures_too_large_to_be_kept(structure, tmp_path, monkeypatch):
    path = tmp_path / "clip.avi"
    write_video(path, structure, "avi")
    monkeypatch.setattr(index_module, "KEPT_BYTES", 0)
    assert check(path, decoders=("pyav",)) == []
    # As if nothing of its packets were understood: all of it is decoded, and decoded again for the frames.
    monkeypatch.setattr(whole_module, "HELD_BYTES", 1000)
    monkeypatch.setattr(index_module, "scanner_for", lambda codec: UnknownScanner())
    assert check(path, decoders=("pyav",)) == []


def test_decord_reads_what_is_proved_and_nothing_else(tmp_path):
    """MP4 with H.264 in closed groups, as Kinetics has it, is decord's; the open ones and AVI are not."""
    for structure, container, is_decords in (
        (Structure("h264", 3), "mp4", True),
        (Structure("h264"), "mkv", True),
        (Structure("h264", 2, is_open=True), "mp4", False),
        (Structure("h264"), "avi", False),
        (Structure("mpeg4", 2), "mp4", False),
        (Structure("h264"), "ts", False),
    ):
        path = tmp_path / f"clip{CONTAINERS[container][0]}"
        write_video(path, structure, container)
        index = index_frames(str(path))
        with index.container:
            assert suits("decord", index) is is_decords, (str(structure), container)


FEW = (
    (Structure("h264", 3, is_open=True), "mp4"),
    (Structure("h264", 2), "avi"),
    (Structure("mpeg4", 2, is_open=True), "avi"),
    (Structure("mpeg2", 3, is_open=True), "mpg"),
    (Structure("hevc", 3, is_open=True), "ts"),
    (Structure("vp8-hidden"), "webm"),
    (Structure("wmv2"), "wmv"),
    (Structure("mpeg4", 2, is_open=True, interlaced=True), "avi"),
)


@pytest.mark.parametrize(("structure", "container"), FEW, ids=lambda one: str(one))
def test_any_numbers_are_answered_by_their_frames(structure, container, tmp_path):
    """Numbers at random, as many and as often as they come: each answer is that of the whole file."""
    path = tmp_path / f"clip{CONTAINERS[container][0]}"
    assert write_video(path, structure, container)
    expected = plain_decode(path)
    random = np.random.default_rng(7)
    for _ in range(60):
        numbers = random.integers(0, len(expected), random.integers(1, 12)).tolist()
        frames = read_frames(path, numbers)
        assert [number_of(frame) for frame in frames] == numbers
        assert all(np.array_equal(frame, expected[one]) for one, frame in zip(numbers, frames))
