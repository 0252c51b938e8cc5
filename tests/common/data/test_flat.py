"""Columns hold what lists would, in a fraction of the memory."""

from __future__ import annotations

import pickle
import tracemalloc

import numpy as np
import pytest

from revit.common.data.broken import BrokenFiles
from revit.common.data.flat import FlatStrings, GrowingLabels
from revit.common.data.formats.base import ListRequest
from revit.common.data.formats.path_label import PathLabel
from revit.common.data.sampler import EpochSampler

STRINGS = ["a", "", "/data/ü b.mp4", "bad\udcff.mp4", "日本" * 40]


def test_strings_come_back_unchanged():
    flat = FlatStrings.of(iter(STRINGS))
    assert list(flat) == STRINGS
    assert [flat[position] for position in range(-5, 5)] == STRINGS * 2
    assert list(flat[1:4:2]) == STRINGS[1:4:2]
    assert list(flat.take(np.array([4, 0, 0]))) == [STRINGS[4], "a", "a"]
    assert "日本" * 40 in flat
    assert list(FlatStrings.of([])) == []
    assert list(pickle.loads(pickle.dumps(flat))) == STRINGS
    with pytest.raises(IndexError):
        flat[5]


def test_labels_are_places_among_the_distinct_ones():
    growing = GrowingLabels()
    for label in ["jump", "run", "jump", "sit", "run"]:
        growing.append(label)
    assert growing.distinct == ["jump", "run", "sit"]
    assert growing.places.tolist() == [0, 1, 0, 2, 1]


@pytest.mark.parametrize("labels", ["numbers", "names"])
def test_a_long_list_takes_memory_for_its_text_alone(tmp_path, labels):
    """A million clips must not take 300 MB: 300 bytes each, while the list is read and in a worker that gets a copy."""
    num_samples, path = 30_000, tmp_path / "train.txt"
    with open(path, "w", encoding="utf-8") as file:
        for number in range(num_samples):
            label = number % 400 if labels == "numbers" else f"class_{number % 400}"
            file.write(
                f"/data/kinetics400/train_256/class_{number % 400:03d}/k7RtQ{number:07d}_000010_000020.mp4 {label}\n"
            )
    tracemalloc.start()
    samples = PathLabel().read(ListRequest(str(path), "clips"))
    keys = EpochSampler(num_samples, shuffle=True, equal_lengths=True)
    broken = BrokenFiles(num_samples)
    for (_, index, _), _ in zip(keys, range(1000)):
        broken.record([index], [])
        samples.path(index)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # torch's permutation is not traced: 8 bytes a sample.
    assert peak / num_samples + 8 < 300
    assert len(pickle.dumps(samples)) / num_samples < 150
