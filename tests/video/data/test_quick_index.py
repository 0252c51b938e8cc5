"""Files listed from their headers alone: the same list as with a decoded picture, or it is noticed in time."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from revit.video.data.decode import index as index_module
from revit.video.data.decode import read as read_module
from revit.video.data.decode.index import index_frames
from revit.video.data.decode.read import read_frames
from revit.video.data.decode.scan import h264, hevc
from revit.video.data.decode.scan.bits import unit_places

pytestmark = pytest.mark.filterwarnings("ignore")  # the encoders' chatter

X265 = {"preset": "ultrafast", "x265-params": "log-level=none:pools=1"}
FORMATS = {
    "b_frames": ({"options": {"bf": "3", "g": "12"}}, True),
    "no_reorder_told": ({"options": {"bf": "3", "bsf": "h264_metadata"}}, True),
    "varying": ({"times": np.cumsum(np.arange(60) % 7 + 1).tolist(), "fps": 240}, True),
    "hevc": ({"codec": "libx265", "options": X265}, True),
    "mpeg4": ({"codec": "mpeg4"}, True),
    "rotated": ({"rotation": 90}, True),
    "fragmented": ({"container_options": {"movflags": "frag_keyframe+empty_moov"}}, False),
    "matroska": ({"name": "clip.mkv"}, False),
    "transport": ({"name": "clip.ts"}, False),
}


@pytest.mark.parametrize("name", FORMATS)
def test_the_list_of_frames_is_the_same(name, make_video):
    values, is_quick = FORMATS[name]
    path = make_video(**values)
    quick, careful = index_frames(path, quick=True), index_frames(path)
    quick.container.close(), careful.container.close()
    assert (quick.assumed, careful.assumed) == (is_quick, False)
    assert (quick.pts, quick.packets.pts, quick.packets.held) == (
        careful.pts,
        careful.packets.pts,
        careful.packets.held,
    )
    if name != "rotated":
        assert quick.info == careful.info
    assert quick.codec == careful.codec


def test_a_wrong_assumption_is_noticed_and_the_choice_repeated(make_video, numbers_of, monkeypatch):
    path = make_video()

    def wrong(path, quick=False):
        index = index_frames(path, quick)
        return replace(index, info=replace(index.info, width=320)) if quick else index

    told = []

    def choose(info):
        told.append(info.width)
        return [7, 3]

    monkeypatch.setattr(read_module, "index_frames", wrong)
    assert numbers_of(read_frames(path, choose)) == [7, 3]
    assert told == [320, 160]


def test_one_call_suffices_where_the_header_is_right(make_video, monkeypatch):
    calls, true_index = [], index_frames
    monkeypatch.setattr(read_module, "index_frames", lambda *args: calls.append(args[1:]) or true_index(*args))
    monkeypatch.setattr(index_module, "first_picture", None)  # would fail if it were called
    read_frames(make_video(), lambda _: [7, 3])
    assert calls == [(True,)]


def test_a_turn_asked_for_inside_the_stream_is_found():
    record = bytes([1, 100, 0, 30, 0xFF, 0xE0, 0])
    note, turn, slice_ = b"\x06\x05\x02ab\x80", b"\x06\xff\x01\x01a\x2f\x03abc\x80", b"\x65picture"

    def packet(*units: bytes) -> bytes:
        return b"".join(len(unit).to_bytes(4, "big") + unit for unit in units)

    # 0xff 0x01 is type 256, with one byte; then 0x2f is type 47.
    both = packet(note, slice_)
    assert [both[begin:end] for begin, end in unit_places(both, 4)] == [note, slice_]
    for units in itertools.permutations((note, turn, slice_)):
        assert h264.may_be_turned(record, packet(*units))
    assert not h264.may_be_turned(record, packet(note, slice_))
    assert h264.may_be_turned(b"", packet(note, slice_))  # unknown layout
    arrays = b"\x27\x00\x01\x00\x05" + b"\x4e\x01\x2f\x01a"
    header = bytes([1, *[0] * 20, 3, 1])
    assert hevc.may_be_turned(header + arrays, b"")
    assert not hevc.may_be_turned(header + arrays.replace(b"\x2f", b"\x05"), b"")
