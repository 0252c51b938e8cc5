"""predict from the command line: clips, folders, and everything that is neither."""

from __future__ import annotations

import itertools
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import psutil
import pytest
import torch
from made_videos import Structure, packets_of, remux, write_video
from PIL import Image
from predict import main

from revit.common.drawing.gallery import Gallery
from revit.common.drawing.sheet import looks_of
from revit.common.modality.load import build_assigner
from revit.common.models.grid import TokenGrid
from revit.common.models.reducer import Reducer, Shorter, TokenLayout
from revit.common.serving.engine import Engine
from revit.common.weights.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from revit.video.data.clips import load_views
from revit.video.data.options import ViewOptions
from revit.video.modality import build_model, open_classifier
from revit.video.options import VideoRun

NAMES = ("rise", "sink", "turn")
CONFIG: dict[str, Any] = {
    "data": {
        "frames": {"num_frames": 2, "sampling_rate": 4},
        "pixels": {"crop_size": 32, "jitter_min": 32, "jitter_max": 40, "mean": [0.3, 0.4, 0.5]},
        "test_views": {"num_temporal_views": 2, "num_crops": 1},
        "loading": {"decode_timeout_seconds": 0},
    },
    "model": {"grids": ["4x4", "2x2"], "embed_dim": 32, "depth": 1, "num_heads": 2},
    "assigner": {"size": 32, "width": 0.25},
    "run": {"dir": "runs/none"},
}


def write_clip(path: Path, seed: int = 0, size: tuple[int, int] = (48, 64)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.height, stream.width = size
        stream.pix_fmt, stream.options = "yuv420p", {"preset": "ultrafast"}
        for shift in range(10):
            frame = av.VideoFrame.from_ndarray(np.roll(picture, shift, axis=0), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with an assigner, one without names, and clips good and bad."""
    root = tmp_path_factory.mktemp("predict")
    torch.manual_seed(0)
    run = VideoRun.model_validate(CONFIG)
    model, assigner = build_model(run.model, run.data, len(NAMES)), build_assigner(run.assigner, 2)
    torch.nn.init.normal_(model.head.weight)
    config = run.model_dump(mode="json")
    parts = {"model": model.state_dict(), "assigner": assigner.state_dict()}
    save_checkpoint(root / "run" / "checkpoint.safetensors", Checkpoint("video", config, NAMES, parts))
    numbers = ["0", "1", "2"]
    save_checkpoint(root / "nameless", Checkpoint("video", config, numbers, {"model": model.state_dict()}))
    for number in range(3):
        write_clip(root / "clips" / "inner" / f"clip {number}.mp4", number)
    (root / "clips" / "notes.txt").write_text("no clip, and not asked for")
    (root / "clips" / "broken.mp4").write_text("this is text")
    (root / "text.txt").write_text("this is text")
    (root / "empty").mkdir()
    return root


def run_tool(place: Path, *arguments: Any) -> tuple[int, list[dict[str, Any]]]:
    out = place / "out.json"
    out.unlink(missing_ok=True)
    status = main(["--json", str(out), *map(str, arguments)])
    return status, json.loads(out.read_text()) if out.exists() else []


def test_every_input_gets_one_answer_or_one_error(place: Path, capsys: Any) -> None:
    big = write_clip(place / "big.mp4", size=(2160, 3840))
    paths = [place / "clips", place / "text.txt", place / "absent.mp4", place / "empty", big]
    status, rows = run_tool(place, "--checkpoint", place / "run" / "checkpoint.safetensors", *paths)
    assert status == 2
    names = [Path(row["path"]).name for row in rows]
    assert names == [
        *("broken.mp4", "clip 0.mp4", "clip 1.mp4", "clip 2.mp4"),
        *("text.txt", "absent.mp4", "empty", "big.mp4"),
    ]
    failed = [Path(row["path"]).name for row in rows if "error" in row]
    assert failed == ["broken.mp4", "text.txt", "absent.mp4", "empty"]
    for row in rows:
        if "error" not in row:
            assert sorted(guess["label"] for guess in row["top"]) == sorted(NAMES)
            assert sum(guess["probability"] for guess in row["top"]) == pytest.approx(1, abs=1e-4)
            assert row["grid"] in ("4x4", "2x2")
            assert row["ms"] == pytest.approx(row["ms_read"] + row["ms_compute"], abs=0.01)
    shown = capsys.readouterr()
    assert "clip 1.mp4" in shown.out
    assert "%  rise" in shown.out
    assert "text.txt: no answer: " in shown.err
    assert "Traceback" not in shown.err


def test_a_reader_that_leaves_takes_no_file_with_it(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[None] = []

    def gone(*_: Any, **__: Any) -> None:
        raise BrokenPipeError

    monkeypatch.setattr("predict._show", gone)
    monkeypatch.setattr("predict.print_nowhere", lambda: left.append(None))
    paths = [write_clip(place / "left" / f"{number}.mp4", number) for number in range(2)]
    status, answers = run_tool(place, "--checkpoint", place / "run", *paths)
    assert (status, [Path(answer["path"]).name for answer in answers]) == (0, ["0.mp4", "1.mp4"])
    assert left


def test_status_is_0_when_every_path_led_somewhere(place: Path) -> None:
    status, rows = run_tool(place, "--checkpoint", place / "run", place / "clips", "--topk", 2)
    assert status == 0
    assert len(rows) == 4
    assert all(len(row.get("top", "ab")) == 2 for row in rows)


@pytest.mark.parametrize("grid", ["4x4", "2"])
def test_a_grid_can_be_chosen(place: Path, grid: str) -> None:
    _, rows = run_tool(
        place, "--checkpoint", place / "run", place / "clips" / "inner", "--grid", grid, "--views", "2x3"
    )
    assert {row["grid"] for row in rows} == {TokenGrid.parse(grid).name}
    assert all(len(row["grids"]) == 6 for row in rows)


def test_the_answer_is_the_model_s(place: Path) -> None:
    classifier = open_classifier(str(place / "run"))
    clip = str(place / "clips" / "inner" / "clip 1.mp4")
    grid = TokenGrid(2, 2)
    with Engine(classifier, views="2x1", grid=grid, topk=3, dtype="float32", device="cpu") as predict:
        answer = predict(clip)
    pixels = load_views(clip, classifier.inputs.options, ViewOptions(num_temporal_views=2)).float() / 255
    mean, std = (torch.tensor(values).view(3, 1, 1, 1) for values in ((0.3, 0.4, 0.5), (0.225,) * 3))
    with torch.no_grad():
        logits = classifier.networks.model((pixels - mean) / std, grid).prediction
    expected = logits.mean(dim=0).softmax(dim=0)
    assert [guess.number for guess in answer.guesses] == expected.argsort(descending=True).tolist()
    for guess in answer.guesses:
        assert guess.probability == pytest.approx(float(expected[guess.number]), abs=1e-5)
        assert guess.label == NAMES[guess.number]


def test_a_stream_of_clips_left_early_ends_its_helper_processes(place: Path) -> None:
    classifier = open_classifier(str(place / "run"))
    options = classifier.inputs.options
    loading = options.loading.model_copy(update={"decode_timeout_seconds": 60.0})
    inputs = replace(classifier.inputs, options=options.model_copy(update={"loading": loading}))
    clips = itertools.cycle(str(place / "clips" / "inner" / f"clip {number}.mp4") for number in range(3))

    def helpers() -> set[int]:
        running = psutil.Process().children()
        return {one.pid for one in running if any("decode.worker" in word for word in one.cmdline())}

    before = helpers()
    with Engine(
        replace(classifier, inputs=inputs), dtype="float32", compile="eager", device="cpu", num_readers=2
    ) as engine:
        stream = engine.predict(clips)
        assert next(stream).error is None
        assert next(stream).error is None
        assert helpers() - before
        stream.close()  # type: ignore[attr-defined]
        assert helpers() == before


def test_a_folder_that_cannot_be_read_is_named(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scandir, forbidden = os.scandir, str(place / "clips" / "inner")

    def without_permission(path: Any = ".") -> Any:  # the tests may run as root, whom nothing is forbidden
        if os.fspath(path) == forbidden:
            raise PermissionError(13, "Permission denied", forbidden)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", without_permission)
    status, rows = run_tool(place, "--checkpoint", place / "run", place / "clips")
    assert status == 2
    assert {Path(row["path"]).name for row in rows} == {"broken.mp4", "inner"}
    assert any(row.get("error") == "this folder cannot be read (permission denied)" for row in rows)


@pytest.mark.parametrize("changes", [{"embed_dim": 10**6}, {"mlp_ratio": 1e9}])
def test_a_header_that_asks_for_a_giant_is_refused(place: Path, capsys: Any, changes: dict[str, Any]) -> None:
    small = load_checkpoint(place / "run" / "checkpoint.safetensors")
    config = {**small.config, "model": {**small.config["model"], **changes}}
    save_checkpoint(place / "giant", Checkpoint("video", config, NAMES, small.parts))
    status, _ = run_tool(place, "--checkpoint", place / "giant", place / "clips")
    shown = capsys.readouterr().err
    assert status == 2
    assert "giant: " in shown
    assert "Traceback" not in shown


def test_names_can_be_given(place: Path, capsys: Any) -> None:
    clip, names = place / "clips" / "inner" / "clip 0.mp4", place / "names.txt"
    _, rows = run_tool(place, "--checkpoint", place / "nameless", clip)
    assert {guess["label"] for guess in rows[0]["top"]} == {"class 0", "class 1", "class 2"}
    assert "--labels FILE" in capsys.readouterr().err
    names.write_text("up\ndown\nround\n")
    _, rows = run_tool(place, "--checkpoint", place / "nameless", clip, "--labels", names)
    assert {guess["label"] for guess in rows[0]["top"]} == {"up", "down", "round"}


def test_a_bare_published_file(place: Path, capsys: Any) -> None:
    run = VideoRun.model_validate({**CONFIG, "model": {"grids": ["2x2"], "embed_dim": 64, "depth": 1, "num_heads": 1}})
    state = {f"model.{name}": t for name, t in build_model(run.model, run.data, 4).state_dict().items()}
    torch.save({"model_state": state, "epoch": 14}, place / "published.pyth")
    clip = place / "clips" / "inner" / "clip 0.mp4"
    status, rows = run_tool(place, "--checkpoint", place / "published.pyth", clip)
    assert status == 0
    assert rows[0]["grid"] == "2x2"
    said = capsys.readouterr().err
    assert "published TimeSformer" in said
    assert "assumed   heads 64 wide" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--grid", "9x9"), "runs at 4x4, 2x2, not at 9x9"),
        (("--grid", "wide"), "not a token grid"),
        (("--views", "2"), "1 or 3 crops"),
        (("--views", "x"), "1 or 3 crops"),
        (("--topk", "0"), "at least 1"),
        (("--device", "toaster"), "device toaster"),
        (("--device", "meta"), "device meta"),
        (("--labels", "TEXT"), "1 names, but the model has 3"),
        (("--checkpoint", "TEXT"), "not a weight file"),
        (("--checkpoint", "absent"), "no such file"),
        (("--checkpoint", " "), "no checkpoint was named"),
    ],
)
def test_mistakes_are_explained(place: Path, capsys: Any, arguments: tuple[str, str], message: str) -> None:
    given = [str(place / "text.txt") if argument == "TEXT" else argument for argument in arguments]
    checkpoint = [] if "--checkpoint" in given else ["--checkpoint", place / "run"]
    status, _ = run_tool(place, *checkpoint, *given, place / "clips")
    shown = capsys.readouterr().err
    assert status == 2
    assert message in shown
    assert "Traceback" not in shown


class Brightest(Reducer):
    """Keeps half of the positions, those with the largest first feature; the others are merged into the first kept."""

    merges = True

    def plan(self, number: int, patches: torch.Tensor, layout: TokenLayout) -> Shorter:
        B, S = patches.shape[:2]
        kept = patches[..., 0].mean(dim=2).topk(S // 2).indices
        slots = torch.zeros(B, S, dtype=torch.long).scatter(1, kept, torch.arange(S // 2).expand(B, -1))
        return Shorter(kept, S, slots)


@pytest.mark.parametrize("attention", ["divided_space_time", "space_only"])
def test_a_clip_is_drawn_frame_by_frame(place: Path, tmp_path: Path, attention: str) -> None:
    run = VideoRun.model_validate({**CONFIG, "model": {**CONFIG["model"], "attention": attention}})
    parts = {"model": build_model(run.model, run.data, len(NAMES)).state_dict()}
    file = tmp_path / "checkpoint.safetensors"
    save_checkpoint(file, Checkpoint("video", run.model_dump(mode="json"), NAMES, parts))
    classifier = open_classifier(str(file))
    classifier.networks.model.reducer = Brightest()
    path = str(place / "clips" / "inner" / "clip 0.mp4")
    gallery = Gallery(tmp_path / "made")
    with Engine(classifier, views="2x1", gallery=gallery, dtype="float32", device="cpu") as predict:
        answer = predict(path)
    reader = classifier.inputs.open("2x1")
    views = reader.read(path).pixels
    reader.close()
    with torch.no_grad():
        output = classifier.networks(classifier.normalizer(views))
    assert answer.drawing == str(tmp_path / "made" / "clip 0.tokens.png")
    with Image.open(answer.drawing) as drawing:
        assert drawing.height > 2 * drawing.width * 0.8  # two views, each before and after, of two frames
    looks = looks_of(classifier.networks.model, views, [TokenGrid(4, 4)] * 2, output.reductions())
    for number, look in enumerate(looks):
        assert look.num_left == 8
        (fates,) = look.trail
        assert fates.shape == ((16,) if attention == "divided_space_time" else (2, 16))
        inputs = classifier.normalizer(views[number : number + 1])
        with torch.no_grad():
            alone = classifier.networks.model(inputs, TokenGrid(4, 4)).reduction
        assert alone is not None
        assert np.array_equal(np.atleast_2d(fates), alone.token_source_map.numpy())


def test_a_damaged_clip_is_answered_by_its_whole_frames_with_a_warning(
    place: Path, tmp_path: Path, capsys: Any
) -> None:
    good, damaged = tmp_path / "good.avi", tmp_path / "damaged.avi"
    assert write_video(good, Structure("mjpeg"), "avi", num_frames=10)
    packets, _ = packets_of(good)
    packets[5] = bytes(len(packets[5]))
    remux(good, damaged, packets, lambda _: True)
    every_frame = ["--views", "test"]
    status, rows = run_tool(place, "--checkpoint", place / "run", *every_frame, good, damaged)
    assert status == 0
    assert "warning" not in rows[0]
    assert rows[1]["warning"].startswith("9 of 10 frames")
    assert len(rows[1]["top"]) == len(NAMES)
    assert capsys.readouterr().out.count("warning: 9 of 10 frames") == 1
    status, rows = run_tool(place, "--checkpoint", place / "run", *every_frame, "--damaged", "refuse", damaged)
    assert status == 2
    assert "damaged at 0.20 s" in rows[0]["error"]


def test_a_path_is_a_file_whatever_it_is_called(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    names = ["-x.mp4", "--help", "file:clip.mp4", "pipe:0", "two\nlines.mp4", os.fsdecode(b"\xff.mp4")]
    for name in names:
        shutil.copy(place / "clips" / "inner" / "clip 0.mp4", os.path.join(".", name))
    status, rows = run_tool(place, "--checkpoint", place / "run", "--", *names)
    assert status == 0
    assert [row["path"] for row in rows] == names
    shown = [line for line in capsys.readouterr().out.splitlines() if " ms (reading" in line]
    assert [line.split("  ")[0] for line in shown] == [*names[:4], "two\\nlines.mp4", "\\udcff.mp4"]
