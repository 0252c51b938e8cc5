"""The demo data set on disk: lists, repeatability and splits."""

from __future__ import annotations

import csv

import av
import pytest

from revit.common.data.made_data import SPLITS
from revit.video.demo import DemoOptions, make_motion_clips

SMALL = DemoOptions(train_clips=16, val_clips=8, test_clips=8, frames=4, num_workers=1)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_motion_clips(SMALL, tmp_path_factory.mktemp("demo") / "clips")


def files(root):
    return {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_lists_name_files_that_decode(made):
    names = made.classes.read_text().split()
    assert names == list(SMALL.motions)
    for split, total in zip(SPLITS, (16, 8, 8)):
        lines = (made.root / f"{split}.csv").read_text().splitlines()
        assert len(lines) == total
        for line in lines:
            path, label = line.rsplit(" ", 1)
            assert path.split("/")[:2] == [split, names[int(label)]]
            with av.open(str(made.root / path)) as container:
                assert sum(1 for _ in container.decode(video=0)) == 4


def test_metadata_has_a_row_per_clip_and_no_picture_in_two_splits(made):
    with made.metadata.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 32
    assert all((made.root / row["path"]).is_file() for row in rows)
    pictures = [{row["picture"] for row in rows if row["split"] == split} for split in SPLITS]
    assert not (pictures[0] & pictures[1])
    assert not (pictures[0] & pictures[2])
    assert not (pictures[1] & pictures[2])


def test_equal_options_give_equal_files_whoever_makes_them(made, tmp_path):
    by_two = make_motion_clips(SMALL.model_copy(update={"num_workers": 2}), tmp_path / "clips")
    assert files(by_two.root) == files(made.root)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".clips.lock", "clips"]


def test_another_seed_gives_other_clips(made, tmp_path):
    other = files(make_motion_clips(SMALL.model_copy(update={"seed": 1}), tmp_path / "clips").root)
    same = [path for path, content in files(made.root).items() if path.suffix == ".mp4" and other.get(path) == content]
    assert not same
