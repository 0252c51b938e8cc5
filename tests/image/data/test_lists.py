"""Trees, lists and tar files give the same pictures; class subsets number them anew."""

from __future__ import annotations

import io
import tarfile

import numpy as np
import pytest

from revit.common.data.formats.base import ListRequest
from revit.common.data.lists import SampleList
from revit.common.system.errors import UserError
from revit.image.data import lists
from revit.image.data.decode import read_picture
from revit.image.data.lists import keep_classes


def read_pictures(source: str, names=None, **options) -> SampleList:
    return lists.read_pictures(ListRequest(source, names=tuple(names) if names is not None else None, **options))


def contents(samples: SampleList) -> list[tuple[str, int, bytes]]:
    """(name from the class folder on, label, pixels) of every sample, in the order of the names."""
    return sorted(
        (samples.name(at), samples.label(at), read_picture(samples.path(at), lambda at=at: samples.open(at)).tobytes())
        for at in range(len(samples))
    )


def pack(path, files: dict[str, bytes], mode: str = "w") -> str:
    with tarfile.open(path, mode) as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return str(path)


@pytest.fixture
def one_tar(tree, tmp_path) -> str:
    with tarfile.open(tmp_path / "one.tar", "w") as tar:
        tar.add(tree, arcname="imagenet/train")
    return str(tmp_path / "one.tar")


@pytest.fixture
def tar_per_class(tree, tmp_path) -> str:
    (tmp_path / "shards").mkdir()
    for folder in tree.iterdir():
        pack(tmp_path / "shards" / f"{folder.name}.tar", {file.name: file.read_bytes() for file in folder.iterdir()})
    return str(tmp_path / "shards")


@pytest.fixture
def shards(tree, tmp_path) -> str:
    """webdataset's: keys of any name, the label beside the picture."""
    (tmp_path / "wds").mkdir()
    for number, folder in enumerate(sorted(tree.iterdir())):
        files = {}
        for file in folder.iterdir():
            files |= {
                f"{file.stem}.cls": f"{number}\n".encode(),
                f"{file.stem}.json": b"{}",
                file.name: file.read_bytes(),
            }
        pack(tmp_path / "wds" / f"part-{number}.tar", files)
    return str(tmp_path / "wds")


def test_a_tree_is_numbered_by_its_folders(tree):
    pictures = read_pictures(str(tree))
    assert pictures.names == ("n00", "n01", "n02")
    assert pictures.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert pictures.name(4) == "n01/n01_0.PNG"


@pytest.mark.parametrize("source", ["one_tar", "tar_per_class"])
def test_tar_files_hold_what_the_tree_holds(tree, source, request):
    packed, plain = read_pictures(request.getfixturevalue(source)), read_pictures(str(tree))
    assert packed.names == plain.names
    assert contents(packed) == contents(plain)


def test_shards_bring_their_labels_along(tree, shards):
    packed, plain = read_pictures(shards), read_pictures(str(tree))
    assert packed.names is None
    assert packed.num_classes == 3
    assert [row[1:] for row in contents(packed)] == [row[1:] for row in contents(plain)]
    assert packed.name(0) == "part-0/" + packed.path(0).rsplit("/")[-1]
    assert read_pictures(shards, names=["a", "b", "c"]).names == ("a", "b", "c")


def test_labels_of_shards_may_be_names(tmp_path):
    path = pack(tmp_path / "a.tar", {"x.jpg": b"1", "x.cls": b"dog", "y.jpg": b"2", "y.cls": b"cat"})
    pictures = read_pictures(path)
    assert pictures.names == ("cat", "dog")
    assert pictures.labels.tolist() == [1, 0]
    assert pictures.open(1).read() == b"2"


def test_pictures_in_tar_files_are_read_in_any_order(one_tar):
    pictures = read_pictures(one_tar)
    first = contents(pictures)
    for at in (7, 0, 11, 3):
        assert (
            pictures.name(at),
            pictures.label(at),
            read_picture("", lambda at=at: pictures.open(at)).tobytes(),
        ) in first


def test_a_tar_file_cut_after_its_index_was_made_breaks_single_pictures(one_tar):
    pictures = read_pictures(one_tar)
    with open(one_tar, "r+b") as file:
        file.truncate(int(pictures.offsets[-1]) + 10)
    with pytest.raises(OSError, match="ends within this file"):
        pictures.open(len(pictures) - 1)


def test_folders_called_like_numbers_are_names(tmp_path):
    path = pack(tmp_path / "a.tar", {"3/a.jpg": b"1", "10/b.jpg": b"2"})
    pictures = read_pictures(path)
    assert pictures.names == ("10", "3")
    with pytest.raises(UserError, match="'3' is not among the 2 known"):
        read_pictures(path, names=["10", "4"])


@pytest.mark.parametrize(
    ("files", "mode", "message"),
    [
        ({"n0/a.jpg": b"1"}, "w:gz", "not an uncompressed tar file.*uncompress it first"),
        ({"a.txt": b"1"}, "w", "no pictures"),
        ({"a.jpg": b"1", "a.cls": b"0", "b.jpg": b"2"}, "w", "b.jpg has no label beside it"),
        ({"a.jpg": b"1", "a.cls": b"-3"}, "w", "a.jpg: label -3 is negative"),
    ],
)
def test_faulty_tar_files_are_named(tmp_path, files, mode, message):
    path = pack(tmp_path / "a.tar", files, mode)
    with pytest.raises(UserError, match=message) as caught:
        read_pictures(path)
    assert path in str(caught.value)


def test_a_damaged_tar_file_is_named(one_tar, tmp_path):
    with open(one_tar, "r+b") as file:
        file.truncate(5000)
    with pytest.raises(UserError, match=r"one\.tar: not an uncompressed tar file"):
        read_pictures(one_tar)
    with pytest.raises(UserError, match="no such file"):
        read_pictures(str(tmp_path / "none.tar"))


@pytest.mark.parametrize("source", ["tree", "one_tar", "tar_per_class"])
@pytest.mark.parametrize("classes", [["n02", "n00"], [2, "n00"], "file"])
def test_a_class_subset_is_numbered_in_its_own_order(source, classes, request, tmp_path):
    whole = read_pictures(str(request.getfixturevalue(source)))
    if classes == "file":
        (tmp_path / "classes.txt").write_text("n02\nn00\n")
        classes = str(tmp_path / "classes.txt")
    subset = keep_classes(whole, classes)
    assert subset.names == ("n02", "n00")
    assert subset.kept == (2, 0)
    assert len(subset) == 8
    new_number = {2: 0, 0: 1}
    expected = [(name, new_number[label], pixels) for name, label, pixels in contents(whole) if label != 1]
    assert contents(subset) == expected
    subset.check_classes(2)


def test_the_first_classes_and_those_without_names(tree, tmp_path):
    assert keep_classes(read_pictures(str(tree)), 2).names == ("n00", "n01")
    (tmp_path / "list.txt").write_text("a.jpg 3\nb.jpg 0\nc.jpg 2\n")
    subset = keep_classes(read_pictures(str(tmp_path / "list.txt")), [3, 2])
    assert subset.names == ("3", "2")
    assert subset.labels.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (4, "source.classes is 4, but there are 3 classes"),
        (0, "source.classes is 0"),
        (["n07"], "label 'n07' is none of the 3 class names"),
        ([1, "n01"], "more than once: 1"),
        ([], "no class in it"),
    ],
)
def test_faulty_subsets_are_refused(tree, classes, message):
    with pytest.raises(UserError, match=message):
        keep_classes(read_pictures(str(tree)), classes)


def test_a_subset_without_pictures_is_refused(tree):
    pictures = read_pictures(str(tree), names=["n00", "n01", "n02", "n03"])
    with pytest.raises(UserError, match="none of its pictures"):
        keep_classes(pictures, ["n03"])


def test_names_count_from_the_prefix_of_a_list(tmp_path):
    (tmp_path / "list.txt").write_text("n0/a.jpg 0\n/else/n1/b.jpg 1\n")
    pictures = read_pictures(str(tmp_path / "list.txt"), prefix="/data/")
    assert [pictures.name(at) for at in range(2)] == ["n0/a.jpg", "/else/n1/b.jpg"]
    assert np.array_equal(pictures.labels, [0, 1])
