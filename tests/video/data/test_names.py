"""A path is a file: whatever it is called, and whatever is in it that is no video."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
from av.stream import Disposition
from made_videos import Structure, number_of, write_video
from PIL import Image

from revit.video import probe, read_frames
from revit.video.data.decode import libraries
from revit.video.data.decode.opening import DecodeError, video_stream
from revit.video.data.decode.reader import FrameReader

pytestmark = pytest.mark.filterwarnings("ignore")  # the encoders' chatter

NAMES = [
    *("file:clip.mp4", "pipe:", "pipe:0", "http:x.mp4", "concat:a|b", "crypto:clip.mp4", "data:x", "cache:a", "fd:"),
    *(
        "tee:a",
        "async:x",
        "subfile,,start,1,end,2,,:x.mp4",
        "rtp:",
        "C:clip.mp4",
        "lavfi",
        "-x.mp4",
        "--",
        "-",
        "--help",
    ),
    *("a\nb.mp4", "a\tb", "%03d.mp4", "x?.mp4", "tile*.mp4", "[a].mp4", "clip#f.mp4", "é.mp4", "\\x.mp4", "x" * 240),
    *("a b \"c\" 'd'.mp4", "$(touch x)", "~", "list.m3u8", "picture.jpg", "clip.txt"),
]


@pytest.fixture
def clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clip; the tests stand in a folder beside it."""
    path = tmp_path / "clip.mp4"
    assert write_video(path, Structure("h264", 2))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return path


def test_any_name_is_a_file(clip, monkeypatch):
    asked = []
    true_read = libraries.read
    monkeypatch.setattr(libraries, "read", lambda *a: asked.append(true_read(*a)) or asked[-1])
    reader = FrameReader()
    for name in NAMES:
        shutil.copy(clip, os.path.join(".", name))
        for frames in (
            read_frames(name, [3, 17]),
            read_frames(Path(name), [3, 17], "decord"),
            reader.read(name, lambda _: [3, 17]),
        ):
            assert [number_of(frame) for frame in frames] == [3, 17], name
        assert probe(name).num_frames == 48
    reader.close()
    assert len(asked) == len(NAMES)
    assert all(frames is not None for frames in asked)  # decord itself, not PyAV in its place


def test_a_name_that_is_no_text_is_a_file(clip):
    name = os.fsdecode(b"\xff\xfe.mp4")
    shutil.copy(clip, name)
    reader = FrameReader()
    for frames in (read_frames(name, [3]), read_frames(name, [3], "decord"), reader.read(name, lambda _: [3])):
        assert number_of(frames[0]) == 3
    reader.close()


def test_what_is_not_a_video_is_said_to_be_what_it_is(clip):
    Path("list.mp4").write_text("#EXTM3U\n#EXTINF:10,\nhttp://127.0.0.1:9/x.ts\n")
    Path("more.mp4").write_text(f"ffconcat version 1.0\nfile '{clip}'\n")
    Path("words.mp4").write_text("Äpfel, Birnen\n" * 500, encoding="utf-8")
    picture = Image.fromarray(np.zeros((64, 64, 3), np.uint8))
    for kind in ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "AVIF"):
        picture.save(f"{kind}.mp4", format=kind)
    os.mkfifo("pipe.mp4")
    os.symlink("nowhere.mp4", "link.mp4")
    reasons = {
        "list.mp4": "playlist",
        "more.mp4": "playlist",
        "words.mp4": "text file",
        "pipe.mp4": "pipe",
        "/dev/null": "device",
        "link.mp4": "no such file",
        ".": "folder",
        "": "no such file",
        "a\0b": "not the name of a file",
        **{f"{kind}.mp4": "picture, not a video" for kind in ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "AVIF")},
    }
    for name, reason in reasons.items():
        with pytest.raises(DecodeError, match=reason):
            read_frames(name, [0])


def test_animated_pictures_are_videos(clip):
    pictures = [Image.fromarray(np.full((64, 64, 3), 40 * number, np.uint8)) for number in range(5)]
    for name in ("moving.png", "moving.gif"):
        pictures[0].save(name, save_all=True, append_images=pictures[1:], duration=40)
        assert probe(name).num_frames == 5
        assert [round(frame.mean() / 40) for frame in read_frames(name, [3, 1])] == [3, 1]


def test_a_playlist_inside_a_name_is_not_followed(clip):
    """Numbered pictures would be a film to FFmpeg, if the name were a pattern."""
    for number in range(3):
        Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(f"p{number}.png")
    with pytest.raises(DecodeError, match="no such file"):
        read_frames("p%d.png", [0])


def test_links_are_followed_as_the_system_follows_them(clip, tmp_path):
    (tmp_path / "elsewhere" / "deep").mkdir(parents=True)
    shutil.copy(clip, tmp_path / "elsewhere" / "other.mp4")
    os.symlink(tmp_path / "elsewhere" / "deep", "link")
    assert number_of(read_frames("link/../other.mp4", [5])[0]) == 5


def test_a_cover_picture_beside_the_video_is_not_read(clip):
    attached = Disposition.attached_pic
    with av.open(str(clip)) as source, av.open("covered.mp4", "w") as made:
        cover = made.add_stream("mjpeg", rate=25)
        cover.width, cover.height, cover.pix_fmt, cover.disposition = 64, 64, "yuvj420p", attached
        moving = made.add_stream_from_template(source.streams.video[0])
        made.mux(cover.encode(av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")))
        made.mux(cover.encode())
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = moving
                made.mux(packet)
    with av.open("covered.mp4") as made:
        assert sorted(bool(one.disposition & attached) for one in made.streams.video) == [False, True]
        for order in (1, -1):
            streams = SimpleNamespace(streams=SimpleNamespace(video=made.streams.video[::order]))
            assert video_stream(streams).codec_context.name == "h264"
    for decoder in ("pyav", "decord"):
        assert [number_of(frame) for frame in read_frames("covered.mp4", [9, 4], decoder)] == [9, 4]
