"""Conclusions from measured rates, and that decoders and loaders are measured fairly; no test looks at the time itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import pytest
import torch

from revit.common.data.batch import Batch
from revit.common.data.broken import BrokenSample
from revit.common.speed.data_advice import EVEN, DataSpeed, LoaderRate, ModelRates, rows
from revit.common.speed.data_speed import spread
from revit.common.speed.loading_rates import (
    CheckedFiles,
    DecoderRate,
    Decoders,
    Source,
    check_files,
    compare_decoders,
    measure_loaders,
)


def found(loaders, model=100.0, training=None, views=1, decoders=(), key="data.loading.decoder"):
    return DataSpeed(
        listed=10,
        files=CheckedFiles(("a",), {}),
        decoders=list(decoders),
        loaders=[LoaderRate(*rate) for rate in loaders],
        model=ModelRates("float32", 4, views, {"14x14": model / 2, EVEN: model}, training),
        device="cpu",
        key=key,
        remedy="convert them",
        seconds=1.0,
    )


def test_the_fewest_workers_that_are_nearly_as_good():
    growing = [(0, 5, 5), (1, 10, 10), (2, 19, 19), (4, 20, 20), (8, 20.5, 20.4)]
    assert found(growing).best.workers == 4
    # A model that takes 4 a second has no use for more than 6, one that trains at 2 none for more than 3.
    assert found(growing, model=4, training=2).best.workers == 1
    assert found(growing, model=4).best.workers == 4  # of training nothing is known
    # Without workers the model waits for each file, however fast they are read.
    assert found([(0, 50, 50), (2, 40, 40)]).best.workers == 2
    assert found([(0, 50, 50)]).best.workers == 0
    # What is best for one is not for the other: the largest product.
    assert found([(1, 10, 30), (2, 30, 10), (4, 25, 25)], model=1000).best.workers == 4


def test_who_is_waited_for():
    both = found([(2, 20, 10)], model=100, training=50)
    assert both.bottleneck == {"testing": "loader", "training": "loader"}
    assert "loader is the bottleneck of both (convert them)." in both.advice
    # Three views of each sample cost the model three times.
    views = found([(2, 40, 40)], model=90, views=3, training=10)
    assert views.bottleneck == {"testing": "model", "training": "model"}
    assert views.model.test_rate == 30
    assert "convert" not in views.advice
    mixed = found([(2, 20, 10)], model=5, training=50)
    assert "the model is the bottleneck of testing and the loader that of training" in mixed.advice
    assert found([(2, 20, 10)]).bottleneck["training"] is None
    assert found([(2, 20, 10)]).as_json()["bottleneck"]["testing"] == "loader"


def decoder(name, ms, differs=()):
    times = {f"file{number}": [value] for number, value in enumerate(ms)}
    return DecoderRate(name, list(differs), times)


def test_the_fastest_decoder_of_those_that_are_right():
    def chosen(*decoders):
        return found([(2, 20, 10)], decoders=decoders).settings.get("data.loading.decoder")

    assert chosen() is None
    assert chosen(decoder("pyav", [10, 20]), decoder("decord", [5, 10])) == "decord"
    assert chosen(decoder("pyav", [10, 20]), decoder("decord", [5, 10], ["file2"])) == "pyav"
    assert chosen(decoder("pyav", [10, 20]), decoder("decord", [10, 19.8])) == "pyav"  # not clearly
    result = found([(2, 20, 10)], decoders=[decoder("pyav", [10]), decoder("other", [9], ["x.mp4"])])
    assert result.settings == {"data.loading.decoder": "pyav", "data.loading.num_workers": 2}
    assert result.advice.startswith("Set data.loading.decoder=pyav data.loading.num_workers=2: ")
    assert result.advice.count(". ") == 0
    told = {row["what"]: row.get("note") for row in rows(result)}
    assert told["decoding, other"] == "other frames than a plain decode on 1 of 0 files"
    assert result.as_json()["decoders"][1] == {
        "name": "other",
        "ms": 9,
        "same_frames": False,
        "differs_on": ["x.mp4"],
        "compared_with_a_plain_decode": 0,
    }


@pytest.mark.parametrize("num", [1, 3, 64, 1000, 240_000])
def test_a_sample_lies_all_over_the_list(num):
    positions = list(spread(num))
    assert len(set(positions)) == len(positions) <= min(num, 64)
    assert len(positions) > min(num, 64) / 2
    assert set(positions) <= set(range(num))
    for taken in (8, 16):
        some = sorted(positions[:taken])
        if num >= 1000:  # a prefix of it too: no gap is more than twice the even one
            assert max(b - a for a, b in pairwise(some)) < 2 * num / taken


@dataclass
class Reader:
    """Frames that hold their file's number; `wrong` ones another, of `missing` ones there are none."""

    wrong: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    seen: list[str] = field(default_factory=list)
    closed: bool = False

    def read(self, path):
        self.seen.append(path)
        if path in self.missing:
            raise BrokenSample(path, "gone")
        return np.full((2, 4, 4, 3), int(path) + (path in self.wrong), np.uint8)

    sample = read

    def close(self):
        self.closed = True


def test_decoders_are_compared_first_and_timed_on_what_is_equal():
    plain = Reader(missing=("3",))
    readers = {"first": Reader(), "wrong": Reader(wrong=("2",)), "fails": Reader(missing=("1", "2"))}
    decoders = Decoders(
        "key", lambda: tuple(readers), lambda options, name: readers[name], lambda _, path: plain.read(path), ""
    )
    rates = compare_decoders(decoders, None, ["0", "1", "2", "3"], 0.2)
    assert [rate.differs_on for rate in rates] == [[], ["2"], ["1", "2"]]
    assert [rate.num_compared for rate in rates] == [3, 3, 3]  # of the last one nobody knows what is right
    timed = [sorted(rate.milliseconds) for rate in rates]
    assert timed == [["0", "1", "2", "3"], ["0", "1", "3"], ["0", "3"]]
    assert all(reader.closed for reader in readers.values())
    counts = [len(times) for rate in rates for times in rate.milliseconds.values()]
    assert max(counts) - min(counts) <= 1


def test_broken_files_are_counted_and_do_not_end_the_search():
    reader = Reader(missing=("0", "1", "2"))
    paths = [str(number) for number in range(9)]
    checked = check_files(paths, reader.read, seconds=0.0, at_least=4)
    assert checked.broken == {"0": "gone", "1": "gone", "2": "gone"}
    assert checked.good == ("3", "4", "5", "6")
    assert check_files(["0"], reader.read, 1.0).good == ()


class FakeLoader:
    """Three batches of two an epoch."""

    batch_size = 2

    def __init__(self):
        self.epochs = 0

    def __iter__(self):
        self.epochs += 1
        for _ in range(3):
            yield Batch(torch.empty(0), torch.zeros(2), torch.zeros(2))


def test_loaders_take_turns_over_any_number_of_epochs():
    loaders = [FakeLoader(), FakeLoader()]
    sources = [Source(loader, workers) for loader, workers in zip(loaders, (0, 2))]
    measure_loaders(sources, seconds=0.05, rounds=2)
    for source, loader in zip(sources, loaders):
        assert len(source.rates) == 2
        assert source.per_second > 0
        assert loader.epochs > 2
        source.close()
        assert not hasattr(source, "loader")
    none_left = [Source(FakeLoader(), 0)]
    measure_loaders(none_left, seconds=0.0)  # one batch each in any case
    assert len(none_left[0].rates) == 2
