"""Every sample once, whatever the number of ranks, wherever an epoch is entered, and however often that number changes."""

from __future__ import annotations

import random
from collections import Counter
from itertools import zip_longest

import pytest

from revit.common.data.broken import BrokenFiles
from revit.common.data.dataset import RobustDataset
from revit.common.data.loader import Loader
from revit.common.data.sampler import EpochSampler

Key = tuple[int, int, int]
SIZES = [1, 2, 3, 5, 7, 8, 16, 23, 64, 97]
RANKS = [1, 2, 3, 4, 5, 8, 13]
CASES = [(size, ranks) for size in SIZES for ranks in RANKS]


def deal(num_samples: int, num_ranks: int, epoch: int = 0, start: int = 0, **options) -> list[list[Key]]:
    """The keys of every rank."""
    parts = []
    for rank in range(num_ranks):
        sampler = EpochSampler(num_samples, seed=3, rank=rank, num_ranks=num_ranks, **options)
        sampler.set_position(epoch, start)
        parts.append(list(sampler))
        assert len(sampler) == len(parts[-1])
    return parts


def together(parts: list[list[Key]]) -> list[Key]:
    """The keys in the order in which they were dealt."""
    return [key for turn in zip_longest(*parts) for key in turn if key is not None]


@pytest.mark.parametrize(("num_samples", "num_ranks"), CASES)
def test_evaluation_reads_every_sample_once_in_list_order(num_samples, num_ranks):
    parts = deal(num_samples, num_ranks)
    assert [index for _, index, _ in together(parts)] == list(range(num_samples))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize(("num_samples", "num_ranks"), CASES)
def test_training_reads_every_sample_once_and_leaves_out_fewer_than_there_are_ranks(num_samples, num_ranks):
    whole = together(deal(num_samples, 1, epoch=4, shuffle=True))
    assert sorted(index for _, index, _ in whole) == list(range(num_samples))
    parts = deal(num_samples, num_ranks, epoch=4, shuffle=True, equal_lengths=True)
    assert len({len(part) for part in parts}) == 1
    assert together(parts) == whole[: num_samples - num_samples % num_ranks]


@pytest.mark.parametrize("equal_lengths", [False, True])
@pytest.mark.parametrize(("num_samples", "num_ranks"), CASES)
def test_an_epoch_entered_anywhere_goes_on_with_what_is_left(num_samples, num_ranks, equal_lengths):
    whole = together(deal(num_samples, 1, epoch=2, shuffle=True))
    for start in {0, 1, num_samples // 3, num_samples // 2, num_samples - 1, num_samples}:
        parts = deal(num_samples, num_ranks, 2, start, shuffle=True, equal_lengths=equal_lengths)
        left = num_samples - start
        assert together(parts) == whole[start:][: left - left % num_ranks if equal_lengths else left]
    with pytest.raises(ValueError, match="outside the epoch"):
        deal(num_samples, num_ranks, 2, num_samples + 1)


@pytest.mark.parametrize("repeats", [1, 2, 3])
@pytest.mark.parametrize("seed", range(20))
def test_a_position_outlives_any_change_of_ranks_and_batch_size(seed, repeats):
    """Runs of batches with other numbers of ranks and batch sizes: the order as one rank reads it, nothing twice."""
    choose = random.Random(seed)
    num_samples = choose.randrange(40, 400)
    options = {"shuffle": True, "repeats": repeats}
    whole = together(deal(num_samples, 1, 1, **options))
    read: list[Key] = []
    while True:
        num_ranks, batch_size = choose.randrange(1, 9), choose.randrange(1, 6)
        num_batches = choose.randrange(4)
        parts = deal(num_samples, num_ranks, 1, len(read), equal_lengths=True, **options)
        if len(parts[0]) < num_batches * batch_size:
            read += together(parts)
            break
        read += together([part[: num_batches * batch_size] for part in parts])
    assert read == whole[: len(read)]
    assert len(whole) - len(read) < num_ranks
    assert max(Counter(index for _, index, _ in read).values()) <= repeats
    assert len(set(read)) == len(read)


@pytest.mark.parametrize("num_ranks", [1, 2, 3])
def test_batches_and_samples_name_the_same_position(num_ranks):
    def loader(rank: int) -> Loader:
        sampler = EpochSampler(50, seed=3, shuffle=True, rank=rank, num_ranks=num_ranks, equal_lengths=True)
        dataset = RobustDataset(lambda index, generator: None, 50)  # type: ignore[arg-type, return-value]
        return Loader(dataset, sampler, BrokenFiles(50), 4, drop_last=True)

    for rank in range(num_ranks):
        by_batch, by_sample = loader(rank), loader(rank)
        for num_batches in range(by_batch.batches_per_epoch + 2):
            by_batch.set_epoch(5, num_batches)
            by_sample.set_position(5, by_batch.samples_in(num_batches))
            assert list(by_batch.sampler) == list(by_sample.sampler)
            assert len(by_batch) == max(0, by_batch.batches_per_epoch - num_batches)
