"""Clips that are shorter than the time a model's frames span."""

from __future__ import annotations

import re
from pathlib import Path

import av
import numpy as np
import pytest

from revit.common.system.distributed import ALONE
from revit.common.training.spoken import opening
from revit.common.training.stages import Run
from revit.video.data.clips import read_split
from revit.video.data.options import ClipOptions
from revit.video.data.spans import span_warning
from revit.video.modality import VideoModality
from revit.video.options import VideoRun


def write_clip(path: Path, num_frames: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=30, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(num_frames):
            pixels = np.full((48, 64, 3), number * 4 % 256, np.uint8)
            for packet in stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")):
                file.mux(packet)
        for packet in stream.encode():
            file.mux(packet)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Six clips of a second, and one that is damaged."""
    folder = tmp_path_factory.mktemp("clips")
    for number in range(6):
        write_clip(folder / "ab"[number % 2] / f"{number}.mp4", 30)
    (folder / "a" / "broken.mp4").write_bytes(b"\0" * 2000)
    return folder


def options(folder: Path, **frames) -> ClipOptions:
    data = {"source": {"train": str(folder)}, "frames": {"num_frames": 8, **frames}, "loading": {"num_workers": 0}}
    return ClipOptions.model_validate(data)


def warned(folder: Path, **frames) -> str | None:
    given = options(folder, **frames)
    return span_warning(read_split(given, "train"), given)


def test_frames_that_would_repeat_are_said_and_both_ways_out_are_ways_out(folder):
    line = warned(folder, sampling_rate=32)
    assert line is not None
    assert line.startswith("data.frames: 6 of 6 clips looked at are shorter than the 8.")
    (rate,) = re.findall(r"data\.frames\.sampling_rate=([\d.]+) or less", line)
    assert warned(folder, sampling_rate=float(rate)) is None
    assert "data.frames.sampling=segments" in line
    assert warned(folder, sampling_rate=32, sampling="segments") is None


def test_a_tenth_of_short_clips_is_let_pass(folder, tmp_path):
    for number in range(20):
        write_clip(tmp_path / f"{number}.mp4", 12 if number < 1 else 40)
    (tmp_path / "list.txt").write_text("".join(f"{tmp_path / str(number)}.mp4 0\n" for number in range(20)))
    assert warned(tmp_path / "list.txt", sampling_rate=4) is None


def test_a_run_says_it_at_its_start(folder, tmp_path):
    run = {"data": {"source": {"train": str(folder), "test": str(folder)}, "loading": {"num_workers": 0}}}
    settings = VideoRun.model_validate(run | {"run": {"dir": str(tmp_path)}})
    line, warnings = opening(Run(settings, VideoModality(), ALONE))
    assert line == "data: 7 clips, 2 classes (a, b); test 7, the same files as train"
    assert sum(text.startswith("data.frames: 6 of 6 clips") for text in warnings) == 1
