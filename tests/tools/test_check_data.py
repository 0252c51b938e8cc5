"""check_data.py: every planted fault is found and no other, what it writes is read by trainings, and it goes on where it was stopped."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import check_data
import numpy as np
import pytest
import report as report_tool
import train_net
from doctor import film, judge, make_healthy, plant, write_slow
from PIL import Image

from revit.common.data.check.facts import KINDS
from revit.common.data.check.summary import newest_summary, paths_of
from revit.common.data.formats.base import ListRequest
from revit.common.data.lists import SampleList
from revit.video.data import lists

TOOL = Path(check_data.__file__)


def read_clips(source: str, **how) -> SampleList:
    return lists.read_clips(ListRequest(source, **how))


def run(*arguments, status=0):
    assert check_data.main([*map(str, arguments), "--workers", "2"]) == status


def found(folder: Path, *arguments, status=0) -> dict:
    out = folder / "found.json"
    run(*arguments, "--json", out, status=status)
    return json.loads(out.read_text())


@pytest.fixture(scope="module")
def healthy(tmp_path_factory) -> Path:
    """Class folders of 16 small clips of all kinds of file, and of 12 of a test."""
    root = tmp_path_factory.mktemp("healthy")
    for number in range(28):
        make_healthy(root / ("train" if number < 16 else "test"), number, num_frames=24, width=96, height=72)
    return root


@pytest.fixture
def data(healthy, tmp_path) -> Path:
    shutil.copytree(healthy, tmp_path, dirs_exist_ok=True)
    return tmp_path


def test_nothing_is_found_in_healthy_clips(data):
    report = found(data, data / "train", data / "test", "--strict")
    assert report["problems"] == []
    assert report["kinds"] == {}
    assert (report["files"], report["good"]) == (28, 28)
    assert sum(report["classes"].values()) == 28
    assert report["read_as"] == "clips: a folder per class"


def test_every_planted_fault_is_found_and_no_other(data):
    planted = plant(data / "train", data / "test")
    report = found(data, data / "train", data / "test", "--strict", "--limit", "1", "--out", data / "clean", status=2)
    missed, invented = judge(planted, report["problems"])
    assert (missed, invented) == ([], [])
    assert set(report["kinds"]) == set(KINDS)
    bad = sum(count for kind, count in report["kinds"].items() if kind not in ("odd", "label"))
    assert report["good"] == report["files"] - bad

    for name in ("train", "test"):  # the clean list is the source without what was found, with the same labels
        source, clean = read_clips(str(data / name)), read_clips(str(data / "clean" / f"{name}.txt"), first_label=0)
        problems = {one["path"] for one in report["problems"] if one["kind"] not in ("odd", "label")}
        labels = {source.path(at): source.label(at) for at in range(len(source)) if source.path(at) not in problems}
        assert {clean.path(at): clean.label(at) for at in range(len(clean))} == labels
    names = (data / "clean" / "train.classes.txt").read_text().splitlines()
    assert tuple(names) == read_clips(str(data / "train")).names
    again = found(data, data / "clean" / "train.txt", f"data.source.label_names={data}/clean/train.classes.txt")
    assert set(again["kinds"]) <= {"odd", "label"}
    assert newest_summary(str(data / "test")).kinds == {"overlap": 4, "label": 1}


def test_what_was_read_is_not_read_again_unless_it_has_changed(data, monkeypatch):
    first = found(data, data / "train")
    assert len((data / ".train.check" / "journal.jsonl").read_text().splitlines()) == 16
    touched = Path(read_clips(str(data / "train")).path(3))
    os.truncate(touched, touched.stat().st_size // 2)
    with open(data / ".train.check" / "journal.jsonl", "a") as file:
        file.write('{"version": 1, "path": "half a li')
    second = found(data, data / "train")
    assert (first["good"], second["good"]) == (16, 15)
    lines = (data / ".train.check" / "journal.jsonl").read_text().splitlines()
    assert len(lines) == 18  # those of before, half a line, and the one that has changed
    assert json.loads(lines[-1])["path"] == str(touched)
    assert newest_summary(str(data / "train")).good == 15


def test_a_part_is_the_same_each_time_and_said(data, capsys):
    report = found(data, data / "train", "--sample", "5")
    assert (report["files"], report["listed"], report["good"]) == (5, 16, 5)
    assert "5 files of 16 read" in capsys.readouterr().out
    before = (data / ".train.check" / "journal.jsonl").read_text()
    found(data, data / "train", "--sample", "5")
    assert (data / ".train.check" / "journal.jsonl").read_text() == before


def test_stopped_it_goes_on(data):
    first = write_slow(data / "many" / "a" / "0.avi", num_frames=40)
    for number in range(1, 6):
        shutil.copy(first, first.with_name(f"{number}.avi"))
    journal = data / ".many.check" / "journal.jsonl"
    command = [sys.executable, str(TOOL), str(data / "many"), "--workers", "1"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while (not journal.exists() or not journal.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 75
    assert said.strip().endswith("what was read is kept; the same command goes on from there")
    known = len(journal.read_text().splitlines())
    assert 1 <= known < 6
    report = found(data, data / "many")
    assert report["kinds"]["duplicate"] == 5
    assert len(journal.read_text().splitlines()) == 6


def test_lists_of_numbers_that_do_not_begin_at_0_or_have_gaps(data):
    samples = read_clips(str(data / "train"))
    shifted = {0: 1, 1: 2, 2: 4, 3: 5, 4: 6, 5: 7}
    lines = [f"{samples.path(at)} {shifted[samples.label(at)]}\n" for at in range(len(samples))]
    (data / "list.txt").write_text("".join([*lines, lines[0], lines[1].replace(" 1\n", " 2\n")]))
    report = found(data, data / "list.txt")
    reasons = {one["reason"] for one in report["problems"] if one["kind"] == "label"}
    assert reasons == {
        "its labels begin at 1, so that class 0 has no file; if they count from there, set data.source.first_label=1",
        "1 numbers below its largest label 7 have no file: 3",
    }
    from_one = [f"{samples.path(at)} {samples.label(at) + 1}\n" for at in range(len(samples))]
    (data / "from_one.txt").write_text("".join(from_one))
    (problem,) = found(data, data / "from_one.txt")["problems"]
    assert problem["reason"].startswith("its labels begin at 1, and are taken to count from there")
    doubled = [one for one in report["problems"] if one["kind"] == "duplicate"]
    assert [one["reason"] for one in doubled if one["path"] == samples.path(0)] == ["the same file is listed"]
    assert len(doubled) == 3  # the first again, and the second with two labels, of which neither is kept
    assert report["good"] == 18 - 3


def test_spans_and_lists_are_those_of_the_configuration(data, tmp_path, capsys):
    config = tmp_path / "config.yaml"
    config.write_text(
        f"""
kind: video
data:
  source: {{train: {data}/train, val: {data}/test}}
  frames: {{num_frames: 8, sampling_rate: 8}}
run: {{dir: {tmp_path}/run}}
"""
    )
    report = found(data, "--cfg", config)
    assert list(report["lists"]) == ["val", "train"]
    assert report["kinds"] == {"odd": 28}
    assert "0.8 s are shorter than the 2.1 s that a clip spans" in report["problems"][0]["reason"]
    report = found(data, "--cfg", config, "data.frames.sampling_rate=3", "--strict")
    assert report["kinds"] == {}


def test_a_plain_folder_and_a_list_beside_folders(data):
    clips = sorted((data / "train").rglob("*.*"))
    for number, clip in enumerate(clips[:5]):
        shutil.copy(clip, _made(data / "plain" / f"{number}{clip.suffix}"))
    report = found(data, data / "plain", "--out", data / "files.txt")
    assert (report["classes"], report["kinds"], report["read_as"]) == ({}, {}, "clips: plain folder")
    assert (data / "files.txt").read_text().splitlines() == sorted(map(str, (data / "plain").iterdir()))
    shutil.copy(clips[0], data / "train" / f"stray{clips[0].suffix}")
    report = found(data, data / "train")
    assert report["problems"][0]["reason"].startswith("1 files lie in no class, such as")


def test_mistakes_are_explained(data, capsys):
    for arguments, said in (
        ([data / "nowhere"], "no such file or folder"),
        (["data.source.separator=,"], "settings without a list"),
        ([data / "train", "data.source.separater=;"], "separator"),
        ([data / "train", "--sample", "0"], "--sample 0: at least 1"),
        ([data / "train", "--limit", "0"], "--limit 0: more than 0"),
    ):
        run(*arguments, status=2)
        assert said in capsys.readouterr().err


def test_the_summary_lies_in_the_cache_where_the_folder_is_read_only(data, monkeypatch):
    monkeypatch.setenv("REVIT_CACHE", str(data / "cache"))
    only = data / "only"
    shutil.move(data / "train", _made(only / "train"))
    only.chmod(0o555)
    try:
        found(data, only / "train")
        assert not (only / ".train.check").exists()
        summary = newest_summary(str(only / "train"))
        assert summary.fingerprint == paths_of(read_clips(str(only / "train")))
    finally:
        only.chmod(0o755)


def test_segments_are_parts_of_their_file(data):
    one, other = sorted((data / "train").rglob("*.mp4"))[:2]  # 0.8 s each
    cut = data / "cut.mp4"
    cut.write_bytes(one.read_bytes()[: one.stat().st_size // 2])
    rows = [
        (one, 0, 0.4, "a"),
        (one, 0.4, 0.8, "b"),
        (other, 0, 0.8, "a"),
        (other, 0, 0.8, "b"),
        (other, 7, 9, "b"),
        (other, 0.5, 2, "a"),
    ]
    rows += [(cut, 0, 0.2, "a"), (cut, 0.2, 0.4, "b")]
    lines = ["file,start,end,label", *(",".join(map(str, row)) for row in rows)]
    (data / "segments.csv").write_text("\n".join(lines))
    report = found(data, data / "segments.csv", "--kind", "video")
    assert [(one["path"], one["kind"]) for one in report["problems"]] == [
        (str(other), "duplicate"),
        (str(other), "duplicate"),
        (str(other), "truncated"),
        (str(cut), "truncated"),
        (str(other), "odd"),
    ]
    assert report["problems"][-1]["reason"] == "the segment ends at 2 seconds, the file at 0.8"
    assert "the segment begins at 7 seconds, the file has 0.8 seconds" in str(report["problems"])
    # Both segments of the file that is cut are lost; it is named once.
    assert (report["files"], report["good"]) == (8, 3)
    run(data / "segments.csv", "--out", data / "clean.txt", status=2)


def test_parts_of_tar_files_and_folders_of_frames_are_read_as_files(data):
    clips = sorted((data / "train").rglob("*.mp4"))
    with tarfile.open(data / "clips.tar", "w") as tar:
        for number, clip in enumerate([*clips, *clips[:1]]):
            tar.add(clip, f"class{number % 2}/{number:02d}{clip.suffix}")
        tar.add(Path(__file__), "class0/99.mp4")
    report = found(data, data / "clips.tar")
    assert report["kinds"]["duplicate"] == report["kinds"]["unreadable"] == 1
    assert report["good"] == len(clips)
    for number, pictures in enumerate((film(1, 8), film(2, 8), film(1, 8))):
        for at, picture in enumerate(pictures):
            file = _made(data / "frames" / f"class{number % 2}" / f"clip{number}" / f"img_{at}.png")
            Image.fromarray(picture).save(file)
    file.write_bytes(file.read_bytes()[:100])
    (data / "frames" / "class1" / "clip1" / "img_3.png").write_bytes(b"")
    arguments = ["--kind", "video"]
    report = found(data, data / "frames", *arguments)
    kinds = {Path(one["path"]).name: one["kind"] for one in report["problems"] if one["kind"] != "label"}
    assert kinds == {"clip1": "damaged", "clip2": "damaged"}
    Image.fromarray(pictures[-1]).save(file)
    kinds = found(data, data / "frames", *arguments)["kinds"]
    assert (kinds["damaged"], kinds["duplicate"]) == (1, 1)


def test_trainings_and_reports_quote_the_newest_check(data, capsys):
    test = sorted((data / "test").rglob("*.*"))[0]
    os.truncate(test, 0)
    found(data, data / "train", data / "test")
    config = data / "config.yaml"
    config.write_text(
        f"""
kind: video
data:
  source: {{train: {data}/train, val: {data}/test}}
  frames: {{num_frames: 2, sampling_rate: 4}}
  pixels: {{crop_size: 32, jitter_min: 32, jitter_max: 32}}
  loading: {{num_workers: 0, decode_timeout_seconds: 0}}
model: {{grids: [2x2], embed_dim: 16, depth: 1, num_heads: 2}}
train: {{batch_size: 8, schedule: {{name: cosine, epochs: 1}}}}
run: {{dir: {data}/run, speed_seconds: 0}}
"""
    )
    clip = next((data / "train").rglob("clip0000.mp4"))
    clip.unlink()
    capsys.readouterr()
    assert train_net.main(["--cfg", str(config)]) == 0
    said = capsys.readouterr().err.replace("\n", " ")
    assert f"data check: {data}/test: 11 of 12 files are good (1 empty; checked 20" in said
    assert "THE LIST HAS CHANGED SINCE" in said.split(f"{data}/train: 16 of 16")[1].split("data check:")[0]
    report = json.loads((data / "run" / "report.json").read_text())
    assert (report["data"]["val"]["good"], report["data"]["val"]["current"]) == (11, True)
    assert report["data"]["train"]["current"] is False
    outputs = [data / "page.html", data / "table.md", data / "all.json"]
    options = [
        text for option, path in zip(("--html", "--markdown", "--json"), outputs) for text in (option, str(path))
    ]
    assert report_tool.main([str(data / "run"), *options]) == 0
    for output in outputs[:2]:
        assert "11 of 12 files are good" in output.read_text()
    assert json.loads(outputs[2].read_text())["runs"][0]["data"] == report["data"]


# -- pictures ------------------------------------------------------------------------------------------------------------


def test_faults_of_pictures(tmp_path):
    folder, generator = tmp_path / "pictures", np.random.default_rng(0)
    for number in range(24):
        small = Image.fromarray(generator.integers(0, 256, (9, 12, 3), np.uint8))
        picture = small.resize((320, 240), Image.Resampling.BICUBIC)
        end = ("jpg", "png", "webp", "jpeg")[number % 4]
        picture.save(_made(folder / f"class{number % 3}" / f"{number:02d}.{end}"), quality=90)
    one = folder / "class0"
    expected = {}

    def at(kind, name):
        expected[str(one / name)] = kind
        return one / name

    picture.save(at("odd", "turned.jpg"), exif=_turned())
    Image.fromarray(generator.integers(0, 256, (90, 90, 3), np.uint8)).save(one / "whole.jpg")
    content = (one / "whole.jpg").read_bytes()
    at("truncated", "cut.jpg").write_bytes(content[: len(content) // 2])
    hole = bytearray(content)
    hole[len(hole) // 2 : len(hole) // 2 + 200] = generator.bytes(200)
    at("damaged", "hole.jpg").write_bytes(hole)
    at("unreadable", "text.png").write_text("no picture")
    at("empty", "empty.png").touch()
    Image.open(folder / "class1" / "01.png").resize((160, 120)).save(at("duplicate", "small.jpg"), quality=60)
    shutil.move(one / "small.jpg", folder / "class1" / "small.jpg")
    expected[str(folder / "class1" / "small.jpg")] = expected.pop(str(one / "small.jpg"))
    report = found(tmp_path, folder)
    assert report["read_as"] == "pictures: a folder per class"
    assert {one["path"]: one["kind"] for one in report["problems"]} == expected


def _turned():
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def _made(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def test_films_of_one_place_are_no_copies():
    one, other = film(1, 4, place=7), film(2, 4, place=7)
    assert not np.array_equal(one, other)
    assert np.mean(np.abs(one.astype(int) - other) < 8) > 0.5  # most of what they show is the same


def test_lists_of_several_labels_are_checked_and_written(data, tmp_path):
    files = sorted(str(path) for path in (data / "train").rglob("*.mp4"))
    said = ["0 1", "1", "0", '""']
    assert len(files) == len(said)
    listed = tmp_path / "several.txt"
    listed.write_text("".join(f'"{file}" {labels}\n' for file, labels in zip([*files, files[0]], [*said, "1"])))
    settings = tmp_path / "several.yaml"
    settings.write_text(
        f"kind: video\ndata: {{source: {{train: {listed}, several_labels: true}}}}\nrun: {{dir: {tmp_path}/run}}\n"
    )
    clean = tmp_path / "clean.txt"
    report = found(tmp_path, "--cfg", settings, "--out", clean)
    assert report["classes"] == {"0": 2, "1": 3}
    assert {one["kind"] for one in report["problems"]} >= {"duplicate"}
    written = [f'"{file}" {labels.replace(" ", ";")}' for file, labels in zip(files[1:], said[1:])]
    assert clean.read_text().splitlines() == written
    run(listed, status=2)  # nothing says that its samples have several
