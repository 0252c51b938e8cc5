"""Validation and test parts of one list: whole groups, every class, the same in every process and with new files."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from revit.common.data.build import read_split
from revit.common.data.formats.base import read_source
from revit.common.data.formats.path_label import PathLabel
from revit.common.data.lists import SampleList
from revit.common.data.options import SourceOptions
from revit.common.data.split_off import SplitOff, folds_of, groups_of
from revit.common.system.errors import UserError


def made(names: list[str], labels: list[int]) -> SampleList:
    return SampleList.build(zip(names, labels), ("a", "b", "c"), "list")


def ucf(groups: int = 10, clips: int = 4) -> SampleList:
    names = [
        f"{label}/v_{label}_g{group:02d}_c{clip:02d}.avi"
        for label in "abc"
        for group in range(groups)
        for clip in range(clips)
    ]
    return made(names, np.repeat([0, 1, 2], groups * clips).tolist())


def positions(split: SplitOff, samples: SampleList):
    return split.positions(samples, groups_of(samples))


SPLIT = SplitOff(0.2, ("val", "test"))


@pytest.mark.parametrize("samples", [ucf(), made([f"{n}.mp4" for n in range(90)], [n % 3 for n in range(90)])])
def test_every_class_gives_its_share_and_nothing_is_in_two_parts(samples):
    parts = positions(SPLIT, samples)
    assert sorted(np.concatenate(list(parts.values())).tolist()) == list(range(len(samples)))
    for part in ("val", "test"):
        assert set(Counter(samples.labels[parts[part]].tolist()).values()) == {round(len(samples) / 3 * 0.2)}


def test_clips_of_one_source_stay_together():
    samples = ucf()
    groups = np.array(groups_of(samples))
    assert len(set(groups)) == 30
    parts = positions(SPLIT, samples)
    held = [set(groups[positions]) for positions in parts.values()]
    assert not held[0] & held[1]
    assert not held[0] & held[2]
    assert not held[1] & held[2]


def test_a_source_with_clips_of_several_classes_stays_together():
    names = [f"film{film}_{clip:06d}_{clip + 10:06d}.mp4" for film in "abcdefghij" for clip in range(6)]
    samples = made(names, [clip % 3 for _ in "abcdefghij" for clip in range(6)])
    assert set(groups_of(samples)) == {f"film{film}" for film in "abcdefghij"}
    parts = positions(SPLIT, samples)
    films = {part: {samples.path(p)[:5] for p in positions.tolist()} for part, positions in parts.items()}
    assert not films["train"] & (films["val"] | films["test"])


@pytest.mark.parametrize("name", ["clip_{:04d}.mp4", "{}.mp4", "IMG{:03d}.mov"])
def test_numbers_that_only_count_files_are_no_groups(name):
    samples = made([name.format(number) for number in range(30)], [number % 3 for number in range(30)])
    assert groups_of(samples) == [samples.path(number) for number in range(30)]


def test_new_files_do_not_move_the_others():
    names = [f"x{number}y.mp4" for number in range(300)]
    before = made(names, [0] * 300)
    after = made([*names, "new.mp4"], [0] * 301)
    old = {before.path(p) for p in positions(SPLIT, before)["test"].tolist()}
    new = {after.path(p) for p in positions(SPLIT, after)["test"].tolist()}
    assert len(old ^ new) <= 2


def test_seeds_choose_differently():
    one, two = (positions(SplitOff(0.2, ("val",), seed), ucf())["val"].tolist() for seed in (0, 1))
    assert one != two
    assert one == positions(SplitOff(0.2, ("val",), 0), ucf())["val"].tolist()


def test_a_class_that_would_be_left_out_is_named():
    samples = made([f"{letter}.mp4" for letter in "uvwxyz12"], [0, 0, 0, 0, 0, 0, 1, 1])
    with pytest.raises(UserError, match="class 'b' has too few samples"):
        positions(SplitOff(0.4, ("val", "test")), samples)


def test_lists_that_are_given_are_kept(tmp_path):
    for name, count in (("all.txt", 100), ("test.txt", 7)):
        (tmp_path / name).write_text("".join(f"{name}{n} {n % 2}\n" for n in range(count)))

    def lengths(**more: str) -> list[int]:
        source = SourceOptions(train=str(tmp_path / "all.txt"), split_off=0.1, **more)
        splits = [split for split in ("train", "val", "test") if source.has(split)]
        return [
            len(read_split(source, split, lambda request: read_source(request, (PathLabel(),)))) for split in splits
        ]

    assert lengths() == [80, 10, 10]
    assert lengths(test=str(tmp_path / "test.txt")) == [90, 10, 7]
    assert lengths(val=str(tmp_path / "test.txt")) == [100, 7]


@pytest.mark.parametrize("samples", [ucf(), made([f"{n}.mp4" for n in range(90)], [n % 3 for n in range(90)])])
@pytest.mark.parametrize("num_folds", [2, 5])
def test_folds_divide_every_class_and_no_source(samples, num_folds):
    folds = folds_of(samples, num_folds, seed=1)
    assert len(folds) == num_folds
    assert sorted(np.concatenate(folds).tolist()) == list(range(len(samples)))
    groups = np.array(groups_of(samples))
    assert sum(len(set(groups[positions])) for positions in folds) == len(set(groups))
    for positions in folds:
        counts = np.bincount(samples.labels[positions], minlength=3)
        assert counts.max() - counts.min() <= 0
        assert counts.sum() == len(samples) / num_folds


def test_folds_depend_on_the_seed_and_the_names_alone():
    samples = ucf()
    order = np.random.default_rng(0).permutation(len(samples))
    shuffled = samples.at(order)

    def named(of, seed):
        return [sorted(of.path(position) for position in positions) for positions in folds_of(of, 3, seed)]

    assert named(samples, 1) == named(shuffled, 1)
    assert named(samples, 1) != named(samples, 2)


def test_more_folds_than_sources_are_refused():
    samples = made(["a.mp4", "b.mp4", "c.mp4"], [0, 1, 2])
    with pytest.raises(UserError, match=r"its 3 samples are of 3 sources, too few for 4 folds; lower lengths\.folds"):
        folds_of(samples, 4, 0)
