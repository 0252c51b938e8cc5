"""Pictures that no other is built on are left out, and what is read is what decoding the whole file gives."""

from __future__ import annotations

from collections.abc import Callable

import av
import numpy as np
import pytest

from revit.video.data.decode import pyav
from revit.video.data.decode.index import index_frames
from revit.video.data.decode.read import read_frames
from revit.video.data.decode.scan.hevc import HevcScanner
from revit.video.data.decode.scan.packets import NOTHING, Held

pytestmark = pytest.mark.filterwarnings("ignore")  # the encoders' chatter


def hevc(parameters: str, name: str = "clip.mp4") -> dict:
    settings = f"log-level=none:pools=1:keyint=20:scenecut=0:rc-lookahead=20:{parameters}"
    return {
        "name": name,
        "codec": "libx265",
        "options": {"preset": "ultrafast", "x265-params": settings},
        "num_frames": 48,
    }


PYRAMID = hevc("bframes=7:b-adapt=0:b-pyramid=1:ref=3")
WITH_UNUSED = {
    "hevc_b_frames": hevc("bframes=3:b-adapt=0:b-pyramid=0"),
    "hevc_pyramid": PYRAMID,
    "hevc_pyramid_in_matroska": PYRAMID | {"name": "clip.mkv"},
    "hevc_open_group": hevc("bframes=3:b-adapt=0:open-gop=1"),
    "hevc_closed_group": hevc("bframes=3:b-adapt=0:open-gop=0"),
    "hevc_sub_layers": hevc("bframes=3:b-adapt=0:temporal-layers=2"),
    "hevc_slices_and_repeated_headers": hevc("bframes=3:b-adapt=0:slices=2:repeat-headers=1:aud=1:hash=1"),
    "hevc_in_a_transport_stream": hevc("bframes=3:b-adapt=0:b-pyramid=0:open-gop=0", "clip.ts"),
    "h264_pyramid": {"options": {"bf": "7", "g": "20", "b_strategy": "0"}, "num_frames": 48},
    "h264_open_group": {
        "options": {"x264-params": "open-gop=1:keyint=20:min-keyint=20:bframes=3:b-adapt=0:scenecut=0"},
        "num_frames": 48,
    },
}
ALL_DECODED = {
    "hevc_without_b_frames": hevc("bframes=0"),
    # Reference pictures that are never shown, in one packet with one that is.
    "vp9_hidden_pictures": {
        "codec": "libvpx-vp9",
        "name": "clip.webm",
        "options": {"cpu-used": "8", "lag-in-frames": "12", "auto-alt-ref": "1", "g": "20"},
        "num_frames": 48,
    },
    "av1": {"codec": "libsvtav1", "options": {"preset": "12", "g": "10"}, "num_frames": 24},
}


def whole_file(path: str) -> np.ndarray:
    """Every frame, decoded by PyAV without anything of this project."""
    with av.open(path) as container:
        container.streams.video[0].codec_context.thread_count = 1
        frames = [
            frame.reformat(format="rgb24", interpolation="BILINEAR", threads=1).to_ndarray()
            for frame in container.decode(video=0)
        ]
    return np.stack(frames)


def count_decoded(path: str, numbers: list[int], held: list[Held] | None = None) -> tuple[int, int]:
    """Pictures that come out of the decoder for these frames, and packets of the runs that hold them."""
    index = index_frames(path, quick=True)
    packets = index.packets
    packets.held = held or packets.held
    assert index.pts is not None
    wanted = {index.pts[number] for number in numbers}
    decoded = list(pyav._decode_runs(index, wanted))
    runs = pyav.plan_runs(packets.pts, [bool(one.entry) for one in packets.held], wanted)
    index.container.close()
    assert wanted <= {frame.pts for frame in decoded}
    return len(decoded), sum(stop - start for start, stop in runs)


@pytest.mark.parametrize("name", [*WITH_UNUSED, *ALL_DECODED])
def test_every_frame_is_that_of_the_whole_file(name, make_video):
    settings = {**WITH_UNUSED, **ALL_DECODED}[name]
    path = make_video(**settings)
    expected = whole_file(path)
    assert len(expected) == settings["num_frames"]
    for number in range(len(expected)):  # alone, so that all others may be left out
        assert np.array_equal(read_frames(path, lambda _, n=number: [n])[0], expected[number]), number
    some = np.random.default_rng(0).choice(len(expected), 5, replace=False)
    assert np.array_equal(read_frames(path, lambda _: some), expected[some])
    last = len(expected) - 1
    decoded, held = count_decoded(path, [last // 3, last])
    assert decoded < held if name in WITH_UNUSED else decoded == held


def test_marks_hold_for_their_own_sub_layer_and_those_below(make_video):
    """A picture of a higher sub-layer may be built on one that is marked as unused in a lower one."""
    path = make_video(**PYRAMID)
    index = index_frames(path)
    index.container.close()
    assert {held.layer for held in index.packets.held} == {0}
    first, wanted = min(index.pts), index.pts[10]

    def with_layers(layer_at: Callable[[int], int | None]) -> list[Held]:
        return [held._replace(layer=layer_at(pts)) for held, pts in zip(index.packets.held, index.packets.pts)]

    some, held = count_decoded(path, [10])
    assert some < held
    for layer in (1, None):
        raised = with_layers(lambda pts, layer=layer: layer if pts == wanted else 0)
        assert count_decoded(path, [10], held=raised) == (held, held)
    # Those of higher ones than the wanted ones are not needed either; those of which nothing is known are.
    above = with_layers(lambda pts: 0 if pts in (first, wanted) else 3)
    assert count_decoded(path, [10], held=above) == (some, held)
    unknown = with_layers(lambda pts: 0 if pts in (first, wanted) else None)
    assert count_decoded(path, [10], held=unknown) == (held, held)


def test_sub_layers_are_read_from_the_units():
    message, second_view, picture = (bytes([39 << 1, 4, 1]), bytes([1 << 1, 1 << 3 | 6, 128]), bytes([0, 3, 128]))
    units = (message, second_view, picture)
    with_lengths = b"".join(len(unit).to_bytes(4, "big") + unit for unit in units)
    with_start_codes = b"".join(b"\0\0\1" + unit for unit in units)
    record = bytes([1, *[0] * 20, 3, 0])  # lengths of four bytes
    for header, data in ((record, with_lengths), (b"", with_start_codes)):
        assert HevcScanner(header).scan(av.Packet(data)) == Held(layer=2)
        assert HevcScanner(header).scan(av.Packet(data[:12])) == NOTHING  # no picture in it


def test_a_picture_that_may_stay_hidden_makes_the_count_uncertain():
    """`output_flag_present_flag` in a picture parameter set: slices may say that their picture is not shown."""
    for flag, is_exact in ((0, True), (1, False)):
        parameters = bytes([34 << 1, 1, 0b11000000 | flag << 4])  # two numbers of 0, then two flags
        assert HevcScanner(b"\0\0\1" + parameters).is_exact is is_exact
