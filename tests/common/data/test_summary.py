"""What is said about lists before a run."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
import pytest

from revit.common.data.lists import SampleList
from revit.common.data.summary import data_lines, machine_warnings

NAMES = ("Jump", "Run", "Sit", "Walk")


def made(*pairs: tuple[str, int]) -> SampleList:
    return SampleList.build(pairs, NAMES, "list")


def numbered(start: int, count: int) -> SampleList:
    return made(*((f"{number}.mp4", number % 4) for number in range(start, start + count)))


def test_the_line_names_lists_classes_and_twins():
    val = numbered(100, 8)
    line = data_lines({"train": numbered(0, 12), "val": val, "test": val}, NAMES, "clips")[0]
    assert line == "data: 12 clips, 4 classes (Jump, Run, Sit, ...); val 8; test 8, the same files as val"


def test_the_same_files_in_another_order_are_the_same():
    train = numbered(0, 12)
    other = made(*((train.path(number), train.label(number)) for number in range(11, -1, -1)))
    assert "val 12, the same files as train" in data_lines({"train": train, "val": other}, NAMES, "clips")[0]
    assert "12 of its 12 clips are trained on" in data_lines({"train": train, "val": other}, NAMES, "clips")[1][0]


def test_files_in_two_lists_are_counted_whatever_they_are_called(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    val = made((str(tmp_path / "3.mp4"), 3), ("4.mp4", 0), ("x.mp4", 1), ("y.mp4", 2))
    (line,) = data_lines({"train": numbered(0, 12), "val": val, "test": val}, NAMES, "clips")[1]
    assert line.startswith("data.source.val: 2 of its 4 clips")


def test_other_segments_of_one_file_are_other_samples():
    train = replace(made(("a", 0), ("a", 1), ("a", 2), ("a", 3)), segments=np.array([[0, 1], [1, 2], [2, 3], [3, 4.0]]))
    val = replace(train, segments=train.segments + 10)
    assert data_lines({"train": train, "val": val}, NAMES, "clips")[1] == []


def test_missing_classes_are_named():
    lists = {"train": made(("a", 0), ("b", 1)), "val": made(("c", 0), ("d", 1), ("e", 2))}
    train, val = data_lines(lists, NAMES, "clips")[1]
    assert "no clips of 2 of the 4 classes (Sit, Walk)" in train
    assert "no clips of one class (Walk)" in val


@pytest.mark.parametrize(("workers", "threads", "processes", "said"), [(0, 1, 1, 0), (999, 1, 1, 1), (1, 999, 2, 2)])
def test_more_than_the_cores(workers, threads, processes, said, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0})
    assert len(machine_warnings(workers, threads, processes)) == said
