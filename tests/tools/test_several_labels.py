"""Samples with several labels, and classes of unequal size, by the same commands: pictures and clips."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import av
import numpy as np
import predict
import pytest
import report as tool_report
import test_net as tool_test_net
import torch
import train_net
from marked_pictures import NAMES, drawn_sets, write_marked
from page_check import check

from revit.common.methods.label_limits import THRESHOLDS
from revit.common.weights.checkpoint import load_checkpoint

PICTURES = """
kind: image
data:
  source: {train: FOLDER/train.csv, val: FOLDER/val.csv, test: FOLDER/test.csv, several_labels: true}
  pixels: {img_size: 48, crop_pct: 1.0}
  augment: {scale: [1.0, 1.0], ratio: [1, 1], flip_probability: 0}
  loading: {num_workers: 0}
model: {grids: [6x6, 3x3], embed_dim: 32, depth: 2, num_heads: 2, linear_std: 0.2}
train:
  batch_size: 10
  optim: {name: adamw, lr: 5e-3, decay_one_dimensional: false}
  schedule: {name: cosine, epochs: 6}
distill: {weight: 0.5}
balance: {weights: inverse_sqrt}
assigner: {size: 32, width: 0.25, train: {batch_size: 16, schedule: {name: cosine, epochs: 1}}}
calibration: {points: 5}
test: {batch_size: 16}
run: {dir: FOLDER/run, speed_seconds: 0}
"""


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for number, (split, num) in enumerate((("train", 160), ("val", 40), ("test", 40))):
        write_marked(folder, split, num, seed=number)
    with open(folder / "test.csv", "a") as file:
        file.write(f"{folder}/gone.png,red\n")
    config = folder / "config.yaml"
    config.write_text(PICTURES.replace("FOLDER", str(folder)))
    assert train_net.main(["--cfg", str(config)]) == 0
    return folder


def read_report(folder: Path) -> dict:
    return json.loads((folder / "run" / "report.json").read_text())


def rows_of(folder: Path) -> list[dict[str, str]]:
    with open(folder / "run" / "predictions.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_the_recipe_learns_and_says_how_well(pictures: Path):
    report = read_report(pictures)
    assert report["protocol"]["labels"] == "several"
    assert set(report["seconds"]) == {"model", "thresholds", "lengths", "assigner", "calibrate", "evaluate"}
    prevalence = np.mean([len(numbers) for numbers in drawn_sets(40, 2)]) / len(NAMES)
    for row in (*report["fixed"], report["adaptive"]):
        assert row["map"] > 100 * prevalence + 15  # of chance the mean share of a class
    assert {row["class"] for row in report["classes"]} == set(NAMES)
    assert sum(row["samples"] for row in report["classes"]) == sum(map(len, drawn_sets(40, 2)))
    for one in report["reliability"].values():
        assert sum(bar["answers"] for bar in one["bins"]) == 40 * len(NAMES)
    # each figure of classes, once more from the table of predictions
    rows = [row for row in rows_of(pictures) if not row["error"]]
    for figures in report["classes"]:
        own, said = ([figures["class"] in row[key].split(";") for row in rows] for key in ("label", "predicted"))
        right = sum(a and b for a, b in zip(own, said))
        assert figures["samples"] == sum(own)
        if sum(own) + sum(said):
            assert figures["f1"] == pytest.approx(100 * 2 * right / (sum(own) + sum(said)))
    shared = [set(filter(None, row["label"].split(";"))) for row in rows]
    answers = [set(filter(None, row["predicted"].split(";"))) for row in rows]
    overlap = [len(a & b) / len(a | b) if a | b else 1.0 for a, b in zip(shared, answers)]
    assert report["adaptive"]["top1"] == pytest.approx(100 * np.mean(overlap))
    assert sum(int(row["correct"]) for row in rows) == sum(a == b for a, b in zip(shared, answers))


def test_every_file_of_the_test_has_a_row(pictures: Path):
    rows = rows_of(pictures)
    assert [row["path"] for row in rows] == [f"{pictures}/test/{place:04d}.png" for place in range(40)] + [
        f"{pictures}/gone.png"
    ]
    named = [";".join(sorted(NAMES[number] for number in numbers)) for numbers in drawn_sets(40, 2)]
    assert [";".join(sorted(filter(None, row["label"].split(";")))) for row in rows[:40]] == named
    assert {row["grid"] for row in rows[:40]} <= {"6x6", "3x3"}
    assert rows[40]["predicted"] == rows[40]["correct"] == ""
    assert "no such file" in rows[40]["error"]


def test_predict_says_what_the_table_says(pictures: Path):
    out = pictures / "answers.json"
    command = ["--checkpoint", str(pictures / "run"), str(pictures / "test"), "--json", str(out)]
    assert predict.main([*command, "--dtype", "float32", "--compile", "eager"]) == 0
    for answer, row in zip(json.loads(out.read_text()), rows_of(pictures)):
        assert answer["path"] == row["path"]
        assert answer["grid"] == row["grid"]
        assert set(answer["labels"]) == set(filter(None, row["predicted"].split(";")))
        assert sum(guess["probability"] for guess in answer["top"]) != pytest.approx(1, abs=1e-3)  # no softmax


def test_thresholds_are_kept_by_class_and_grid(pictures: Path):
    for name in ("model.safetensors", "checkpoint.safetensors"):
        kept = load_checkpoint(pictures / "run" / name).extra[THRESHOLDS]
        assert kept["split"] == "val"
        assert {grid: len(values) for grid, values in kept["values"].items()} == {"6x6": 4, "3x3": 4}
    log = [json.loads(line) for line in (pictures / "run" / "log.jsonl").read_text().splitlines()]
    (chosen,) = [line for line in log if line["event"] == "thresholds"]
    for before, after in chosen["overlap"].values():
        assert after >= before
    assert all("map" in line and "top1" not in line for line in log if line["event"] == "val")


def test_length_labels_are_of_the_sets(pictures: Path):
    with open(pictures / "run" / "lengths.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    number_of = {name: number for number, name in enumerate(sorted(NAMES))}
    sets = [sorted(number_of[NAMES[number]] for number in numbers) for numbers in drawn_sets(160, 0)]
    assert [row["target"] for row in rows] == [";".join(map(str, numbers)) for numbers in sets]
    assert all(row["correct_6x6"] == "1" or row["correct_3x3"] == "1" for row in rows if row["length"] == "3x3")


def test_nothing_is_done_again(pictures: Path):
    before = (pictures / "run" / "model.safetensors").stat().st_mtime_ns
    assert train_net.main(["--cfg", str(pictures / "config.yaml")]) == 0
    assert (pictures / "run" / "model.safetensors").stat().st_mtime_ns == before


def test_the_page_and_the_table(pictures: Path, capsys: pytest.CaptureFixture[str]):
    page, table = pictures / "page.html", pictures / "table.md"
    assert tool_report.main([str(pictures / "run"), "--html", str(page), "--markdown", str(table)]) == 0
    text = page.read_text()
    assert "All samples" in text
    check(text)
    for wanted in ("mAP %", "overlap %", "average precision %", "Expected calibration error", "on val"):
        assert wanted in text
    assert "top-1 %</th>" not in text
    assert "overlap %" in table.read_text()
    capsys.readouterr()
    config = ["--cfg", str(pictures / "config.yaml"), "--checkpoint", str(pictures / "run")]
    written = ["--json", str(pictures / "again.json"), "--csv", str(pictures / "again.csv")]
    assert tool_test_net.main([*config, *written]) == 0
    assert (pictures / "again.csv").read_text() == (pictures / "run" / "predictions.csv").read_text()
    assert "mAP" in capsys.readouterr().out
    again, before = json.loads((pictures / "again.json").read_text()), read_report(pictures)
    assert again["classes"] == before["classes"]


def test_a_model_is_tested_as_it_was_trained(pictures: Path, capsys: pytest.CaptureFixture[str]):
    config = ["--cfg", str(pictures / "config.yaml"), "--checkpoint", str(pictures / "run")]
    lists = [f"data.source.{split}={pictures}/single.csv" for split in ("train", "val", "test")]
    (pictures / "single.csv").write_text(
        "".join(f"{pictures}/test/000{place}.png,{name}\n" for place, name in enumerate(NAMES))
    )
    assert tool_test_net.main([*config, *lists, "data.source.several_labels=false"]) == 2
    assert "was trained with data.source.several_labels=true" in capsys.readouterr().err


def test_mixed_pictures_have_the_labels_of_both(pictures: Path, tmp_path: Path):
    changes = ["data.mix.mixup=0.5", "data.mix.cutmix=1", "train.schedule.epochs=1", f"run.dir={tmp_path}"]
    assert train_net.main(["--cfg", str(pictures / "config.yaml"), "--stage", "model", *changes]) == 0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["model.name=lvvit_s"], "the patches of lvvit_s learn which one class"),
        (
            ["model={name: deit_small_distilled}", "distill={teacher: {source: 'timm:x'}}"],
            "distill.teacher says which one",
        ),
        (["model.grids=[6x6]", "methods.flexivit={teacher: {source: x}}"], "methods.flexivit.teacher says which one"),
        (["data.source.classes=2"], "leave classes out"),
        (["balance.sampler=balanced", "balance.weights=balanced"], "correct more than once"),
    ],
)
def test_what_does_not_go_together_is_refused(changes, said, pictures: Path, capsys: pytest.CaptureFixture[str]):
    assert train_net.main(["--cfg", str(pictures / "config.yaml"), *changes]) == 2
    assert said in capsys.readouterr().err


# -- clips ---------------------------------------------------------------------------------------------------------------

CLIPS = """
kind: video
data:
  source: {train: FOLDER/train.txt, val: FOLDER/val.txt, test: FOLDER/val.txt, several_labels: SEVERAL}
  frames: {num_frames: 2, sampling: segments}
  pixels: {crop_size: 32, jitter_min: 32, jitter_max: 32, flip_probability: 0}
  test_views: {num_crops: 1}
  loading: {num_workers: 0, decode_timeout_seconds: 0}
model: {grids: [4x4, 2x2], embed_dim: 16, depth: 1, num_heads: 2, linear_std: 0.25}
train: {batch_size: 6, optim: {name: adamw, lr: 5e-3}, schedule: {name: cosine, epochs: 2}}
assigner: {size: 32, width: 0.25, train: {batch_size: 8, schedule: {name: cosine, epochs: 1}}}
run: {dir: FOLDER/run, speed_seconds: 0}
"""


def write_clip(path: Path, numbers: tuple[int, ...], seed: int) -> None:
    """Four frames in which each of three strips is bright or dark."""
    generator = np.random.default_rng(seed)
    with av.open(str(path), "w") as file:
        stream = file.add_stream("mpeg4", rate=8)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        for _ in range(4):
            pixels = generator.integers(0, 40, (32, 48, 3), dtype=np.uint8)
            for number in numbers:
                pixels[:, 16 * number : 16 * number + 16] += 180
            file.mux(stream.encode(av.VideoFrame.from_ndarray(pixels)))
        file.mux(stream.encode())


def write_clips(folder: Path, several: bool) -> Path:
    for split, num, seed in (("train", 24, 0), ("val", 12, 1)):
        lines = []
        for place in range(num):
            on = np.flatnonzero(np.random.default_rng((seed, place)).random(3) < 0.5).tolist()
            numbers = tuple(on) or (0,) if several else (0,) if place % 4 else (1,)
            write_clip(folder / f"{split}{place}.mp4", numbers, place)
            lines.append(f"{folder}/{split}{place}.mp4 {' '.join(map(str, numbers))}\n")
        (folder / f"{split}.txt").write_text("".join(lines))
    config = folder / "config.yaml"
    config.write_text(CLIPS.replace("FOLDER", str(folder)).replace("SEVERAL", str(several).lower()))
    return config


def test_clips_of_several_labels(tmp_path: Path):
    config = write_clips(tmp_path, several=True)
    assert train_net.main(["--cfg", str(config)]) == 0
    report = read_report(tmp_path)
    assert len(report["classes"]) == 3
    assert all("map" in row for row in report["fixed"])
    rows = rows_of(tmp_path)
    assert len(rows) == 12
    assert all(set(row["label"].split(";")) <= {"0", "1", "2"} for row in rows)
    assert len(load_checkpoint(tmp_path / "run" / "checkpoint.safetensors").extra[THRESHOLDS]["values"]["2x2"]) == 3


def test_weights_and_sampler_of_clips_with_one_label(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Both change the training, and nothing without them; the table of predictions is there in any case."""
    config, weights = write_clips(tmp_path, several=False), {}
    for number, name in enumerate(("none", "balance.sampler=balanced", "balance.weights={1: 3}")):
        changes = [] if name == "none" else [name]
        run = tmp_path / f"run{number}"
        assert train_net.main(["--cfg", str(config), "--stage", "model", f"run.dir={run}", *changes]) == 0
        weights[name] = load_checkpoint(run / "model.safetensors").parts["model"]["head.weight"]
    said = capsys.readouterr().err
    assert "an epoch meets a sample 0.67 to 2 times" in said
    assert "weights 0 1, 1 3" in said
    assert len({tuple(one.flatten().tolist()) for one in weights.values()}) == 3
    assert train_net.main(["--cfg", str(config)]) == 0
    assert torch.equal(
        load_checkpoint(tmp_path / "run" / "model.safetensors").parts["model"]["head.weight"], weights["none"]
    )
    rows, report = rows_of(tmp_path), read_report(tmp_path)
    assert np.mean([int(row["correct"]) for row in rows]) == pytest.approx(report["adaptive"]["top1"] / 100)
    assert all((row["label"] == row["predicted"]) == (row["correct"] == "1") for row in rows)
    assert sum(bar["answers"] for bar in report["reliability"]["adaptive"]["bins"]) == 12
    assert "classes" not in report
