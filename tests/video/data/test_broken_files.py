"""Every way a file can be broken ends in a DecodeError with a reason, from both decoders, and nothing else breaks."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import av
import numpy as np
import pytest

from revit.video.data.decode.read import DecodeError, read_frames


def read_eight(path: str, backend: str) -> np.ndarray:
    return read_frames(path, lambda info: np.linspace(0, info.num_frames - 1, 8).astype(int), backend)


def empty(path: Path, good: bytes) -> None:
    path.write_bytes(b"")


def text(path: Path, good: bytes) -> None:
    path.write_text("a shopping list, renamed\n" * 100)


def random_bytes(path: Path, good: bytes) -> None:
    path.write_bytes(np.random.default_rng(0).bytes(20_000))


def truncated(path: Path, good: bytes) -> None:
    path.write_bytes(good[: len(good) * 6 // 10])


def truncated_by_little(path: Path, good: bytes) -> None:
    path.write_bytes(good[:-40])


def garbled_middle(path: Path, good: bytes) -> None:
    junk = np.random.default_rng(1).bytes(len(good) // 5)
    start = len(good) // 2
    path.write_bytes(good[:start] + junk + good[start + len(junk) :])


def zeroed_middle(path: Path, good: bytes) -> None:
    start, length = len(good) // 2, len(good) // 5
    path.write_bytes(good[:start] + bytes(length) + good[start + length :])


def encrypted(path: Path, good: bytes) -> None:
    """As common encryption marks it: the pictures' real format is elsewhere, and what is in them is noise."""
    at = good.index(b"avc1", good.index(b"stsd"))
    pictures = good.index(b"mdat") + 4
    noise = np.random.default_rng(2).bytes(len(good) - pictures)
    path.write_bytes(good[:at] + b"encv" + good[at + 4 : pictures] + noise)


def audio_only(path: Path, good: bytes) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), format="fltp", layout="mono")
        frame.rate = 44100
        for packet in (*stream.encode(frame), *stream.encode()):
            container.mux(packet)


def zero_frames(path: Path, good: bytes) -> None:
    with av.open(str(path), "w", options={"movflags": "empty_moov"}) as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        container.start_encoding()


def missing(path: Path, good: bytes) -> None:
    path.unlink(missing_ok=True)


def folder(path: Path, good: bytes) -> None:
    path.mkdir()


REASONS = {
    empty: "empty",
    text: "text file",
    random_bytes: "not readable as a video",
    truncated: "truncated: .* of the 60 frames",
    truncated_by_little: "truncated",
    garbled_middle: "damaged",
    zeroed_middle: "damaged",
    encrypted: "encrypted",
    audio_only: "no video stream",
    zero_frames: "without a single frame|not readable|index",
    missing: "no such file",
    folder: "folder",
}


@pytest.mark.parametrize("backend", ["decord", "pyav"])
@pytest.mark.parametrize("breakage", REASONS, ids=lambda function: function.__name__)
def test_a_broken_file_is_refused_with_its_reason(breakage, backend, make_video, tmp_path):
    good = Path(make_video("good.mp4", container_options={"movflags": "faststart"})).read_bytes()
    path = tmp_path / "broken.mp4"
    breakage(path, good)
    with pytest.raises(DecodeError, match=REASONS[breakage]) as caught:
        read_eight(str(path), backend)
    assert caught.value.path == str(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("backend", ["decord", "pyav"])
def test_a_file_whose_index_was_cut_off_is_refused(backend, make_video, tmp_path):
    """Without fast start the index lies at the end; a recording that stopped never wrote it."""
    good = Path(make_video("good.mp4")).read_bytes()
    path = tmp_path / "broken.mp4"
    path.write_bytes(good[: good.rindex(b"moov") - 4])
    with pytest.raises(DecodeError, match=r"index \(moov box\) is missing"):
        read_eight(str(path), backend)


def test_a_file_without_permission_is_refused(make_video, monkeypatch):
    """As root every file can be read, so the system's answer is put in place there."""
    path = make_video("secret.mp4")
    os.chmod(path, 0)
    if os.access(path, os.R_OK):
        import builtins

        true_open = builtins.open

        def refusing(file, *args, **kwargs):
            if file == path:
                raise PermissionError(13, "Permission denied", file)
            return true_open(file, *args, **kwargs)

        monkeypatch.setattr(builtins, "open", refusing)
    with pytest.raises(DecodeError, match="permission denied"):
        read_eight(path, "pyav")


def test_empty_samples_in_the_index_are_not_frames(make_video, tmp_path, numbers_of):
    """A writer that promises more than it has: the size table lists 60 samples, the last 20 of them with no bytes."""
    path = Path(make_video("good.mp4", options={"bf": "0"}))
    data = bytearray(path.read_bytes())
    at = data.rindex(b"stsz") + 4  # version and flags, common size, count, sizes
    (count,) = struct.unpack_from(">I", data, at + 8)
    assert count == 60
    for sample in range(40, 60):
        struct.pack_into(">I", data, at + 12 + 4 * sample, 0)
    path.write_bytes(data)
    for backend in ("decord", "pyav"):
        frames = read_frames(str(path), lambda info: [0, info.num_frames - 1], backend)
        assert numbers_of(frames) == [0, 39]


def test_where_a_stream_without_an_index_was_cut_is_said(make_video, tmp_path):
    whole = Path(make_video("whole.ts", options={"bf": "2", "g": "15"})).read_bytes()
    for share in (0.3, 0.6, 0.8):
        path = tmp_path / "cut.ts"
        path.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(DecodeError, match=r"damaged at \d\.\d\d s: a frame is incomplete"):
            read_frames(str(path), lambda info: range(info.num_frames))
