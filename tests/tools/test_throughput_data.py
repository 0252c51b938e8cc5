"""throughput.py --data: decoders, loaders and the model are measured on the files given, and one sentence says what to set."""

from __future__ import annotations

import json
from pathlib import Path

import av
import numpy as np
import pytest
import throughput
from PIL import Image

CLIPS = """
kind: video
data:
  frames: {num_frames: 2, sampling_rate: 2}
  pixels: {crop_size: 32, jitter_min: 36, jitter_max: 40}
  source: {train: elsewhere.csv, label_names: elsewhere.txt}
model: {grids: [4x4, 2x2], num_classes: 400, embed_dim: 16, depth: 1, num_heads: 2}
train: {batch_size: 2}
run: {dir: RUN_DIR, device: cpu}
"""
PICTURES = """
kind: image
data: {pixels: {img_size: 32}, source: {classes: 7}}
model: {name: deit_small, grids: [4x4], num_classes: 5, embed_dim: 16, depth: 1, num_heads: 2}
run: {dir: RUN_DIR, device: cpu}
"""
QUICK = ["--workers", "0,1", "--seconds", "4"]


@pytest.fixture
def config(tmp_path):
    def write(text):
        path = tmp_path / "tiny.yaml"
        path.write_text(text.replace("RUN_DIR", str(tmp_path / "run")))
        return str(path)

    return write


@pytest.fixture
def clips(tmp_path):
    """Two classes of two clips, a broken one in each."""
    for number, name in enumerate(("run/a", "run/b", "jump/a", "jump/b")):
        path = tmp_path / "clips" / f"{name}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("b"):
            path.write_text("no video")
            continue
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=25)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            stream.codec_context.thread_count = 1
            for shade in range(8):
                picture = np.full((48, 64, 3), 20 * shade + number, np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode())
    return tmp_path / "clips"


def test_clips(config, clips, tmp_path, capfd, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    out = tmp_path / "out.json"
    assert throughput.main(["--cfg", config(CLIPS), "--data", str(clips), *QUICK, "--json", str(out)]) == 0
    found = json.loads(out.read_text())
    assert found["files"]["listed"] == 4
    assert found["files"]["read"] == 2
    assert {Path(one["path"]).name for one in found["files"]["broken"]} == {"b.mp4"}
    assert found["decoders"][0]["name"] == "pyav"
    assert all(one["same_frames"] and one["ms"] > 0 for one in found["decoders"])
    assert [one["workers"] for one in found["loader"]] == [0, 1]
    assert min(value for one in found["loader"] for key, value in one.items() if key != "workers") > 0
    assert list(found["model"]["inputs_per_second"]) == ["4x4", "even mix"]
    assert found["model"]["training_per_second"] > 0
    assert found["model"]["views"] == 3
    assert found["set"] == {"data.loading.decoder": found["set"]["data.loading.decoder"], "data.loading.num_workers": 1}
    printed = capfd.readouterr().out
    assert printed.rstrip().endswith(found["advice"])
    assert "2 of the 4 files tried cannot be read:" in printed
    assert "is a text file, not a video" in printed
    assert "loading, 1 worker " in printed


def test_pictures_have_no_choice_of_decoders(config, tmp_path, capfd):
    random = np.random.default_rng(0)
    lines = []
    for number in range(6):
        path = tmp_path / "my pictures" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(random.integers(0, 256, (40, 48, 3), dtype=np.uint8)).save(path)
        lines.append(f"{path.name} {number % 3}")
    (tmp_path / "list.csv").write_text("\n".join(lines))
    out = tmp_path / "out.json"
    data = ["--data", str(tmp_path / "list.csv"), f"data.source.prefix={path.parent}"]
    assert throughput.main(["--cfg", config(PICTURES), *data, *QUICK, "--json", str(out)]) == 0
    found = json.loads(out.read_text())
    assert found["files"] == {"listed": 6, "read": 6, "broken": []}
    assert found["decoders"] == []
    assert found["set"] == {"data.loading.num_workers": 1}
    assert list(found["model"]["inputs_per_second"]) == ["4x4"]
    assert found["advice"].startswith("Set data.loading.num_workers=1: ")


def test_files_of_which_none_can_be_read_are_one_message(config, tmp_path, capfd):
    text = tmp_path / "text.mp4"
    text.write_text("no video")
    (tmp_path / "list.csv").write_text(f"{text} 0\n{tmp_path}/gone.mp4 1\n")
    assert throughput.main(["--cfg", config(CLIPS), "--data", str(tmp_path / "list.csv"), *QUICK]) == 2
    said = capfd.readouterr().err
    assert "none of the 2 files tried can be read" in said
    assert "Traceback" not in said
    assert throughput.main(["--cfg", config(CLIPS), "--data", str(tmp_path / "none.csv")]) == 2


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--data", "x", "--training"], "leave out --training"),
        (["--workers", "1"], "belong to --data"),
        (["--data", "x", "--seconds", "0"], "--seconds 0"),
        (["--data", "x", "--workers", "two"], "whole numbers from 0"),
    ],
)
def test_contradicting_arguments_end_with_status_two(config, capsys, arguments, part):
    with pytest.raises(SystemExit) as stopped:
        throughput.main(["--cfg", config(CLIPS), *arguments])
    assert stopped.value.code == 2
    assert part in capsys.readouterr().err
