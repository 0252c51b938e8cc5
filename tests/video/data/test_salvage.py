"""Damaged and cut files: refused where nothing else is asked for, or read without the frames that are lost."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from made_videos import NUM_FRAMES, Structure, number_of, packets_of, remux, write_video

from revit.video import probe, read_frames
from revit.video.data.clips import build_eval_loader, build_train_loader
from revit.video.data.decode.index import VideoInfo
from revit.video.data.decode.opening import DecodeError
from revit.video.data.decode.read import read_frames as read_chosen
from revit.video.data.decode.reader import FrameReader
from revit.video.data.options import ClipOptions

pytestmark = pytest.mark.filterwarnings("ignore")  # the encoders' chatter

LOST = 25
"""The frame whose packet is damaged."""


@pytest.fixture
def damaged(tmp_path: Path) -> str:
    """A clip of intra pictures, so that one damaged packet costs one frame."""
    good, path = tmp_path / "good.avi", tmp_path / "damaged.avi"
    assert write_video(good, Structure("mjpeg"), "avi")
    packets, _ = packets_of(good)
    packets[LOST] = b"\0" * len(packets[LOST])
    remux(good, path, packets, lambda _: True)
    return str(path)


@pytest.fixture
def cut(tmp_path: Path) -> str:
    """An MP4 whose index lists more frames than are left of it."""
    whole, path = tmp_path / "whole.mp4", tmp_path / "cut.mp4"
    assert write_video(whole, Structure("h264"), "mp4")
    data = whole.read_bytes()
    at = data.index(b"mdat") - 4
    moov = data.index(b"moov") - 4
    # The index in front, as writers for the web put it; its places are those behind it.
    index = bytearray(data[moov:])
    places = index.index(b"stco") + 12
    for number in range(int.from_bytes(index[places - 4 : places], "big")):
        place = slice(places + 4 * number, places + 4 * number + 4)
        index[place] = (int.from_bytes(index[place], "big") + len(index)).to_bytes(4, "big")
    moved = data[:at] + bytes(index) + data[at:moov]
    path.write_bytes(moved[: len(moved) - (moov - at) // 3])
    return str(path)


def everything(path: str, damaged: str) -> tuple[VideoInfo, list[int]]:
    """What is said of a file, and the numbers that its frames carry."""
    told: list[VideoInfo] = []

    def choose(info: VideoInfo) -> range:
        told.append(info)
        return range(info.num_frames)

    frames = read_chosen(path, choose, damaged=damaged)
    return told[-1], [number_of(frame) for frame in frames]


def test_one_damaged_frame_is_refused_or_left_out(damaged):
    with pytest.raises(DecodeError, match=r"damaged at 1\.00 s"):
        everything(damaged, "refuse")
    info, numbers = everything(damaged, "salvage")
    assert numbers == [number for number in range(NUM_FRAMES) if number != LOST]
    assert (info.num_frames, info.num_lost) == (NUM_FRAMES - 1, 1)
    assert info.remark is not None
    assert info.remark.startswith("47 of 48 frames")
    assert [number_of(one) for one in read_frames(damaged, [LOST, 46], damaged="salvage")] == [LOST + 1, 47]


def test_what_is_there_of_a_cut_file_is_read(cut):
    with pytest.raises(DecodeError, match=r"truncated: \d+ of the 48 frames"):
        everything(cut, "refuse")
    info, numbers = everything(cut, "salvage")
    assert numbers == list(range(len(numbers)))
    assert 24 < len(numbers) < NUM_FRAMES
    assert info.num_frames + info.num_lost == NUM_FRAMES


def test_damage_is_known_where_it_is_read(damaged):
    """A loader that chooses other frames is not told; whoever asks for numbers is, as all of the file is decoded for that."""
    told: list[VideoInfo] = []
    frames = read_chosen(damaged, lambda info: told.append(info) or [3, 46], damaged="salvage")
    assert ([number_of(frame) for frame in frames], told[-1].num_lost) == ([3, 46], 0)
    assert [number_of(frame) for frame in read_frames(damaged, [3, 46], damaged="salvage")] == [3, 47]
    info = probe(damaged, damaged="salvage")
    assert (info.num_frames, info.num_lost) == (NUM_FRAMES - 1, 1)
    whole = read_frames(damaged, range(info.num_frames), damaged="salvage")
    assert len(whole) == info.num_frames
    assert probe(damaged).num_frames == NUM_FRAMES  # what its packets hold


@pytest.mark.parametrize("damaged_as", ["refuse", "salvage"])
def test_a_whole_file_says_nothing(damaged_as, tmp_path):
    path = tmp_path / "clip.mp4"
    assert write_video(path, Structure("h264", 2))
    info, numbers = everything(str(path), damaged_as)
    assert (numbers, info.num_lost, info.remark) == (list(range(NUM_FRAMES)), 0, None)


def test_what_is_no_video_is_refused_with_its_own_reason(tmp_path):
    path = tmp_path / "notes.mp4"
    path.write_text("a list of things to do\n" * 50)
    with pytest.raises(DecodeError, match="is a text file"):
        everything(str(path), "salvage")


def test_helper_processes_salvage_too(damaged):
    reader = FrameReader(damaged="salvage")
    told: list[VideoInfo] = []
    frames = reader.read(damaged, lambda info: told.append(info) or [LOST, info.num_frames - 1])
    reader.close()
    assert [number_of(frame) for frame in frames] == [LOST + 1, NUM_FRAMES - 1]
    assert told[-1].num_lost == 1


@pytest.mark.parametrize("workers", [0, 1])
def test_training_and_evaluation_refuse_and_count_or_read_and_name(workers, damaged, tmp_path, caplog):
    good = tmp_path / "good.avi"
    listed = tmp_path / "list.csv"
    listed.write_text(f"{damaged} 0\n{good} 1\n")

    def options(**loading: object) -> ClipOptions:
        return ClipOptions.model_validate(
            {
                "source": {"train": str(listed), "val": str(listed)},
                "frames": {"num_frames": NUM_FRAMES, "sampling_rate": 1, "target_fps": 25},
                "pixels": {"crop_size": 32, "jitter_min": 32, "jitter_max": 40},
                "loading": {"num_workers": workers, "max_broken_share": 1.0, **loading},
            }
        )

    refused = list(build_eval_loader(options(), "val", 1))
    assert [len(batch) for batch in refused] == [0, 1]
    assert [failure.path for batch in refused for failure in batch.failures] == [damaged]
    with caplog.at_level(logging.WARNING, "revit.data"):
        salvaged = build_eval_loader(options(damaged="salvage"), "val", 2)
        batches = [batch for _ in range(2) for batch in salvaged]
    assert [len(batch) for batch in batches] == [2, 2]
    (remark,) = batches[0].remarks
    assert (remark.id, remark.path) == (0, damaged)
    assert caplog.text.count("47 of 48 frames") == 1  # once, however many epochs
    assert salvaged.broken.num_broken == 0
    trained = build_train_loader(options(damaged="salvage"), 2, seed=0)
    assert [(len(batch), len(batch.remarks), batch.failures) for batch in trained] == [(2, 1, [])]


def test_what_earlier_runs_noted_is_what_runs_without_the_key_are_compared_with():
    assert "damaged" not in ClipOptions().model_dump(mode="json")["loading"]
    values = {"loading": {"damaged": "salvage"}}
    assert ClipOptions.model_validate(values).model_dump(mode="json")["loading"]["damaged"] == "salvage"
