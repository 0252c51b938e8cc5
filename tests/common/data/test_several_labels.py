"""Lists of samples with several labels, as people write them, and what is learned of a sample."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from revit.common.data.batch import collate
from revit.common.data.build import read_split
from revit.common.data.dataset import RobustDataset, Sample, target_of
from revit.common.data.options import SourceOptions
from revit.common.system.errors import UserError
from revit.image.data.lists import read_pictures
from revit.video.data.lists import read_clips

EXPECTED = [(1, 3), (0,), (), (0, 2, 3)]


def listed(folder: Path, text: str, read=read_clips, **source):
    path = folder / "train.csv"
    path.write_text(text)
    return read_split(SourceOptions(train=str(path), several_labels=True, **source), "train", read)


LISTS = {
    "numbers": 'a.mp4 1 3\nb c.mp4 0\n"d.mp4" ""\n"take 2.mp4" 3 0 2\n',
    "joined numbers": 'a.mp4 3;1\nb c.mp4 0\nd.mp4 ""\ntake 2.mp4 0;2;3\n',
    "joined by bars, twice the same": 'a.mp4 1|3|1\nb c.mp4 0\nd.mp4 ""\ntake 2.mp4 2|0|3\n',
    "quoted fields of a CSV": 'a.mp4,"1,3"\nb c.mp4,0\nd.mp4,\ntake 2.mp4,"0, 2, 3"\n',
    "a CSV with a header": "path,labels\na.mp4,1;3\nb c.mp4,0\nd.mp4,\ntake 2.mp4,0;2;3\n",
    "tabs": "a.mp4\t1;3\nb c.mp4\t0\nd.mp4\t\ntake 2.mp4\t0;2;3\n".replace("d.mp4\t\n", 'd.mp4\t""\n'),
}


@pytest.mark.parametrize("text", LISTS.values(), ids=LISTS)
def test_numbers(text: str, tmp_path: Path):
    samples = listed(tmp_path, text)
    assert [samples.label_set(place) for place in range(4)] == EXPECTED
    assert list(samples.paths) == ["a.mp4", "b c.mp4", "d.mp4", "take 2.mp4"]
    assert samples.several
    with pytest.raises(UserError, match="may have several labels"):
        samples.label(0)
    assert samples.labels.tolist() == [1, 0, -1, 0]
    assert samples.num_classes == 4


def test_fields_behind_the_path(tmp_path: Path):
    samples = listed(tmp_path, "a.mp4,1,3\nb c.mp4,0\nd.mp4,\ntake 2.mp4,0,2,3\n", separator=",")
    assert [samples.label_set(place) for place in range(4)] == EXPECTED


NAMED = {
    "white space": "a.mp4 Run;Walk\nb c.mp4 Jump\ne.mp4 Jump|Sit|Walk\n",
    "quoted path": '"a.mp4" Run;Walk\n"b c.mp4" Jump\n"e.mp4" Jump;Sit;Walk\n',
    "CSV": 'path,label\na.mp4,"Run,Walk"\nb c.mp4,Jump\ne.mp4,"Jump, Sit, Walk"\n',
}


@pytest.mark.parametrize("read", [read_clips, read_pictures])
@pytest.mark.parametrize("text", NAMED.values(), ids=NAMED)
def test_names(text: str, read, tmp_path: Path):
    samples = listed(tmp_path, text.replace(".mp4", ".png") if read is read_pictures else text, read)
    assert samples.names == ("Jump", "Run", "Sit", "Walk")
    assert [samples.label_set(place) for place in range(3)] == [(1, 3), (0,), (0, 2, 3)]


def test_names_of_the_training_list_number_the_others(tmp_path: Path):
    (tmp_path / "train.txt").write_text("a.mp4 Run;Walk\nb.mp4 Jump\n")
    (tmp_path / "val.txt").write_text("c.mp4 Walk\nd.mp4 Jump;Run\n")
    source = SourceOptions(train=str(tmp_path / "train.txt"), val=str(tmp_path / "val.txt"), several_labels=True)
    assert [read_split(source, "val", read_clips).label_set(place) for place in range(2)] == [(2,), (0, 1)]
    (tmp_path / "val.txt").write_text("c.mp4 Walk\nd.mp4 Jump;Rnu\n")
    with pytest.raises(UserError, match="line 2: label 'Rnu' is none of the 3"):
        read_split(source, "val", read_clips)


def test_charades_by_file(tmp_path: Path):
    (tmp_path / "Charades_v1_classes.txt").write_text("c000 Holding some clothes\nc001 Sitting\nc002 Eating\n")
    (tmp_path / "train.csv").write_text("id,actions,length\nAAAA,c002 0.0 4.1;c000 1.0 2.0;c002 5 6,30\nBBBB,,12\n")
    source = SourceOptions(train=str(tmp_path / "train.csv"), several_labels=True)
    samples = read_split(source, "train", read_clips)
    assert [samples.label_set(place) for place in range(2)] == [(0, 2), ()]
    assert samples.names == ("Holding some clothes", "Sitting", "Eating")
    assert samples.segment(0) is None


def test_shards_with_labels_beside_the_samples(tmp_path: Path):
    said = {"1.cls": "Run;Walk", "2.json": json.dumps({"label": ["Jump", "Run"]}), "3.cls": ""}
    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        for name in ("1.mp4", "2.mp4", "3.mp4", *said):
            content = said.get(name, "x").encode()
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    samples = read_split(SourceOptions(train=str(tmp_path / "shard.tar"), several_labels=True), "train", read_clips)
    assert samples.names == ("Jump", "Run", "Walk")
    assert [samples.label_set(place) for place in range(3)] == [(1, 2), (0, 1), ()]
    assert samples.at(np.array([2, 0])).label_set(1) == (1, 2)


def test_a_hugging_face_folder_with_lists_of_labels(tmp_path: Path):
    rows = [{"file_name": "a.mp4", "label": ["Run", "Jump"]}, {"file_name": "b.mp4", "label": []}]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    samples = read_split(SourceOptions(train=str(tmp_path), several_labels=True), "train", read_clips)
    assert [samples.label_set(place) for place in range(2)] == [(0, 1), ()]
    with pytest.raises(UserError, match="with one label"):
        read_split(SourceOptions(train=str(tmp_path)), "train", read_clips)


def test_a_folder_per_class_has_one_label_each(tmp_path: Path):
    for name in ("b/1.mp4", "a/2.mp4"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    samples = read_split(SourceOptions(train=str(tmp_path), several_labels=True), "train", read_clips)
    assert [samples.label_set(place) for place in range(2)] == [(0,), (1,)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a.mp4 1 3\nb.mp4\n", "line 2: no label"),
        ("a.mp4 1 -3\n", "line 1: label -3 is negative"),
        ('a.mp4 ""\nb.mp4 ""\n', "none of its clips has a label"),
    ],
)
def test_what_is_wrong_is_said(text: str, said: str, tmp_path: Path):
    with pytest.raises(UserError, match=said):
        listed(tmp_path, text)


def test_a_label_beyond_the_model_is_named(tmp_path: Path):
    samples = listed(tmp_path, "a.mp4 0\nb.mp4 1 7\nc.mp4 2\n")
    with pytest.raises(UserError, match=r"b\.mp4 has label 7, the model has 5"):
        samples.check_classes(5)


def test_lists_that_differ_in_a_label_have_other_fingerprints(tmp_path: Path):
    one, two = (listed(tmp_path, f"a.mp4 0 {label}\nb.mp4 1 3\n").fingerprint for label in (1, 2))
    assert one != two


@pytest.mark.parametrize(("text", "separator"), [("a.mp4 1 3\nb.mp4 0\n", " "), ("a.mp4,1,3\nb.mp4,0\n", ",")])
def test_lists_of_several_labels_are_not_read_as_of_one(text: str, separator: str, tmp_path: Path):
    (tmp_path / "train.txt").write_text(text)
    with pytest.raises(UserError, match=r"line 1: several labels .* data\.source\.several_labels=true"):
        read_split(SourceOptions(train=str(tmp_path / "train.txt"), separator=separator), "train", read_clips)


def test_joined_names_are_said_to_be_classes(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    (tmp_path / "train.txt").write_text("a.mp4 Run;Jump\nb.mp4 Jump\n")
    samples = read_split(SourceOptions(train=str(tmp_path / "train.txt")), "train", read_clips)
    assert samples.names == ("Jump", "Run;Jump")
    assert "'Run;Jump' is taken for a class of its own" in caplog.text


def test_what_is_learned_of_a_sample(tmp_path: Path):
    samples = listed(tmp_path, LISTS["numbers"])
    load = lambda index, generator: Sample(torch.zeros(1, 3, 2, 2, dtype=torch.uint8), target_of(samples, index))  # noqa: E731
    data = RobustDataset(load, len(samples))
    batch = collate([data[index] for index in range(4)])
    expected = np.zeros((4, 4))
    for row, numbers in enumerate(EXPECTED):
        expected[row, list(numbers)] = 1
    assert batch.targets.tolist() == expected.tolist()
