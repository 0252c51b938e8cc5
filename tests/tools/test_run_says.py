"""What a run says of its data, its settings and its result: each common mistake in one line that says what to do."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import train_net
from PIL import Image

from revit.common.data import summary
from revit.common.data.lists import SampleList
from revit.common.evaluation.verdict import verdict
from revit.common.training.spoken import closing

CONFIG = """
kind: image
data:
  source: {train: FOLDER/train, val: FOLDER/val, test: FOLDER/test}
  pixels: {img_size: 32, crop_pct: 1.0}
  loading: {num_workers: 0}
model: {name: deit_small, grids: [2x2], embed_dim: 16, depth: 1, num_heads: 2}
train: {batch_size: 4, optim: {name: adamw, lr: 1e-3}, schedule: {name: constant, epochs: 10}}
run: {dir: FOLDER/run, evaluate_every: null, speed_seconds: 0}
"""
FEW = ["train.schedule.epochs=1"]


def write_pictures(folder: Path, num: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    for name, colour in {"dark": 40, "light": 200}.items():
        (folder / name).mkdir(parents=True)
        for number in range(num):
            pixels = generator.integers(colour - 30, colour + 30, (32, 32, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{seed}{number:02d}.png")


@pytest.fixture
def config(tmp_path):
    for seed, (split, num) in enumerate({"train": 10, "val": 4, "test": 4}.items()):
        write_pictures(tmp_path / split, num, seed)
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG.replace("FOLDER", str(tmp_path)))
    return path


def said(config: Path, capfd, *overrides: str, stage: str | None = "model") -> tuple[int, list[str]]:
    status = train_net.main(["--cfg", str(config), *overrides, *(["--stage", stage] if stage else [])])
    return status, capfd.readouterr().err.splitlines()


def test_a_run_without_mistakes_begins_and_ends_with_lines(config, capfd, monkeypatch):
    monkeypatch.setattr(summary, "busy_share", lambda: 0.0)
    status, lines = said(config, capfd, "train.schedule.epochs=12", stage=None)
    assert status == 0
    read = [line for line in lines if "read as: a folder per class" in line]
    assert len(read) == 3
    lines = lines[3:]
    assert lines[0] == "data: 20 pictures, 2 classes (dark, light); val 8; test 8"
    assert not any("WARNING" in line for line in lines[:2])
    *_, result, following = lines
    assert result.startswith(
        "result: top-1 2x2 100.00 % (67.6 to 100.0), with the 95 % interval on 8 pictures; chance is "
    )
    assert result.endswith("50.00 % (2 classes), always 'dark' 50.00 %")
    folder = config.parent / "run"
    assert following == f"next: python tools/report.py {folder}; python tools/predict.py --checkpoint {folder} PICTURES"
    events = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [event["line"] for event in events if event["event"] == "data"] == [lines[0]]
    _, again = said(config, capfd, "train.schedule.epochs=12", stage=None)
    assert again == ["model: already done", "evaluate: already done", result, following]


def one_class(config: Path) -> list[str]:
    for split in ("train", "val", "test"):
        shutil.rmtree(config.parent / split / "light")
    return FEW


def a_class_missing(config: Path) -> list[str]:
    shutil.rmtree(config.parent / "val" / "light")
    names = config.parent / "names.txt"
    names.write_text("dark\nlight\n")
    return [*FEW, f"data.source.label_names={names}"]


def the_same_files_twice(config: Path) -> list[str]:
    lines = [f"{path} {label}" for label, name in enumerate(("dark", "light")) for path in some(config, name)]
    (config.parent / "val.txt").write_text("\n".join(lines) + "\n")
    return [*FEW, f"data.source.val={config.parent / 'val.txt'}"]


def some(config: Path, name: str) -> list[Path]:
    return [*sorted((config.parent / "train" / name).iterdir())[:2], *sorted((config.parent / "val" / name).iterdir())]


def one_core(monkeypatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0})


WARNINGS = {
    "one class": (
        one_class,
        "all pictures are of one class (dark), so that there is nothing to tell apart; give a folder with",
    ),
    "class missing": (a_class_missing, "data.source.val: no pictures of one class (light)"),
    "same files": (
        the_same_files_twice,
        "4 of its 12 pictures are trained on as well; what is right on them is no evidence",
    ),
    "a batch above all": (
        lambda _: [*FEW, "train.batch_size=64"],
        "train.batch_size is 64, more than the 20 samples of the list, so that an epoch is one update, and the training 1 "
        "update; lower it",
    ),
    "few updates": (
        lambda _: FEW,
        "train: 5 updates of 4 samples in all are few; lower train.batch_size, or raise train.",
    ),
    "tested on what chose": (
        lambda _: [*FEW, "run.keep=best", "run.evaluate_every=1", "data.source.test=null"],
        "run.keep=best takes the model that is best on the very list it is tested on, which flatters it; give data.source.test",
    ),
    "frozen noise": (
        lambda _: [*FEW, "train.freeze=backbone"],
        "train.freeze=backbone without start.source: nothing but the head learns, on random features; give a start",
    ),
}
REFUSED = {
    "one folder too high": (
        lambda config: [f"data.source.train={config.parent}", "data.source.val=null", "data.source.test=null"],
        "one folder too high: ",
    ),
    "no update": (
        lambda _: ["train.effective_batch=64"],
        "train: 20 samples do not fill one update of 64 (4 x 1 processes x 16 batches); lower train.effective_batch",
    ),
    "nothing to judge by": (
        lambda _: ["train.early_stop=3", "run.evaluate_every=1", "data.source.val=null"],
        "train.early_stop=3: there is no val list to judge by; give data.source.val, or have one split off",
    ),
    "nothing judged": (
        lambda _: ["run.keep=best"],
        "run.keep=best: nothing is evaluated while the model trains; set run.",
    ),
    "frozen name": (
        lambda _: ["train.freeze=[bloks]"],
        "train.freeze 'bloks': no parameter has a name that begins so; names begin like cls_token",
    ),
    "a stop of the assigner": (
        lambda _: ["assigner.train.early_stop=2"],
        "assigner.train.early_stop: the assigner is not evaluated while it trains; leave it out, or lower ",
    ),
}


@pytest.mark.parametrize("mistake", WARNINGS)
def test_a_mistake_that_is_worth_a_stop_is_said_before_training(config, capfd, mistake):
    make, expected = WARNINGS[mistake]
    status, lines = said(config, capfd, *make(config))
    assert status == 0
    (place,) = [number for number, line in enumerate(lines) if expected in line]
    assert place < next(number for number, line in enumerate(lines) if line.startswith("model: 1 process"))


@pytest.mark.parametrize("mistake", REFUSED)
def test_a_mistake_that_leaves_nothing_to_do_ends_the_run(config, capfd, mistake):
    make, expected = REFUSED[mistake]
    status, lines = said(config, capfd, *make(config), stage=None)
    assert status == 2
    (line,) = [line for line in lines if line.startswith("error: ")]
    assert expected in line
    assert not (config.parent / "run" / "states").exists()


def test_more_workers_and_threads_than_cores(config, capfd, monkeypatch):
    one_core(monkeypatch)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        _, lines = said(config, capfd, *FEW, "data.loading.num_workers=3")
    finally:
        torch.set_num_threads(threads)
    assert "WARNING data.loading.num_workers: 3 on 1 cores; set it to 1 or less" in lines
    assert "WARNING 2 threads on 1 cores slow each other; set OMP_NUM_THREADS=1" in lines


def test_threads_that_wait_for_cores_others_use(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    monkeypatch.setattr(summary, "busy_share", lambda: 0.9)
    (line,) = summary.machine_warnings(0, 2)
    assert line.startswith(
        "90% of the cores are at work for others: 2 threads wait for the slowest of them; OMP_NUM_THREADS=1"
    )
    assert summary.machine_warnings(0, 1) == []


def test_how_busy_the_machine_is_lies_between_nothing_and_all():
    assert 0 <= summary.busy_share(0.05) <= 1


def listed(*labels: int) -> SampleList:
    return SampleList.build([(f"{place}.png", label) for place, label in enumerate(labels)], None, "list")


@pytest.mark.parametrize(("top1", "warned"), [(60.0, True), (70.0, False)])
def test_a_result_is_held_against_the_largest_class_too(top1, warned):
    """Half the classes, but six of ten samples are of one: 60 % right is what always saying that one gives."""
    report = {"fixed": [{"grid": "2x2", "top1": top1, "gmacs": 1.0}], "samples": {"evaluated": 1000}, "chance": 60.0}
    judged = verdict(report)
    report |= {"verdict": judged.text, "good": judged.good}
    samples = listed(*[0] * 6, *[1] * 4)
    result, *warnings = closing(report, samples, ["dark", "light"], "pictures")
    assert "chance is 50.00 % (2 classes), always 'dark' 60.00 %" in result
    assert bool(warnings) == warned
    assert all("start.source" in line and "train.schedule.epochs" in line for line in warnings)


def test_a_list_that_is_trained_and_tested_is_said_once_whatever_it_is_called(config, capfd):
    whole = f"{config.parent / 'train'}"
    _, lines = said(config, capfd, *FEW, f"data.source.val={whole}", f"data.source.test={whole}")
    assert sum("are trained on as well" in line for line in lines) == 1
    assert (
        "data: 20 pictures, 2 classes (dark, light); val 20, the same files as train; test 20, the same"
        in "\n".join(lines)
    )


def test_several_labels_are_held_against_their_shares():
    samples = listed(0, 0, 0, 1).with_label_sets()
    report = {"fixed": [{"grid": "2x2", "map": 71.0}], "samples": {"evaluated": 4}}
    (line,) = closing(report, samples, ["dark", "light"], "pictures")
    assert line == "result: mAP 2x2 71.00 %, on 4 pictures; chance is 50.00 %, the classes' mean share"
