"""convert_clips.py on folders and lists with broken and repeated files, killed, interrupted, on a full disk."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import convert_clips
import numpy as np
import pytest

from revit.common.data.formats.base import ListRequest
from revit.video.data.convert.worker import convert_all
from revit.video.data.decode.read import probe
from revit.video.data.lists import read_clips

TOOL = Path(__file__).parents[2] / "tools" / "convert_clips.py"


def make_clip(path: Path, num_frames: int = 12, width: int = 96, height: int = 64, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8 + num_frames, 3))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264" if path.suffix == ".mp4" else "mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.thread_count = 1
        for number in range(num_frames):
            picture = noise[:, number : number + width // 8].repeat(8, 0).repeat(8, 1).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.fixture
def tree(tmp_path):
    """Two classes of two clips, one of which is cut off, and a class whose only clip is a text."""
    folder = tmp_path / "clips"
    make_clip(folder / "run" / "one.mp4", seed=1)
    make_clip(folder / "jump" / "deep" / "two.avi", seed=2)
    whole = make_clip(folder / "run" / "cut.mp4", num_frames=40, seed=3)
    whole.write_bytes(whole.read_bytes()[:3000])
    (folder / "sit").mkdir()
    (folder / "sit" / "text.mp4").write_text("no video")
    return folder


def run(*arguments, status=0):
    assert convert_clips.main(["--workers", "1", "--short-side", "32", *map(str, arguments)]) == status


def files_under(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.mp4"))


def test_a_folder_stays_a_folder_of_classes(tree, tmp_path, capsys):
    out, report = tmp_path / "new", tmp_path / "out.json"
    run("--data", tree, "--out", out, "--json", report)
    assert files_under(out) == ["jump/deep/two.mp4", "run/one.mp4"]
    clips = read_clips(ListRequest(str(out), names=tuple((out / "classes.txt").read_text().split())))
    assert [(clips.name(place), clips.label(place)) for place in range(2)] == [
        ("jump/deep/two.mp4", 0),
        ("run/one.mp4", 1),
    ]
    assert (probe(clips.path(0)).width, probe(clips.path(0)).height) == (48, 32)
    found = json.loads(report.read_text())
    assert found["files"] == {"listed": 4, "distinct": 4, "converted": 2, "already_there": 0, "broken": 2}
    assert [Path(one["path"]).name for one in found["broken"]] == ["cut.mp4", "text.mp4"]
    assert found["broken"][1]["reason"] == "is a text file, not a video"
    assert f"{tree}/sit/text.mp4: is a text file" in (out / "broken.txt").read_text()
    assert found["bytes"]["after"] == sum((out / name).stat().st_size for name in files_under(out))
    assert found["bytes"]["before"] == sum(
        (tree / name).stat().st_size for name in ("run/one.mp4", "jump/deep/two.avi")
    )
    assert found["reading"]["files"] == 2
    assert min(found["reading"].values()) > 0
    # A class has no clip left, so its number is kept by the list of names.
    assert found["set"] == [f"data.source.train|val|test={out}", f"data.source.label_names={out / 'classes.txt'}"]
    said = capsys.readouterr()
    assert "2 clips converted, 0 were there, 2 broken" in said.out
    assert "left out" in said.err


def test_what_is_finished_is_not_done_again(tree, tmp_path):
    out, report = tmp_path / "new", tmp_path / "out.json"
    run("--data", tree, "--out", out)
    first = {name: (out / name).stat().st_mtime_ns for name in files_under(out)}
    shutil.copy(tree / "run" / "one.mp4", tree / "run" / "cut.mp4")  # repaired
    make_clip(tree / "jump" / "deep" / "two.avi", num_frames=15)  # changed
    with open(out / ".converted" / "records.jsonl", "a") as file:
        file.write('{"name": "half a li')
    run("--data", tree, "--out", out, "--json", report)
    counts = json.loads(report.read_text())["files"]
    assert (counts["converted"], counts["already_there"], counts["broken"]) == (2, 1, 1)
    assert (out / "run" / "one.mp4").stat().st_mtime_ns == first["run/one.mp4"]
    assert probe(str(out / "jump" / "deep" / "two.mp4")).num_frames == 15
    run("--data", tree, "--out", out, "--json", report)
    assert json.loads(report.read_text())["files"]["already_there"] == 3
    # A clip that is whole no more is taken out again.
    (tree / "run" / "one.mp4").write_bytes(b"")
    run("--data", tree, "--out", out, "--json", report)
    assert json.loads(report.read_text())["broken"][0]["reason"] == "the file is empty (0 bytes)"
    assert files_under(out) == ["jump/deep/two.mp4", "run/cut.mp4"]


def test_a_list_keeps_its_order_its_labels_and_its_repeats(tmp_path, monkeypatch):
    folder = tmp_path / "my clips"
    one = make_clip(folder / "a" / "x.mp4", seed=1)
    two = make_clip(folder / "a" / "x.avi", seed=2)
    three = make_clip(folder / "b" / "a, b.mp4", seed=3)
    lines = [f"{three},dance", "a/x.mp4,walk", f"{folder}/gone.mp4,sleep", "a/x.avi,walk", f"{three},sit"]
    (tmp_path / "val.csv").write_text("\n".join(lines))
    out, report = tmp_path / "new", tmp_path / "out.json"
    run(*("--data", tmp_path / "val.csv", "--out", out, "--prefix", folder), *("--separator", ",", "--json", report))
    assert files_under(out) == ["val/a/x.avi.mp4", "val/a/x.mp4.mp4", "val/b/a, b.mp4"]
    names = (out / "val_classes.txt").read_text().split()
    clips = read_clips(ListRequest(str(out / "val.csv"), separator=",", names=tuple(names)))
    assert names == ["dance", "sit", "sleep", "walk"]
    assert [(Path(clips.path(place)).name, names[clips.label(place)]) for place in range(len(clips))] == [
        ("a, b.mp4", "dance"),
        ("x.mp4.mp4", "walk"),
        ("x.avi.mp4", "walk"),
        ("a, b.mp4", "sit"),
    ]
    found = json.loads(report.read_text())
    assert found["files"] | {"seconds": 0} == {
        "listed": 5,
        "distinct": 4,
        "converted": 3,
        "already_there": 0,
        "broken": 1,
        "seconds": 0,
    }
    assert found["set"] == [
        f"data.source.val={out}/val.csv",
        f"data.source.label_names={out}/val_classes.txt",
        "data.source.separator=','",
    ]
    # The sources may go once they are converted.
    for path in (one, two, three):
        path.unlink()
    run(*("--data", tmp_path / "val.csv", "--out", out, "--prefix", folder), *("--separator", ",", "--json", report))
    found = json.loads(report.read_text())
    assert (found["files"]["already_there"], found["reading"]) == (3, None)
    assert len(read_clips(ListRequest(str(out / "val.csv"), separator=",", names=tuple(names)))) == 4


def test_numbers_as_labels_stay_numbers(tmp_path):
    clip = make_clip(tmp_path / "clips" / "one.mp4")
    (tmp_path / "train.csv").write_text(f"{clip} 7\n")
    run("--data", tmp_path / "train.csv", "--out", tmp_path / "new")
    assert (tmp_path / "new" / "train.csv").read_text() == f"{tmp_path}/new/train/one.mp4 7\n"
    assert not (tmp_path / "new" / "train_classes.txt").exists()


def test_what_cannot_be_is_one_message_and_status_two(tree, tmp_path, capsys, monkeypatch):
    def refused(part, *arguments):
        run(*arguments, status=2)
        said = capsys.readouterr().err
        assert said.count("error: ") == 1
        assert "Traceback" not in said
        assert part in said

    out = tmp_path / "new"
    refused("inside", "--data", tree, "--out", tree / "new")
    refused("inside", "--data", tree, "--out", tree)
    listing = tmp_path / "list.csv"
    listing.write_text(f"{tree}/run/one.mp4 0\n")
    refused("is inside --out", "--data", listing, "--out", tree)
    refused("cannot read this list", "--data", tmp_path / "none.csv", "--out", out)
    refused("even number", "--data", tree, "--out", out, "--short-side", "33")
    refused("--workers 0", "--data", tree, "--out", out, "--workers", "0")
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "one.txt").write_text("dear")
    refused("not empty", "--data", listing, "--out", tmp_path / "letters")
    run("--data", listing, "--out", out)
    refused("crf 18 -> 20", "--data", listing, "--out", out, "--crf", "20")
    other = tmp_path / "other" / "list.csv"
    make_clip(tmp_path / "other" / "one.mp4")
    other.parent.mkdir(exist_ok=True)
    other.write_text(f"{tmp_path}/other/one.mp4 0\n")
    refused("would replace it", "--data", other, "--out", out)
    text = tmp_path / "texts.csv"
    text.write_text(f"{tree}/sit/text.mp4 0\n")
    refused("none of its 1 clips can be converted", "--data", text, "--out", tmp_path / "third")
    monkeypatch.setattr(av, "codecs_available", {"mpeg4"})
    refused("has no libx264", "--data", listing, "--out", tmp_path / "fourth")


@pytest.fixture
def long_list(tmp_path):
    clips = [make_clip(tmp_path / "clips" / f"{seed}.mp4", 150, 160, 120, seed) for seed in range(4)]
    listing = tmp_path / "train.csv"
    listing.write_text("".join(f"{clip} {place}\n" for place, clip in enumerate(clips)))
    return listing


def start(listing, out, **settings):
    command = [sys.executable, str(TOOL), "--data", str(listing), "--out", str(out), "--workers", "1"]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, **settings)


def wait_for_a_record(process, out):
    records = out / ".converted" / "records.jsonl"
    while not (records.exists() and records.stat().st_size):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.005)


def test_a_list_keeps_several_labels(tmp_path, capsys):
    for number in range(3):
        make_clip(tmp_path / f"{number}.mp4", seed=number)
    lines = ["0.mp4 run fast;jump", '1.mp4 ""', "2.mp4 jump"]
    (tmp_path / "train.txt").write_text("\n".join([f'"{line[:5]}" {line[6:]}' for line in lines]))
    run(*("--data", tmp_path / "train.txt", "--out", tmp_path / "new", "--prefix", tmp_path, "--several-labels"))
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("set "))
    keys = dict(key.removeprefix("data.source.").split("=") for key in line.split()[1:])
    assert keys["several_labels"] == "true"
    names = tuple(Path(keys["label_names"]).read_text().splitlines())
    clips = read_clips(ListRequest(keys["train"], names=names, several=True))
    found = [[names[number] for number in clips.label_set(place)] for place in range(3)]
    assert found == [["jump", "run fast"], [], ["jump"]]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_killed_or_interrupted_it_goes_on(long_list, tmp_path, number):
    out, report = tmp_path / "new", tmp_path / "out.json"
    process = start(long_list, out, start_new_session=True)
    wait_for_a_record(process, out)
    os.killpg(process.pid, number) if number == signal.SIGINT else process.kill()
    said = process.communicate()[1]
    if number == signal.SIGINT:
        assert process.returncode == 130
        assert "the same command goes on" in said
        assert "Traceback" not in said
        assert not (out / ".converted" / "making").exists()
    assert not (out / "train.csv").exists()
    finished = {path: path.stat().st_mtime_ns for path in out.rglob("train/*.mp4")}
    assert 1 <= len(finished) < 4
    assert convert_clips.main(["--data", str(long_list), "--out", str(out), "--json", str(report)]) == 0
    counts = json.loads(report.read_text())["files"]
    assert 1 <= counts["already_there"] <= len(finished)
    assert counts["converted"] + counts["already_there"] == 4
    assert len(files_under(out)) == 4  # and nothing half made
    once = [json.loads(line)["name"] for line in (out / ".converted" / "records.jsonl").open()]
    assert sorted(once) == sorted(set(once))


def test_a_full_disk_is_one_message(long_list, tmp_path):
    out = tmp_path / "new"

    def small_files_only():
        resource.setrlimit(resource.RLIMIT_FSIZE, (8_000, 8_000))

    process = start(long_list, out, preexec_fn=small_files_only)
    said = process.communicate()[1]
    assert process.returncode == 2
    assert said.startswith("error: ")
    assert "cannot be written" in said
    assert "the same command goes on" in said
    assert said.count("\n") == 1
    assert files_under(out) == []


def test_a_second_process_at_the_same_folder_is_refused(long_list, tmp_path, capsys):
    out = tmp_path / "new"
    process = start(long_list, out)
    try:
        wait_for_a_record(process, out)
        assert convert_clips.main(["--data", str(long_list), "--out", str(out)]) == 2
        assert "another process is converting into it" in capsys.readouterr().err
    finally:
        process.kill()
        process.wait()


def convert_with_faults(source, name, alive):
    if source == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if source == "hang":
        time.sleep(1000)
    return "met"


@pytest.mark.parametrize("source", ["crash", "hang"])
def test_a_crash_or_a_hang_costs_its_file_alone(source):
    names = {source: "", "one": "", "two": ""}
    found = dict(convert_all(names, convert_with_faults, 1, patience=3.0))
    assert "crashed the decoder or encoder, or made no progress for 3 s" in found.pop(source)
    assert found == {"one": "met", "two": "met"}
