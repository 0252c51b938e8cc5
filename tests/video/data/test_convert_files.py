"""One clip converted: every frame is read by its number as before, upright, at its time, in its colours, smaller and faster."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from made_videos import NUM_FRAMES, Structure, number_of, packed, packets_of, remux, write_video

from revit.common.system.errors import UserError
from revit.video.data.convert.clip import (
    CheckError,
    ConvertSettings,
    check_clip,
    check_frame,
    encode_clip,
    psnr,
    resized,
    rounded_down,
    target_size,
)
from revit.video.data.decode.index import index_frames
from revit.video.data.decode.read import DecodeError, probe, read_frames

SMALL = ConvertSettings(short_side=64)
UNEVEN = [0, 100, 133, 500, 533, 900, 1000, 1040, 1300, 1301, 1900, 2000]


def convert(source, tmp_path, settings=SMALL):
    """The new file, its settings' limit having been met."""
    target = str(tmp_path / "converted.mp4")
    written = encode_clip(source, target, settings, lambda: None)
    assert check_clip(source, target, written, settings) >= settings.smallest_psnr
    return target


def every(path):
    return read_frames(path, lambda info: range(info.num_frames))


def test_the_shorter_side_is_shrunk_and_never_enlarged():
    assert target_size(340, 256, 256) == (340, 256)
    assert target_size(1280, 720, 256) == (456, 256)
    assert target_size(720, 1280, 256) == (256, 456)
    assert target_size(175, 143, 256) == (174, 142)
    assert target_size(1, 300, 256) == (2, 300)
    for width in range(257, 600, 7):
        short, long = sorted(target_size(width, 2 * width, 256))
        assert short == 256
        assert long % 2 == 0
        assert abs(long - 512) <= 1


@pytest.mark.parametrize("name", ["short_side=255", "gop=0", "crf=0", "crf=51"])
def test_impossible_settings_are_refused(name):
    key, value = name.split("=")
    with pytest.raises(UserError, match=f"--{key.replace('_', '-')} {value}"):
        ConvertSettings(**{key: int(value)})


@pytest.mark.parametrize(
    "made",
    [
        {},
        {"width": 96, "height": 160},
        {"width": 161, "height": 95, "pixel_format": "yuv444p"},
        {"width": 40, "height": 32},
        {"name": "b.mkv", "options": {"g": "50", "bf": "5"}},
        {"name": "b.avi", "codec": "mpeg4", "options": {"bf": "2", "g": "30"}},
        {"name": "b.ts"},
        {"name": "b.flv"},
        {"name": "b.webm", "codec": "libvpx-vp9"},
        {"codec": "libx265", "options": {"x265-params": "log-level=none"}},
        {"fps": 12, "num_frames": 1},
        {"pixel_format": "yuv420p10le"},
        {"pixel_format": "yuvj420p"},
        {"pixel_format": "gray"},
        {"pixel_format": "yuv422p"},
        {"colorspace": 1},
        {"colorspace": 5, "color_range": 2},
    ],
    ids=str,
)
def test_all_frames_keep_their_numbers(make_video, numbers_of, tmp_path, made):
    source = make_video(**made)
    target = convert(source, tmp_path)
    old, new = probe(source), probe(target)
    assert (new.width, new.height) == target_size(old.width, old.height, 64)
    assert new.fps == pytest.approx(old.fps, rel=1e-3)
    assert new.duration_seconds == pytest.approx(old.duration_seconds, rel=1e-3, abs=0.002)
    assert numbers_of(every(target)) == numbers_of(every(source)) == list(range(old.num_frames))


@pytest.mark.parametrize("rotation", [90, 180, 270])
@pytest.mark.parametrize("height", [96, 98])
def test_rotated_clips_come_upright_without_the_tag(make_video, tmp_path, rotation, height):
    source = make_video(rotation=rotation, height=height, num_frames=20)
    target = convert(source, tmp_path, ConvertSettings(short_side=80))
    assert probe(target).rotation == 0
    frames, converted = every(source), every(target)
    for one, other in zip(frames, converted):
        assert psnr(resized(one, other.shape[1], other.shape[0]), other) > 30


def test_uneven_times_stay(make_video, numbers_of, tmp_path):
    source = make_video(num_frames=len(UNEVEN), fps=1000, times=UNEVEN, options={"bf": "2"})
    target = convert(source, tmp_path)
    index = index_frames(target)
    with index.container as container:
        unit = container.streams.video[0].time_base
        assert [round(1000 * float((pts - index.pts[0]) * unit)) for pts in index.pts] == UNEVEN
    assert numbers_of(every(target)) == list(range(len(UNEVEN)))


def test_colours_are_those_of_the_source(make_video, tmp_path):
    for tags in ({"colorspace": 1}, {"colorspace": 5, "color_range": 2}, {"pixel_format": "yuvj420p"}):
        source = make_video(num_frames=4, **tags)
        target = convert(source, tmp_path, ConvertSettings(crf=4))
        shift = every(target).astype(int).mean((0, 1, 2)) - every(source).mean((0, 1, 2))
        assert np.abs(shift).max() < 1.5


def test_what_is_written_is_quick_to_read(make_video, tmp_path):
    source = make_video(num_frames=60, options={"g": "60"})
    target = convert(source, tmp_path, ConvertSettings(short_side=64, gop=16))
    with av.open(target) as container:
        assert [stream.type for stream in container.streams] == ["video"]
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert container.format.name.startswith("mov,mp4")
        packets = [packet for packet in container.demux(stream) if packet.size]
        assert [number for number, packet in enumerate(packets) if packet.is_keyframe] == [0, 16, 32, 48]
        shown = sorted(packets, key=lambda packet: packet.pts)
        # The first byte behind a slice's length says whether other frames are built on it. (Packet 0 begins with a note.)
        unused = [number for number, packet in enumerate(shown) if bytes(packet)[4] >> 5 & 3 == 0 and number]
        assert unused == [number for number in range(60) if number % 16 not in (0, 8, 15) and number != 59]
    head = Path(target).read_bytes()[:4096]
    assert head.index(b"moov") < 100


def test_a_larger_crf_makes_a_smaller_file(make_video, tmp_path):
    source = make_video()
    sizes = []
    for crf in (10, 18, 30):
        target = convert(source, tmp_path, ConvertSettings(crf=crf))
        sizes.append(Path(target).stat().st_size)
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > 1.5 * sizes[2]


def test_broken_files_say_why(make_video, tmp_path):
    whole = make_video(options={"g": "10"})
    data = Path(whole).read_bytes()
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(data[: len(data) // 2])
    text = tmp_path / "text.mp4"
    text.write_text("no video")
    sound = tmp_path / "sound.mp4"
    with av.open(str(sound), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux([*stream.encode(frame), *stream.encode()])
    for path, reason in ((cut, "cut off|truncated"), (text, "text file"), (sound, "no video stream")):
        with pytest.raises(DecodeError, match=reason):
            encode_clip(str(path), str(tmp_path / "out.mp4"), SMALL, lambda: None)


def test_the_check_finds_a_frame_too_few_a_later_one_and_another_rate(make_video, tmp_path):
    source = make_video(num_frames=30)
    target = str(tmp_path / "out.mp4")
    written = encode_clip(source, target, SMALL, lambda: None)
    with pytest.raises(CheckError, match="30 frames became 29"):
        check_clip(source, make_video("short.mp4", num_frames=29), written, SMALL)
    encode_clip(make_video("late.mp4", num_frames=30, fps=24), target, SMALL, lambda: None)
    with pytest.raises(CheckError, match="too early or too late"):
        check_clip(source, target, written, SMALL)


def test_the_check_finds_another_picture(make_video, tmp_path):
    source = make_video(num_frames=30)
    target = str(tmp_path / "out.mp4")
    written = encode_clip(make_video("upside_down.mp4", rotation=180, num_frames=30), target, SMALL, int)
    with pytest.raises(CheckError, match="differs from its source"):
        check_clip(source, target, written, SMALL)


def test_noise_is_no_reason_to_refuse_a_clip(tmp_path):
    source = str(tmp_path / "noise.mp4")
    random = np.random.default_rng(0)
    with av.open(source, "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "10", "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = 160, 128, "yuv420p"
        stream.codec_context.thread_count = 1
        for _ in range(8):
            picture = random.integers(0, 256, (128, 160, 1), dtype=np.uint8).repeat(3, 2)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    for settings in (ConvertSettings(), ConvertSettings(short_side=64, crf=28)):
        convert(source, tmp_path, settings)


@pytest.mark.parametrize("divisors", [(3, 7), (2, 9), (4, 5)])
def test_the_average_rate_of_a_clip_with_frames_left_out_stays(divisors, make_video, numbers_of, tmp_path):
    """The spacing of its last frames is not that of the others, and B-frames are decoded in another order."""
    times = [number for number in range(58) if any(number % one == 0 for one in divisors)]
    source = make_video(times=times, num_frames=len(times), options={"bf": "3"})
    target = convert(source, tmp_path)
    assert probe(target).fps == pytest.approx(probe(source).fps, rel=1e-3)
    assert numbers_of(every(target)) == list(range(len(times)))


@pytest.mark.parametrize("num_b", [0, 1, 2, 3])
@pytest.mark.parametrize("kind", ["plain", "packed", "packed with stand-ins in front", "re-wrapped"])
def test_every_frame_of_an_avi_keeps_its_place(num_b, kind, tmp_path):
    source, path, target = (tmp_path / name for name in ("plain.avi", "source.avi", "new.mp4"))
    assert write_video(source, Structure("mpeg4", num_b), "avi")
    packets, _ = packets_of(source)
    if kind.startswith("packed"):
        packets = packed(packets, num_leading=2 if "front" in kind else 0)
    elif kind == "re-wrapped":  # with times of decoding for those of showing
        path = tmp_path / "source.mp4"
    remux(source, path, packets)
    settings = ConvertSettings()
    written = encode_clip(str(path), str(target), settings, lambda: None)
    check_clip(str(path), str(target), written, settings)
    assert [number_of(frame) for frame in every(str(target))] == list(range(NUM_FRAMES))
    assert probe(str(target)).fps == pytest.approx(25, rel=1e-3)


def test_what_is_below_a_limit_reads_so(make_video, tmp_path):
    """28.0 is not below 28.0."""
    assert rounded_down(27.96) == "27.9"
    assert rounded_down(28.0) == "28.0"
    assert rounded_down(-0.04) == "-0.1"


def test_a_poor_frame_is_kept_if_it_is_the_right_one(make_video, tmp_path):
    """Below the usual limit it is compared with the frames beside it, too."""
    source, target = make_video(num_frames=30), str(tmp_path / "out.mp4")
    settings = ConvertSettings(short_side=64, crf=40)
    written = encode_clip(source, target, settings, lambda: None)
    strict = ConvertSettings(short_side=64, crf=1)  # asks for 28 dB
    worst = check_clip(source, target, written, strict)
    assert strict.smallest_psnr - 6 < worst < strict.smallest_psnr


def test_a_poor_frame_that_is_another_one_is_found():
    """23 dB against its own source, 27 against the one behind."""
    random = np.random.default_rng(0)
    picture = random.integers(60, 200, (48, 64, 1)).repeat(3, 2)

    def away(decibels: float) -> np.ndarray:
        noise = random.choice([-1, 1], (48, 64, 1)) * 255 / 10 ** (decibels / 20)
        return (picture + noise).round().astype(np.uint8)

    sources = {4: away(15), 5: away(23), 6: away(27)}
    with pytest.raises(CheckError, match=r"frame 5 is rather frame 6 of its source: 27\.\d dB .* 2[23]\.\d"):
        check_frame(5, picture.astype(np.uint8), sources, ConvertSettings())
    assert check_frame(5, picture.astype(np.uint8), {5: away(23), 6: away(15)}, ConvertSettings()) > 22
