"""Data sets made once: repeatability, what is made anew, and what happens to what is there already."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest

from revit.common.data.made_data import SPLITS, Plan, Row, make_once
from revit.common.system.errors import UserError


def write_numbers(root: Path, split: str, first: int, last: int) -> list[Row]:
    """Samples that are text files with their own number in them."""
    rows: list[Row] = []
    for index in range(first, last):
        name = ("even", "odd")[index % 2]
        path = f"{split}/{name}/{index:05d}.txt"
        (root / path).write_text(f"{split} {index}")
        rows.append({"path": path, "split": split, "label": index % 2, "drawn": index * index})
    return rows


PLAN = Plan(
    noun="numbers",
    fingerprint={"format": 1, "test": 4},
    label_names=("even", "odd"),
    num_samples={"train": 120, "val": 6, "test": 4},
    make=write_numbers,
)


def files(root):
    return {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_lists_classes_and_metadata(tmp_path):
    made = make_once(PLAN, tmp_path / "data")
    assert made.classes.read_text() == "even\nodd\n"
    for split, listed in zip(SPLITS, (made.train, made.val, made.test)):
        lines = listed.read_text().splitlines()
        assert len(lines) == PLAN.num_samples[split]
        assert lines[3] == f"{split}/odd/00003.txt 1"
    assert made.metadata.read_text().splitlines()[4] == "train/odd/00003.txt,train,1,9"


def test_the_same_whoever_makes_it(tmp_path):
    one = make_once(PLAN, tmp_path / "one")
    two = make_once(replace(PLAN, num_workers=2), tmp_path / "two")
    assert files(one.root) == files(two.root)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".one.lock", ".two.lock", "one", "two"]


def test_made_once_and_anew_only_for_another_fingerprint(tmp_path, caplog):
    root = tmp_path / "data"
    make_once(PLAN, root)
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    make_once(PLAN, root)
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before
    longer = replace(PLAN, fingerprint={"format": 1, "test": 5}, num_samples={**PLAN.num_samples, "test": 5})
    with caplog.at_level(logging.WARNING):
        make_once(longer, root)
    assert "test 4 -> 5" in caplog.text
    assert len((root / "test.csv").read_text().splitlines()) == 5


def test_what_an_interrupted_run_left_is_not_in_the_way(tmp_path):
    leftover = tmp_path / ".data.making"
    leftover.mkdir()
    (leftover / "half.txt").write_text("")
    made = make_once(PLAN, tmp_path / "data")
    assert not leftover.exists()
    assert not (made.root / "half.txt").exists()


def test_other_peoples_folders_are_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match=r"no finished\.json"):
        make_once(PLAN, tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
