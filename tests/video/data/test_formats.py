"""Lists as their authors write them: each is recognised, says what it is, and trains a model whose classes are right."""

from __future__ import annotations

import csv
import json
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from revit.common.data.formats.base import ListRequest, Split
from revit.common.data.lists import Segment
from revit.common.system.errors import UserError
from revit.video.data.clips import build_eval_loader, build_train_loader, read_split
from revit.video.data.decode.read import probe, read_frames
from revit.video.data.lists import read_clips
from revit.video.data.options import ClipOptions
from revit.video.models.timesformer import TimeSformer

DARK, LIGHT = 40, 215
CLASSES = {"Archery": DARK, "Brush Hair": LIGHT}
"""Grey level of every clip of a class."""
FPS = 10


def write_clip(path: Path, levels: list[int]) -> None:
    """Write a clip with a frame of each grey level."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = "avi" if path.suffix == ".avi" else "webm" if path.suffix == ".webm" else "mp4"
    with av.open(str(path), "w", format=kind) as container:
        stream = container.add_stream("libvpx" if kind == "webm" else "libx264", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        for level in levels:
            frame = av.VideoFrame.from_ndarray(np.full((32, 48, 3), level, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def write_frames(folder: Path, levels: list[int]) -> None:
    """Write a folder of pictures, numbered without leading zeros."""
    folder.mkdir(parents=True)
    for number, level in enumerate(levels):
        Image.fromarray(np.full((32, 48, 3), level, np.uint8)).save(folder / f"img_{number + 1}.png")


@dataclass
class Layout:
    """What a writer left: the values of `data.source`, and what is to be read of it."""

    source: dict[str, object]
    said: str
    """Part of the line that says what was read."""
    names: tuple[str, ...] | None = tuple(CLASSES)
    labels: list[int] = field(default_factory=lambda: [0, 1, 0, 1])


def four(folder: Path, name: Callable[[str, int], str]) -> list[tuple[str, str]]:
    """Write two whole clips of each class, called by `name(class, number)`; returns (name, class) in turns."""
    made = [(name(label, number), label) for number in (1, 2) for label in CLASSES]
    for path, label in made:
        write_clip(folder / path, [CLASSES[label]] * 6)
    return made


def number(label: str, first: int = 0) -> int:
    return list(CLASSES).index(label) + first


def save(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


def rows(path: Path, *lines: tuple[object, ...], delimiter: str = ",") -> str:
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=delimiter).writerows(lines)
    return str(path)


# -- one writer for each layout ------------------------------------------------------------------------------------------


def path_label(folder: Path) -> Layout:
    made = four(folder, lambda label, n: f"{label}/my clip {n}.mp4")
    text = "".join(f"{path} {number(label)}\r\n" for path, label in made)
    return Layout({"train": save(folder / "train.csv", "\ufeff" + text), "prefix": folder}, "labels from 0", None)


def labels_from_one(folder: Path) -> Layout:
    made = four(folder, lambda label, n: f"{n}{label[0]}.mp4")
    text = "".join(f'"{path}" {number(label, 1)}\n' for path, label in made)
    return Layout({"train": save(folder / "list.txt", text), "prefix": folder}, "labels from 1", None)


def list_with_header(folder: Path) -> Layout:
    made = four(folder, lambda label, n: f"{n}{label[0]}.mp4")
    text = "filename label\n" + "".join(f"{path} {number(label)}\n" for path, label in made)
    return Layout({"train": save(folder / "list.txt", text), "prefix": folder}, "without the header", None)


def list_without_endings(folder: Path) -> Layout:
    made = four(folder, lambda label, n: f"{label[0]}{n}.mkv")
    text = "".join(f"{path[:-4]} {number(label)}\n" for path, label in made)
    return Layout({"train": save(folder / "list.txt", text), "prefix": folder}, "paths and labels", None)


def pandas_csv(folder: Path) -> Layout:
    """An index column without a name, quoted names with commas."""
    made = four(folder, lambda label, n: f"{label[0]}, {n}.mp4")
    lines = [(at, path, f"{label}, outdoors") for at, (path, label) in enumerate(made)]
    path = rows(folder / "train.csv", ("", "video_path", "class"), *lines)
    return Layout({"train": path, "prefix": folder}, "CSV", tuple(f"{label}, outdoors" for label in CLASSES))


def csv_without_header(folder: Path) -> Layout:
    made = four(folder, lambda label, n: f"a {label[0]}{n}.mp4")
    return Layout({"train": rows(folder / "l.csv", *made, delimiter=";"), "prefix": folder}, "CSV")


def csv_of_numbers_and_names(folder: Path) -> Layout:
    made = four(folder, lambda label, n: f"{label[0]}{n}.mp4")
    lines = [(path, 1 - number(label), label) for path, label in made]  # numbered against the alphabet
    path = rows(folder / "l.tsv", ("path", "label", "class_name"), *lines, delimiter="\t")
    return Layout({"train": path, "prefix": folder}, "CSV", tuple(CLASSES)[::-1], [1, 0, 1, 0])


def csv_of_segments(folder: Path) -> Layout:
    write_clip(folder / "long.mp4", [DARK] * 20 + [LIGHT] * 20)
    lines = [("long.mp4", 0, 2, "Archery"), ("long.mp4", 2, "0:04", "Brush Hair")]
    path = rows(folder / "l.csv", ("file", "start", "end", "label"), *lines)
    return Layout({"train": path, "prefix": folder}, "CSV", labels=[0, 1])


def kinetics(folder: Path) -> Layout:
    made = four(folder / "train", lambda label, n: f"-{label[0]}_a{n}_{n:06d}_{n + 10:06d}.mp4")
    lines: list[tuple[object, ...]] = [
        (label, f"-{label[0]}_a{n}", n, n + 10, "train") for n in (1, 2) for label in CLASSES
    ]
    assert made[0][0] == "-A_a1_000001_000011.mp4"
    lines.append(("Archery", "of_the_validation", 3, 13, "validate"))
    path = rows(folder / "k400.csv", ("label", "youtube_id", "time_start", "time_end", "split"), *lines)
    return Layout({"train": path, "prefix": folder}, "Kinetics")


def something_something(folder: Path) -> Layout:
    made = four(folder / "videos", lambda label, n: f"{n}{number(label)}.webm")
    templates = {"Archery": "Pushing [something] left", "Brush Hair": "Lifting [something]"}
    entries = [
        {"id": path[:-5], "label": "pushing a pen", "template": templates[label], "placeholders": ["a pen"]}
        for path, label in made
    ]
    names = [text.replace("[", "").replace("]", "") for text in templates.values()]
    save(folder / "labels.json", json.dumps({name: str(at) for at, name in enumerate(names)}))
    path = save(folder / "train.json", json.dumps(entries))
    return Layout({"train": path, "prefix": folder / "videos"}, "Something-Something", tuple(names))


def ucf101(folder: Path) -> Layout:
    classes = {"Archery": "Archery", "Brush Hair": "BrushHair"}
    made = four(folder, lambda label, n: f"{classes[label]}/v_{classes[label]}_g{n:02d}_c01.avi")
    save(folder / "classInd.txt", "1 Archery\r\n2 BrushHair\r\n")
    save(folder / "trainlist01.txt", "".join(f"{path} {number(label, 1)}\r\n" for path, label in made))
    save(folder / "testlist01.txt", "".join(f"{path}\r\n" for path, _ in made[:2]))
    source = {"train": folder / "trainlist01.txt", "test": folder / "testlist01.txt", "prefix": folder}
    return Layout(source, "UCF101 split, labels from 1", ("Archery", "BrushHair"))


def hmdb51(folder: Path) -> Layout:
    made = four(folder, lambda label, n: f"{label}/{label[0]} {n}.avi")
    for label in CLASSES:
        names = [path.split("/")[1] for path, other in made if other == label]
        save(
            folder / f"{label}_test_split1.txt",
            "".join(f"{name} 1 \n" for name in names) + "of the test.avi 2 \nnone.avi 0 \n",
        )
        save(folder / f"{label}_test_split2.txt", "another.avi 1 \n")
    return Layout({"train": folder, "prefix": folder}, "HMDB51 split 1", labels=[0, 0, 1, 1])


def diving48(folder: Path) -> Layout:
    for name in ("a", "b"):
        write_clip(folder / "rgb" / f"{name}.mp4", [DARK] * 10 + [LIGHT] * 10)
    entries = [
        {"vid_name": name, "label": at, "start_frame": 10 * at, "end_frame": 10 + 10 * at}
        for at in (0, 1)
        for name in "ab"
    ]
    save(folder / "Diving48_vocab.json", json.dumps([["Back", "15som"], ["Forward", "25som"]]))
    path = save(folder / "Diving48_train.json", json.dumps(entries))
    return Layout({"train": path, "prefix": folder / "rgb"}, "Diving48", ("Back 15som", "Forward 25som"), [0, 0, 1, 1])


def charades(folder: Path) -> Layout:
    write_clip(folder / "YSKX3.mp4", [DARK] * 20 + [LIGHT] * 20)
    header = ("id", "subject", "scene", "script", "actions", "length")
    lines = [
        ("YSKX3", "HR43", "Bedroom", "A person, seated.", "c000 0.00 1.90;c001 2.10 4.00", "4.0"),
        ("46GP8", "x", "y", "z", "", "5"),
    ]
    save(folder / "Charades_v1_classes.txt", "c000 Archery\nc001 Brush Hair\n")
    return Layout(
        {"train": rows(folder / "Charades_v1_train.csv", header, *lines), "prefix": folder}, "Charades", labels=[0, 1]
    )


def epic(folder: Path) -> Layout:
    write_clip(folder / "P01" / "videos" / "P01_01.MP4", [DARK] * 20 + [LIGHT] * 20)
    header = (
        "narration_id",
        "participant_id",
        "video_id",
        "start_timestamp",
        "stop_timestamp",
        "verb",
        "verb_class",
        "noun_class",
    )
    lines = [
        ("P01_01_0", "P01", "P01_01", "00:00:00.14", "00:00:01.90", "shoot", 0, 3),
        ("P01_01_1", "P01", "P01_01", "00:00:02.1", "00:00:03.37", "brush", 1, 5),
    ]
    rows(
        folder / "EPIC_100_verb_classes.csv", ("id", "key", "instances"), (0, "Archery", "[]"), (1, "Brush Hair", "[]")
    )
    return Layout(
        {"train": rows(folder / "EPIC_100_train.csv", header, *lines), "prefix": folder},
        "column verb_class",
        labels=[0, 1],
    )


def mmaction_frames(folder: Path) -> Layout:
    for name in ("x 1", "y"):
        write_frames(folder / name, [DARK] * 6 + [LIGHT] * 6)
    text = "".join(f"{name} {offset} 6 {label}\n" for label, offset in ((0, 0), (1, 6)) for name in ("x 1", "y"))
    return Layout({"train": save(folder / "rawframes.txt", text), "prefix": folder}, "mmaction2", None, [0, 0, 1, 1])


def mmaction_whole_folders(folder: Path) -> Layout:
    for at, level in enumerate(CLASSES.values()):
        write_frames(folder / f"v{at}", [level] * 11)
    return Layout(
        {"train": save(folder / "rawframes.txt", "v0 11 0\nv1 11 1\n"), "prefix": folder}, "mmaction2", None, [0, 1]
    )


def frame_folders(folder: Path) -> Layout:
    for label, level in CLASSES.items():
        for at in (1, 2):
            write_frames(folder / label / f"clip {at}", [level] * 6)
    return Layout({"train": folder}, "a folder per class", labels=[0, 0, 1, 1])


def class_folders(folder: Path) -> Layout:
    four(folder, lambda label, n: f"{label}/{n}.webm")
    return Layout({"train": folder}, "a folder per class", labels=[0, 0, 1, 1])


def shards(folder: Path) -> Layout:
    made = four(folder / "x", lambda label, n: f"{n}{number(label)}.mp4")
    (folder / "shards").mkdir()
    for part in (0, 1):
        with tarfile.open(folder / "shards" / f"{part:04d}.tar", "w") as tar:
            for path, label in made[2 * part : 2 * part + 2]:
                save(folder / "label", label)
                tar.add(folder / "label", f"{path[:-4]}.cls")
                tar.add(folder / "x" / path, path)
    return Layout({"train": folder / "shards"}, "2 tar files")


def hugging_face(folder: Path) -> Layout:
    made = four(folder / "train", lambda label, n: f"clips/{n}{label[0]}.mp4")
    rows(folder / "train" / "metadata.csv", ("file_name", "label"), *made)
    return Layout({"train": folder}, "Hugging Face")


def hugging_face_lines(folder: Path) -> Layout:
    made = four(folder, lambda label, n: f"{n}{label[0]}.mp4")
    save(
        folder / "metadata.jsonl",
        "".join(json.dumps({"file_name": path, "label": label}) + "\n" for path, label in made),
    )
    return Layout({"train": folder}, "Hugging Face")


LAYOUTS = (
    *(path_label, labels_from_one, list_with_header, list_without_endings, pandas_csv, csv_without_header),
    *(csv_of_numbers_and_names, csv_of_segments, kinetics, something_something, ucf101, hmdb51, diving48, charades),
    *(
        epic,
        mmaction_frames,
        mmaction_whole_folders,
        frame_folders,
        class_folders,
        shards,
        hugging_face,
        hugging_face_lines,
    ),
)


def options_of(layout: Layout) -> ClipOptions:
    source = {key: str(value) for key, value in layout.source.items()}
    return ClipOptions.model_validate(
        {
            "source": source,
            "frames": {"num_frames": 2, "sampling_rate": 1, "sampling": "segments"},
            "pixels": {"crop_size": 16, "jitter_min": 16, "jitter_max": 20, "mean": [0.5] * 3, "std": [0.5] * 3},
            "loading": {"num_workers": 0, "decode_timeout_seconds": 0},
        }
    )


@pytest.mark.parametrize("write", LAYOUTS, ids=lambda write: write.__name__)
def test_a_model_trained_on_it_has_the_right_classes(write, tmp_path):
    layout = write(tmp_path)
    options = options_of(layout)
    clips = read_split(options, "train")
    assert layout.said in clips.read_as
    assert clips.labels.tolist() == layout.labels
    assert clips.names == layout.names
    assert clips.num_classes == 2

    torch.manual_seed(0)
    model = TimeSformer(img_size=16, grids=["1x1"], num_frames=2, embed_dim=16, depth=1, num_heads=2, num_classes=2)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    loader = build_train_loader(options, len(clips), seed=0)
    for _ in range(12):
        for batch in loader:
            loss = F.cross_entropy(model(batch.inputs.float() / 127.5 - 1).logits, batch.targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        for level, name in zip((DARK, LIGHT), (0, 1) if layout.labels[0] == 0 else (1, 0)):
            probe = torch.full((1, 3, 2, 16, 16), level / 127.5 - 1)
            assert model.eval()(probe).logits.argmax() == name
        for batch in build_eval_loader(options, "train", 1):
            assert model(batch.inputs.float() / 127.5 - 1).logits.argmax(-1).tolist() == batch.targets.tolist()


def request(where: object, split: Split = "train", **more: object) -> ListRequest:
    return replace(ListRequest(str(where), split=split), **more)


def test_the_test_list_of_ucf101_takes_classes_from_folders(tmp_path):
    options = options_of(ucf101(tmp_path))
    tested = read_split(options, "test")
    assert (tested.labels.tolist(), tested.names) == ([0, 1], ("Archery", "BrushHair"))
    assert read_clips(request(tmp_path, "test", prefix=str(tmp_path))).labels.tolist() == [0, 1]
    assert len(read_clips(request(tmp_path, fold=1))) == 4


def test_one_file_of_hmdb51_names_the_folder(tmp_path):
    hmdb51(tmp_path)
    assert len(read_clips(request(tmp_path, "test"))) == 2
    assert len(read_clips(request(tmp_path, fold=2))) == 2
    with pytest.raises(UserError, match="give the folder"):
        read_clips(request(tmp_path / "Archery_test_split1.txt"))


def test_labels_of_a_list_count_as_those_of_the_training_list(tmp_path):
    train = save(tmp_path / "train.txt", "a.mp4 1\nb.mp4 2\nc.mp4 3\n")
    val = save(tmp_path / "val.txt", "d.mp4 2\ne.mp4 3\n")
    assert read_split(options_of(Layout({"train": train, "val": val}, "")), "val").labels.tolist() == [1, 2]
    zero = save(tmp_path / "zero.txt", "d.mp4 0\n")
    with pytest.raises(UserError, match=r"line 1: label 0 is below 1"):
        read_split(options_of(Layout({"train": train, "val": zero}, "")), "val")
    forced = read_clips(request(train, first_label=0))
    assert forced.labels.tolist() == [1, 2, 3]


def test_some_classes_of_a_larger_data_set_keep_their_numbers(tmp_path):
    assert read_clips(request(save(tmp_path / "l.txt", "a.mp4 1\nb.mp4 2\nc.mp4 7\n"))).labels.tolist() == [1, 2, 7]


def test_names_of_a_file_tell_where_labels_begin(tmp_path):
    where = save(tmp_path / "l.txt", "a.mp4 1\nb.mp4 2\n")
    assert read_clips(request(where, names=("x", "y"))).labels.tolist() == [0, 1]
    assert read_clips(request(where, names=("x", "y", "z"))).labels.tolist() == [1, 2]


@pytest.mark.parametrize(
    ("folders", "key"), [(("train", "val"), "val"), (("Training", "Test"), "train"), (("all",), "train")]
)
def test_a_folder_one_level_too_high_is_refused(tmp_path, folders, key):
    for folder in folders:
        for label in CLASSES:
            write_frames(tmp_path / folder / label / "x", [0])
            (tmp_path / folder / label / "a.mp4").touch()
    with pytest.raises(UserError, match=rf"one folder too high.*data\.source\.{key}="):
        read_clips(request(tmp_path))


def test_class_folders_that_are_numbers_are_said(tmp_path, caplog):
    for label in ("1", "2", "10"):
        (tmp_path / label).mkdir()
        (tmp_path / label / "a.mp4").touch()
    assert read_clips(request(tmp_path)).names == ("1", "10", "2")
    assert "10 is class 1" in caplog.text


def test_a_format_can_be_forced(tmp_path):
    where = save(tmp_path / "l.csv", "my clip.mp4,x 3\nyour clip.mp4,y 2\n")
    assert read_clips(request(where, format="path_label")).path(0) == "my clip.mp4,x"
    assert read_clips(request(where)).names == ("x 3", "y 2")
    with pytest.raises(UserError, match=r"data\.source\.format 'cvs': choose from"):
        read_clips(request(where, format="cvs"))


def test_a_segment_beyond_the_file_is_that_samples_failure(tmp_path):
    write_clip(tmp_path / "a.mp4", [DARK] * 10)
    where = rows(tmp_path / "l.csv", ("path", "start", "end", "label"), ("a.mp4", 0, 1, "x"), ("a.mp4", 5, 6, "y"))
    loader = build_eval_loader(options_of(Layout({"train": where, "prefix": tmp_path}, "")), "train", 2)
    (batch,) = loader
    assert batch.targets.tolist() == [0]
    assert "the segment begins at 5 seconds, the file has 1.0 seconds" in loader.broken.report()


@pytest.mark.parametrize(
    ("start", "end", "first", "count"), [(0, 1, 0, 10), (0.5, 1.0, 5, 5), (0.96, 9, 10, 80), (1, 1, 10, 1)]
)
def test_frames_of_a_segment(start, end, first, count):
    assert Segment(start, end, "seconds").frames(100, 10.0) == (first, count)
    assert Segment(first, first + count, "frames").frames(100, 29.97) == (first, count)


def test_the_list_of_the_test_server_has_no_labels(tmp_path):
    where = save(tmp_path / "test.json", json.dumps([{"id": "1"}, {"id": "2"}]))
    with pytest.raises(UserError, match="have no labels"):
        read_clips(request(where))


def test_frames_of_a_tar_member_are_those_of_the_file(tmp_path):
    clips = read_clips(request(shards(tmp_path).source["train"]))
    part = clips.file(1)
    whole = tmp_path / "x" / part.rsplit("/", 1)[1]
    assert probe(part) == probe(str(whole))
    np.testing.assert_array_equal(
        read_frames(part, lambda info: range(6)), read_frames(str(whole), lambda info: range(6))
    )


def labels_of(where: object, **more: object) -> list[str]:
    clips = read_clips(request(where, **more))
    return [clips.class_name(label) for label in clips.labels.tolist()]


def test_folders_and_files_of_ucf101_may_differ_in_case(tmp_path):
    name = "HandstandPushups/v_HandStandPushups_g01_c01.avi"
    assert labels_of(save(tmp_path / "trainlist01.txt", f"Archery/v_Archery_g01_c01.avi 1\n{name} 2\n")) == [
        "Archery",
        "HandstandPushups",
    ]
    assert labels_of(save(tmp_path / "testlist01.txt", f"{name}\n")) == ["HandstandPushups"]


def test_a_label_of_ucf101_that_is_another_class_is_refused(tmp_path):
    save(tmp_path / "classInd.txt", "1 Archery\n2 Fencing\n")
    where = save(tmp_path / "trainlist01.txt", "Archery/v_Archery_g01_c01.avi 2\n")
    with pytest.raises(UserError, match="line 1: label 2 is another class"):
        read_clips(request(where))


def test_class_tables_are_read_by_their_numbers_and_marks(tmp_path):
    rows(tmp_path / "EPIC_100_verb_classes.csv", ("id", "key"), (1, "close"), (0, "open"))
    header = ("video_id", "start_timestamp", "stop_timestamp", "verb_class")
    assert labels_of(rows(tmp_path / "epic.csv", header, ("P01", 0, 1, 0), ("P01", 1, 2, 1))) == ["open", "close"]
    save(tmp_path / "Charades_v1_classes.txt", "\ufeffc000 Holding\nc001 Sitting\n")
    quoted = save(tmp_path / "charades.csv", '"id","actions"\n"X","c000 0 1;c001 1 2; "\n')
    assert labels_of(quoted) == ["Holding", "Sitting"]


def test_labels_with_a_point_are_numbers(tmp_path):
    clips = read_clips(request(rows(tmp_path / "l.csv", ("path", "label"), ("a.mp4", "10.0"), ("b.mp4", "2.0"))))
    assert (clips.labels.tolist(), clips.names) == ([10, 2], None)


@pytest.mark.parametrize(("column", "segment"), [("start", (3.0, float("inf"))), ("end", (0.0, 3.0))])
def test_one_time_alone_is_a_segment(tmp_path, column, segment):
    clips = read_clips(request(rows(tmp_path / "l.csv", ("path", column, "label"), ("a.mp4", 3, "x"))))
    assert clips.segments is not None
    assert tuple(clips.segments[0]) == segment


@pytest.mark.parametrize(("start", "end"), [(2, 2), (3, 1), ("nan", 4), (0, "inf"), (-1, 2), ("", 2)])
def test_times_that_make_no_segment_are_named(tmp_path, start, end):
    where = rows(tmp_path / "l.csv", ("path", "start", "end", "label"), ("a.mp4", start, end, "x"))
    with pytest.raises(UserError, match="line 2"):
        read_clips(request(where))


@pytest.mark.parametrize("entry", [{"start_frame": None}, {"end_frame": "x"}, {"start_frame": 5, "end_frame": 5}])
def test_frames_that_make_no_segment_are_named(tmp_path, entry):
    where = save(tmp_path / "d.json", json.dumps([{"vid_name": "a", "label": 0, **entry}]))
    with pytest.raises(UserError, match="no numbers of frames"):
        read_clips(request(where))


def test_words_of_a_split_that_nobody_knows_are_named(tmp_path):
    header = ("label", "youtube_id", "time_start", "time_end", "split")
    known = rows(
        tmp_path / "k.csv", header, ("x", "a", 0, 1, "training"), ("y", "b", 0, 1, "train"), ("z", "c", 0, 1, "val")
    )
    assert labels_of(known) == ["x", "y"]
    unknown = rows(tmp_path / "u.csv", header, ("x", "a", 0, 1, "train"), ("y", "b", 0, 1, "heldout"))
    with pytest.raises(UserError, match="'heldout'"):
        read_clips(request(unknown))
    with pytest.raises(UserError, match="'inf' is no time"):
        read_clips(request(rows(tmp_path / "i.csv", header, ("x", "a", 0, "inf", "train"))))


def test_names_without_ending_in_two_columns(tmp_path):
    """Something-Something, version 1."""
    (tmp_path / "100218").mkdir()
    where = save(tmp_path / "v1.csv", "100218;Something falling like a feather or paper\n7;Pushing something, left\n")
    clips = read_clips(request(where, prefix=str(tmp_path)))
    assert clips.names == ("Pushing something, left", "Something falling like a feather or paper")
    assert clips.path(0) == str(tmp_path / "100218")


def test_names_without_ending_are_looked_for_where_the_list_says(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.mp4").touch()
    clips = read_clips(request(save(tmp_path / "l.txt", "a/x 0\nb/x 1\n"), prefix=str(tmp_path)))
    assert [clips.path(0), clips.path(1)] == [str(tmp_path / "a" / "x.mp4"), str(tmp_path / "b" / "x.mp4")]
    with pytest.raises(UserError, match="x may be"):
        read_clips(request(save(tmp_path / "m.txt", "x 0\n"), prefix=str(tmp_path)))


def test_names_and_numbers_in_two_lists_of_a_run(tmp_path, caplog):
    numbers = save(tmp_path / "numbers.txt", "a.mp4 0\nb.mp4 1\n")
    names = save(tmp_path / "names.txt", "a.mp4 walk\nb.mp4 run\n")
    with pytest.raises(UserError, match="those of the training list are numbers"):
        read_split(options_of(Layout({"train": numbers, "val": names}, "")), "val")
    assert read_split(options_of(Layout({"train": names, "val": numbers}, "")), "val").names == ("run", "walk")
    assert "0 is taken for 'run'" in caplog.text


def test_two_tables_may_number_the_classes_otherwise(tmp_path):
    header = ("path", "label", "class_name")
    train = rows(tmp_path / "t.csv", header, ("a.mp4", 0, "walk"), ("b.mp4", 1, "run"))
    val = rows(tmp_path / "v.csv", header, ("c.mp4", 0, "run"), ("d.mp4", 1, "walk"))
    clips = read_split(options_of(Layout({"train": train, "val": val}, "")), "val")
    assert [clips.class_name(label) for label in clips.labels.tolist()] == ["run", "walk"]


def shard_of(path: Path, **labels: bytes) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in labels.items():
            stem, _, ending = name.rpartition("_")
            for inside, data in ((f"{stem}.mp4", b"x"), (f"{stem}.{ending}", content)):
                (path.parent / "member").write_bytes(data)
                tar.add(path.parent / "member", inside)
    return path


def test_labels_in_tar_files(tmp_path):
    from_one = read_clips(request(shard_of(tmp_path / "a.tar", a_cls=b"1", b_cls=b"2")))
    assert (from_one.labels.tolist(), from_one.first_label) == ([0, 1], 1)
    with pytest.raises(UserError, match="no label beside it"):
        read_clips(request(shard_of(tmp_path / "b.tar", a_cls=b"x", b_json=b'{"label": null}')))
    with pytest.raises(UserError, match=r"a\.cls is no text"):
        read_clips(request(shard_of(tmp_path / "c.tar", a_cls=b"\xff\xfe")))
