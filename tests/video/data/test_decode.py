"""Frames by number: exact, equal from both decoders, whatever the file looks like."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest

from revit.video.data.decode import index as index_module
from revit.video.data.decode import libraries, pyav
from revit.video.data.decode.index import index_frames
from revit.video.data.decode.pyav import plan_runs
from revit.video.data.decode.read import VideoInfo, probe, read_frames, resolve_backend

BACKENDS = ["decord", "pyav"]

pytestmark = pytest.mark.filterwarnings("ignore")  # the encoders' chatter

FORMATS = {
    "b_frames": {"options": {"bf": "3", "g": "12"}},
    "long_group": {"num_frames": 300, "options": {"g": "250", "bf": "3"}},
    "no_b_frames": {"options": {"bf": "0"}},
    "open_group": {"options": {"x264-params": "open-gop=1:keyint=12:min-keyint=12:bframes=3:scenecut=0"}},
    "baseline": {"options": {"profile": "baseline"}},
    "matroska": {"name": "clip.mkv"},
    "transport": {"name": "clip.ts", "options": {"bf": "2", "g": "15"}},
    "fragmented": {"container_options": {"movflags": "frag_keyframe+empty_moov"}, "options": {"g": "10"}},
    "fast_start": {"container_options": {"movflags": "faststart"}},
    "width_not_divisible": {"width": 174, "height": 98},
    "odd_444": {"width": 161, "height": 97, "pixel_format": "yuv444p"},
    "full_range": {"pixel_format": "yuvj420p"},
    "bt709": {"colorspace": 1},
    "one_frame": {"num_frames": 1},
    "mpeg4": {"codec": "mpeg4", "name": "clip.avi"},
    "vp9": {"codec": "libvpx-vp9", "name": "clip.webm", "options": {"deadline": "realtime", "cpu-used": "8"}},
    "vp9_odd": {
        "codec": "libvpx-vp9",
        "name": "c.webm",
        "width": 161,
        "height": 97,
        "options": {"deadline": "realtime", "cpu-used": "8"},
    },
    "hevc": {"codec": "libx265", "options": {"preset": "ultrafast", "x265-params": "log-level=none:pools=1"}},
    "ten_bit": {"pixel_format": "yuv420p10le"},
    "av1": {"codec": "libsvtav1", "options": {"preset": "10", "crf": "2"}, "num_frames": 20},
}


@pytest.mark.parametrize("name", FORMATS)
def test_frames_are_those_asked_for_and_equal_from_both_decoders(name, make_video, numbers_of):
    path = make_video(**FORMATS[name])
    num_frames = FORMATS[name].get("num_frames", 60)
    random = np.random.default_rng(0)
    asked = [random.integers(0, num_frames, 9), np.array([num_frames - 1, 0, 0, num_frames - 1])]
    everything = read_frames(path, lambda info: range(info.num_frames), "pyav")
    assert numbers_of(everything) == list(range(num_frames))
    for numbers in asked:
        by_decord = read_frames(path, lambda info, n=numbers: n, "decord")
        by_pyav = read_frames(path, lambda info, n=numbers: n, "pyav")
        assert numbers_of(by_pyav) == numbers.tolist()
        assert np.array_equal(by_decord, by_pyav)
        assert np.array_equal(by_pyav, everything[numbers])


@pytest.mark.parametrize("name", ["b_frames", "bt709", "full_range", "vp9", "hevc", "mpeg4"])
def test_decord_really_answers_the_same_bits(name, make_video):
    """The equality above would also hold if decord were never asked."""
    index = index_frames(make_video(**FORMATS[name]))
    wanted = np.array([0, 7, 31, 59])
    by_decord, by_pyav = (libraries.read("decord", index, wanted), dict(pyav.read(index, set(wanted.tolist()))))
    index.container.close()
    assert by_decord is not None
    for picture, number in zip(by_decord, wanted.tolist()):
        assert np.array_equal(picture, by_pyav[number])


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_rotated_files_come_upright(rotation, make_video, numbers_of):
    path = make_video(rotation=rotation, num_frames=12)
    info = probe(path)
    upright = (96, 160) if rotation == 180 else (160, 96)
    assert (info.height, info.width) == upright
    assert info.rotation in (90, 180, 270)
    frames = {backend: read_frames(path, lambda _: [5, 1], backend) for backend in BACKENDS}
    assert frames["pyav"].shape == (2, *upright, 3)
    assert np.array_equal(frames["pyav"], frames["decord"])
    index = index_frames(path)
    by_decord = libraries.read("decord", index, np.array([1, 5]))
    index.container.close()
    assert by_decord is not None
    assert np.array_equal(by_decord, frames["pyav"][::-1])
    turned_back = np.rot90(frames["pyav"], -info.rotation // 90, axes=(1, 2))
    assert numbers_of(turned_back) == [5, 1]


@pytest.mark.parametrize("backend", BACKENDS)
def test_variable_frame_rate_counts_frames_as_shown(backend, make_video, numbers_of):
    gaps = np.random.default_rng(1).integers(1, 9, 60)
    path = make_video(times=np.cumsum(gaps).tolist(), fps=240, options={"g": "20"})
    info = probe(path)
    assert info.num_frames == 60
    assert info.duration_seconds == pytest.approx(gaps[1:].sum() / 240, abs=0.1)
    assert numbers_of(read_frames(path, lambda _: [59, 3, 31, 30], backend)) == [59, 3, 31, 30]


def test_variable_frame_rate_is_timed_by_its_stamps(make_video):
    """Matroska writes the rate that the encoder was told, whatever the frames' true spacing."""
    gaps = np.random.default_rng(1).integers(1, 9, 40)
    info = probe(make_video("clip.mkv", num_frames=40, times=np.cumsum(gaps).tolist(), fps=25))
    seconds = gaps[1:].sum() / 25
    assert info.fps == pytest.approx(39 / seconds, rel=1e-3)
    assert info.duration_seconds == pytest.approx(seconds * 40 / 39, rel=1e-3)


def test_constant_frame_rate_is_the_one_written(make_video):
    """Stamps in milliseconds would make 29.997 or the like of it."""
    assert probe(make_video("clip.mkv", fps=30)).fps == 30.0


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("num_lost", [5, 20])
def test_a_stream_cut_out_of_another_begins_at_its_first_key_frame(num_lost, backend, make_video, numbers_of, tmp_path):
    whole = make_video("whole.ts", options={"g": "30", "bf": "0", "sc_threshold": "0"})
    with av.open(whole) as container:
        places = [packet.pos for packet in container.demux(video=0) if packet.size]
    data = Path(whole).read_bytes()
    cut = tmp_path / "cut.ts"
    tables = data[: 3 * 188]  # without them nobody knows which packets are the video's
    cut.write_bytes(tables + data[places[30 - num_lost] :])
    assert numbers_of(read_frames(str(cut), lambda info: range(info.num_frames), backend)) == [*range(30, 60)]


def test_info_is_what_the_file_says(make_video):
    info = probe(make_video(num_frames=50, fps=25, width=176, height=144))
    assert info == VideoInfo(num_frames=50, fps=25.0, width=176, height=144, rotation=0, duration_seconds=2.0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_numbers_outside_the_file_are_refused(backend, make_video):
    path = make_video(num_frames=10)
    for numbers in ([10], [-1], []):
        with pytest.raises(IndexError, match="asked"):
            read_frames(path, lambda _, n=numbers: n, backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_container_that_promises_too_much_is_asked_again(backend, make_video, numbers_of, monkeypatch):
    """The list of frames has 20 more than can be decoded: the choice is repeated with the true number."""
    path = make_video(num_frames=30, options={"bf": "0"})
    true_index = index_frames

    def lying(path, quick=False):
        index = true_index(path, quick)
        more = [index.pts[-1] + 512 * (1 + number) for number in range(20)]
        info = replace(index.info, num_frames=50)
        return replace(index, info=info, pts=index.pts + more)

    monkeypatch.setattr("revit.video.data.decode.read.index_frames", lying)
    told = []

    def last_frames(info):
        told.append(info.num_frames)
        return [0, info.num_frames - 1]

    assert numbers_of(read_frames(path, last_frames, backend)) == [0, 29]
    assert told == [50, 30]


@pytest.mark.parametrize("size", [0, 1 << 30])
def test_files_too_large_to_keep_are_read_twice(size, make_video, numbers_of, monkeypatch):
    monkeypatch.setattr(index_module, "KEPT_BYTES", size)
    path = make_video(options={"g": "12"})
    assert numbers_of(read_frames(path, lambda _: [40, 2, 57], "pyav")) == [40, 2, 57]


def test_without_time_stamps_frames_are_counted(make_video, numbers_of):
    path = make_video("clip.h264", num_frames=40, options={"g": "12"})
    for backend in BACKENDS:
        assert numbers_of(read_frames(path, lambda info: [info.num_frames - 1, 7, 7], backend)) == [39, 7, 7]


def test_runs_begin_at_key_frames_and_reach_back_for_leading_pictures():
    # Shown: 0 1 2 3 | 6 is a key frame, 4 and 5 lead it | 8 is a key frame.
    stamps = [0, 3, 1, 2, 6, 4, 5, 7, 8, 9]
    keys = [number in (0, 6, 8) for number in stamps]
    assert plan_runs(stamps, keys, {9}) == [(8, 10)]
    assert plan_runs(stamps, keys, {7}) == [(4, 8)]
    assert plan_runs(stamps, keys, {5}) == [(0, 7)]
    assert plan_runs(stamps, keys, {1, 8}) == [(0, 3), (8, 9)]
    assert plan_runs(stamps, keys, {3, 4, 7}) == [(0, 8)]
    assert plan_runs(stamps, keys, set(stamps)) == [(0, 10)]


def test_decoding_does_not_import_torch():
    code = "import sys, revit.video.data.decode.worker; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_decoder_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr(libraries, "installed", lambda name: False)
    assert resolve_backend("auto") == "pyav"
    with pytest.raises(ValueError, match="'decord' is not installed"):
        resolve_backend("decord")
