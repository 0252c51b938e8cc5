"""Sample lists: every form that is read, and errors that name file, line and what was found."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

from revit.common.data.formats.base import ListRequest, read_source
from revit.common.data.formats.metadata import HuggingFaceFolder
from revit.common.data.formats.path_label import ClassFolders, PathLabel
from revit.common.data.formats.table import Table
from revit.common.data.formats.tar_shards import TarShards
from revit.common.data.label_names import read_label_names
from revit.common.data.lists import SampleList
from revit.common.system.errors import UserError

FORMATS = (HuggingFaceFolder(), TarShards(), ClassFolders(), Table(), PathLabel())


def read_samples(source: str, names=None, **options) -> SampleList:
    names = tuple(names) if names is not None else None
    return read_source(ListRequest(source, "clips", (".mp4", ".webm", ".mkv", ".avi"), names=names, **options), FORMATS)


read_list = read_samples


def pairs(clips: SampleList) -> list[tuple[str, int]]:
    return [(clips.path(position), clips.label(position)) for position in range(len(clips))]


@pytest.fixture
def write(tmp_path):
    def write(text: str, name: str = "train.csv") -> str:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


@pytest.mark.parametrize(
    ("separator", "text"),
    [
        (" ", "a.mp4 0\nmy clip.mp4 2\n\n/x/b c.avi   1\n"),
        (",", "a.mp4,0\nmy clip.mp4,2\n/x/b c.avi, 1\n"),
        (",", 'a.mp4,0\n"my clip.mp4",2\n/x/b c.avi,1'),
        ("\t", "a.mp4\t0\nmy clip.mp4\t2\n/x/b c.avi\t1\n"),
        ("\\t", "a.mp4\t0\nmy clip.mp4\t2\n/x/b c.avi\t1\n"),
        (";", "\ufeffa.mp4;0\r\nmy clip.mp4;2\r\n/x/b c.avi;1\r\n"),
    ],
)
def test_separators_and_paths_with_spaces(write, separator, text):
    clips = read_list(write(text), separator=separator)
    assert pairs(clips) == [("a.mp4", 0), ("my clip.mp4", 2), ("/x/b c.avi", 1)]
    assert clips.num_classes == 3
    assert clips.names is None


def test_the_prefix_joins_relative_paths_only(write):
    clips = read_list(write("a.mp4 0\n/x/b.mp4 1\n"), prefix="/data")
    assert [path for path, _ in pairs(clips)] == ["/data/a.mp4", "/x/b.mp4"]


def test_labels_by_name_are_numbered_alphabetically(write):
    clips = read_list(write("a.mp4 run\nb.mp4 jump\nc.mp4 run\n"))
    assert clips.names == ("jump", "run")
    assert clips.labels.tolist() == [1, 0, 1]


def test_known_names_allow_names_and_numbers(write):
    clips = read_list(write("a.mp4,run fast\nb.mp4,0\n"), separator=",", names=["walk", "run fast"])
    assert clips.labels.tolist() == [1, 0]
    assert clips.num_classes == 2


@pytest.mark.parametrize(
    ("text", "names", "message"),
    [
        ("a.mp4 0\nb.mp4\n", None, r"line 2: no label behind the path in 'b.mp4'"),
        ("a.mp4 0\nb.mp4 two\n", None, r"line 2: label 'two' is not a whole number"),
        ("a.mp4 0\nb.mp4 -1\n", None, r"line 2: label -1 is negative"),
        ("a.mp4 0\nb.mp4 7\n", ["x", "y"], r"line 2: label 7 is outside 0\.\.1"),
        ("a.mp4 x\nb.mp4 z\n", ["x", "y"], r"line 2: label 'z' is none of the 2 class names"),
        ("\n\n", None, "no clips"),
    ],
)
def test_bad_lines_are_named(write, text, names, message):
    path = write(text)
    with pytest.raises(UserError, match=message) as caught:
        read_list(path, names=names)
    assert path in str(caught.value)


def test_all_bad_lines_are_counted(write):
    with pytest.raises(UserError, match=r"9 bad lines(.|\n)*and 4 more"):
        read_list(write("a.mp4 0\n" + "nothing\n" * 9))


def test_a_missing_list_is_named(tmp_path):
    with pytest.raises(UserError, match=r"cannot read this list of clips \(no such file"):
        read_samples(str(tmp_path / "none.csv"))


def test_names_that_are_not_text_survive(tmp_path):
    path = tmp_path / "train.csv"
    path.write_bytes("caf\u00e9.mp4 0\n".encode() + b"bad\xff.mp4 1\n")
    assert [path for path, _ in pairs(read_list(str(path)))] == ["café.mp4", "bad\udcff.mp4"]


@pytest.fixture
def tree(tmp_path):
    for name in ("jump/b.mp4", "jump/deep/a.webm", "run/c.MKV", "run/notes.txt", "empty/x.txt", ".cache/d.mp4"):
        path = tmp_path / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return str(tmp_path / "tree")


def test_a_tree_has_a_class_per_folder(tree, caplog):
    clips = read_samples(tree)
    assert clips.names == ("jump", "run")
    assert [(path.rsplit("/", 1)[1], label) for path, label in pairs(clips)] == [
        ("b.mp4", 0),
        ("a.webm", 0),
        ("c.MKV", 1),
    ]
    assert "no clips in empty; they are no classes" in caplog.text


@pytest.mark.parametrize("hidden", ["", "jump", "jump/deep"])
def test_a_folder_that_cannot_be_read_is_no_empty_folder(tree, hidden, monkeypatch):
    scandir, forbidden = os.scandir, os.path.join(tree, hidden) if hidden else tree

    def without_permission(path="."):  # the tests may run as root, whom nothing is forbidden
        if os.fspath(path) == forbidden:
            raise PermissionError(13, "Permission denied", forbidden)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", without_permission)
    with pytest.raises(UserError, match=rf"{forbidden}: cannot be read \(permission denied\)"):
        read_samples(tree)


def test_a_tree_follows_the_class_names_it_is_given(tree):
    assert read_samples(tree, names=["run", "jump", "empty", "fly"]).labels.tolist() == [1, 1, 0]
    assert read_samples(tree, names=["run", "jump"]).names == ("run", "jump")
    with pytest.raises(UserError, match="'run' are not among the 2 known"):
        read_samples(tree, names=["jump", "empty"])


def test_a_folder_without_classes_is_refused(tmp_path):
    with pytest.raises(UserError, match="one subfolder of clips per class"):
        read_samples(str(tmp_path))


def test_class_counts_are_checked(write):
    clips = read_list(write("a.mp4 0\nb.mp4 4\n"))
    clips.check_classes(5)
    with pytest.raises(UserError, match=r"b.mp4 has label 4, the model has 4 classes \(0\.\.3\)"):
        clips.check_classes(4)
    with pytest.raises(UserError, match="2 class names, the model has 3"):
        read_list(write("a.mp4 x\nb.mp4 y\n")).check_classes(3)


def test_names_count_from_the_folder_that_was_given(tree, write):
    clips = read_samples(tree)
    assert [clips.name(position) for position in range(3)] == ["jump/b.mp4", "jump/deep/a.webm", "run/c.MKV"]
    assert read_list(write("a/b.mp4 0\n"), prefix="/data").name(0) == "a/b.mp4"
    assert read_list(write("/data2/b.mp4 0\n"), prefix="/data").name(0) == "/data2/b.mp4"
    assert read_list(write("a/b.mp4 0\n")).name(0) == "a/b.mp4"


def test_samples_can_be_opened(tmp_path, write):
    (tmp_path / "a.mp4").write_bytes(b"hello")
    clips = read_list(write("a.mp4 0\nb.mp4 0\n"), prefix=str(tmp_path))
    with clips.open(0) as file:
        assert file.read() == b"hello"
    with pytest.raises(FileNotFoundError):
        clips.open(1)


def test_some_samples_of_some_classes(write):
    clips = read_list(write("a.mp4 x\nbb.mp4 y\nccc.mp4 z\nd.mp4 y\n"), prefix="p")
    taken = clips.take(np.array([1, 2, 3]), kept=[2, 1], names=["z", "y"])
    assert pairs(taken) == [("p/bb.mp4", 1), ("p/ccc.mp4", 0), ("p/d.mp4", 1)]
    assert (taken.names, taken.kept, taken.source) == (("z", "y"), (2, 1), clips.source)
    assert taken.name(0) == "bb.mp4"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("names.txt", "jump\nrun fast\n\n"),
        ("names.json", json.dumps(["jump", "run fast"])),
        ("names.json", json.dumps({"run fast": 1, "jump": 0})),
        ("names.json", json.dumps({"1": "run fast", "0": "jump"})),
        ("names.csv", "id,name\n0,jump\n1,run fast\n"),
        ("names.csv", "jump,0\nrun fast,1\n"),
        ("names.csv", "jump\nrun fast\n"),
        ("names.csv", "name\njump\nrun fast\n"),
        ("names.csv", "id;name\r\n1;run fast\r\n0;jump\r\n"),
        ("names.tsv", "0\tjump\n1\trun fast\n"),
        ("names.csv", 'id,key,instances\n1,run fast,"[1, 2]"\n0,jump,"[]"\n'),
        ("names.txt", "\ufeff1 jump\n2 run fast\n"),
        ("names.txt", "c001 run fast\nc000 jump\n"),
        ("names.txt", "jump 0\nrun fast 1\n"),
        ("names.json", json.dumps({"jump": "0", "run fast": "1"})),
        ("names.json", json.dumps([["jump"], ["run", "fast"]])),
    ],
)
def test_class_name_files(write, name, text):
    assert read_label_names(write(text, name)) == ("jump", "run fast")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("names.json", "{", "not a list of class names"),
        ("names.json", '{"a": 0, "b": 2}', r"numbered 0\.\.1"),
        ("names.json", "3", "expected a list"),
        ("names.csv", "a,b\nc,d\n", "expected rows"),
        ("names.txt", "", "no class names"),
        ("names.txt", "0 a\n2 b\n", r"numbered 0\.\.1.*JSON list"),
        ("names.txt", "0 a\n0 b\n", "each number once"),
        ("names.json", '{"classes": ["a", "b"]}', "expected a list"),
        ("names.json", '{"a": null}', "expected a list"),
        ("names.txt", "a\nb\na\n", "more than once: a"),
    ],
)
def test_faulty_class_name_files_are_named(write, name, text, message):
    path = write(text, name)
    with pytest.raises(UserError, match=message) as caught:
        read_label_names(path)
    assert path in str(caught.value)
