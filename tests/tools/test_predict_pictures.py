"""predict from the command line: pictures, and which of the two kinds of files a checkpoint answers for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from predict import main

from revit.common.modality.load import build_assigner
from revit.common.models.grid import TokenGrid
from revit.common.serving.engine import Engine
from revit.common.system.errors import UserError
from revit.common.weights.checkpoint import Checkpoint, save_checkpoint
from revit.image.data.pictures import load_picture
from revit.image.modality import build_model, open_classifier
from revit.image.models.transformers import LVViT
from revit.image.options import ImageRun
from revit.video.modality import open_classifier as open_clip_classifier

NAMES = ("red", "green", "blue")
CONFIG: dict[str, Any] = {
    "kind": "image",
    "data": {"pixels": {"img_size": 32, "crop_pct": 0.5, "mean": [0.3, 0.4, 0.5]}},
    "model": {"grids": ["4x4", "2x2"], "embed_dim": 32, "depth": 1, "num_heads": 2},
    "assigner": {"size": 32, "width": 0.25},
    "run": {"dir": "runs/none"},
}


def write_picture(path: Path, seed: int = 0, size: tuple[int, int] = (48, 64)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with an assigner, and pictures good and bad."""
    root = tmp_path_factory.mktemp("predict")
    torch.manual_seed(0)
    run = ImageRun.model_validate(CONFIG)
    model, assigner = build_model(run.model, run.data, len(NAMES)), build_assigner(run.assigner, 2)
    torch.nn.init.normal_(model.head.weight)
    parts = {"model": model.state_dict(), "assigner": assigner.state_dict()}
    checkpoint = Checkpoint("image", run.model_dump(mode="json"), NAMES, parts)
    save_checkpoint(root / "run" / "checkpoint.safetensors", checkpoint)
    for number, suffix in enumerate(("png", "JPG", "bmp")):
        write_picture(root / "pictures" / "inner" / f"picture {number}.{suffix}", number)
    (root / "pictures" / "broken.png").write_text("this is text")
    (root / "pictures" / "clip.mp4").write_text("no picture, and not asked for")
    return root


def run_tool(place: Path, *arguments: Any) -> tuple[int, list[dict[str, Any]]]:
    out = place / "out.json"
    out.unlink(missing_ok=True)
    status = main([*map(str, arguments), "--json", str(out)])
    return status, json.loads(out.read_text()) if out.exists() else []


def test_pictures_of_a_folder(place: Path, capsys: Any) -> None:
    run, pictures = place / "run", place / "pictures"
    status, rows = run_tool(place, "--checkpoint", run, pictures, pictures / "clip.mp4", place / "absent.png")
    assert status == 2
    assert [Path(row["path"]).name for row in rows] == [
        *("broken.png", "picture 0.png", "picture 1.JPG", "picture 2.bmp"),
        *("clip.mp4", "absent.png"),
    ]
    assert ["error" in row for row in rows] == [True, False, False, False, True, True]
    for row in rows[1:4]:
        assert sorted(guess["label"] for guess in row["top"]) == sorted(NAMES)
        assert sum(guess["probability"] for guess in row["top"]) == pytest.approx(1, abs=1e-4)
        assert row["grid"] in ("4x4", "2x2")
        assert row["grids"] == [row["grid"]]
        assert {"ms", "ms_read", "ms_compute"} <= row.keys()
    shown = capsys.readouterr()
    assert "%  red" in shown.out
    assert "broken.png: no answer: " in shown.err
    assert run_tool(place, "--checkpoint", run, pictures, "--views", "test")[0] == 0


def test_the_answer_is_the_model_s(place: Path) -> None:
    classifier = open_classifier(str(place / "run"))
    picture, grid = str(place / "pictures" / "inner" / "picture 0.png"), TokenGrid(2, 2)
    with Engine(classifier, device="cpu", dtype="float32", grid=grid, topk=3) as predict:
        answer = predict(picture)
    options = ImageRun.model_validate(CONFIG).data
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in ((0.3, 0.4, 0.5), options.pixels.std))
    pixels = (load_picture(picture, options).float() / 255 - mean) / std
    with torch.no_grad():
        expected = classifier.networks.model(pixels, grid).prediction.softmax(dim=1)[0]
    assert answer.grid == "2x2"
    for guess in answer.guesses:
        assert guess.probability == pytest.approx(float(expected[guess.number]), abs=1e-5)
        assert guess.label == NAMES[guess.number]


def test_bare_files_of_others(place: Path, capsys: Any) -> None:
    picture = place / "pictures" / "inner" / "picture 0.png"
    vit = timm.create_model("deit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=64, depth=1, num_heads=1)
    torch.save({"model": vit.state_dict()}, place / "deit.pth")
    lvvit = LVViT(32, (4,), 1000, 64, 1, 1, stem_widths=(8, 8, 8))
    torch.save(lvvit.state_dict(), place / "lvvit.pth.tar")
    for name, said in (("deit.pth", "heads 64 wide"), ("lvvit.pth.tar", "residual branches divided by 2")):
        status, rows = run_tool(place, "--checkpoint", place / name, picture)
        assert status == 0
        assert rows[0]["grid"] == "4x4"
        assert len(rows[0]["top"]) == 5
        assert f"{said}" in capsys.readouterr().err


def test_mistakes_are_explained(place: Path, capsys: Any) -> None:
    run = place / "run"
    status, _ = run_tool(place, "--checkpoint", run, place / "pictures", "--views", "3")
    assert status == 2
    assert "a picture has one view" in capsys.readouterr().err
    with pytest.raises(UserError, match="a model of kind image, which cannot classify clips"):
        open_clip_classifier(str(run))
    torch.save({"model_state": {}}, place / "empty.pyth")
    with pytest.raises(UserError, match="no weights in this file"):
        open_classifier(str(place / "empty.pyth"))


def test_drawings_of_a_folder(place: Path, tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    for number, name in enumerate(("a.png", "inner/a.png", "inner/A.bmp")):
        write_picture(pictures / name, number)
    (pictures / "broken.png").write_text("this is text")
    before = {path: path.read_bytes() for path in pictures.rglob("*.*")}
    drawings = pictures / "inner" / "z" / "drawings"
    for _ in range(2):  # the second time the folder holds the drawings too, which are no inputs
        status, rows = run_tool(place, "--checkpoint", place / "run", pictures, "--draw", drawings)
        assert status == 0
        assert [Path(row["path"]).name for row in rows] == ["a.png", "broken.png", "A.bmp", "a.png"]
        assert "drawing" not in rows[1]
        found = [Path(row["drawing"]) for row in rows if "drawing" in row]
        assert sorted(found) == sorted(drawings.iterdir())
    assert len(found) == 3
    assert {path: path.read_bytes() for path in before} == before
    status, rows = run_tool(place, "--checkpoint", place / "run", pictures / "a.png")
    assert "drawing" not in rows[0]


def test_where_drawings_cannot_be_is_said_once_and_first(place: Path, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "file").write_text("mine")
    picture = place / "pictures" / "inner" / "picture 0.png"
    assert main(["--checkpoint", str(place / "run"), str(picture), "--draw", str(tmp_path / "file")]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert len(shown.err.splitlines()) == 1
    assert "drawings cannot be written there" in shown.err
    assert (tmp_path / "file").read_text() == "mine"
