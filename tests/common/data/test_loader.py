"""Batches depend on seed, epoch and position alone; broken samples are replaced or reported; dead workers explained."""

# ruff: noqa: NPY002  (numpy's legacy generator is what timm draws from)
from __future__ import annotations

import os
import random
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch

from revit.common.data.batch import Item, collate
from revit.common.data.broken import BrokenFiles, BrokenSample
from revit.common.data.dataset import RobustDataset, Sample, sample_seed
from revit.common.data.loader import Loader
from revit.common.data.sampler import EpochSampler
from revit.common.system.errors import UserError

NUM_SAMPLES = 23


class Noise:
    """Samples that hold their index, a number of the sample's generator and one of torch's global generator."""

    def __init__(self, broken: frozenset[int] = frozenset(), num_views: int = 1) -> None:
        self.broken, self.num_views = broken, num_views

    def __call__(self, index: int, generator: torch.Generator) -> Sample:
        own = int(torch.randint(256, (), generator=generator))
        if index in self.broken:
            raise BrokenSample(f"clip{index}", "is empty")
        values = torch.tensor([index, own, int(torch.randint(256, ()))], dtype=torch.uint8)
        return Sample(values.view(1, 3, 1, 1, 1).repeat(self.num_views, 1, 1, 1, 1), index % 4)


def make_loader(
    load, num_workers: int = 0, training: bool = True, batch_size: int = 4, max_share=None, **options
) -> Loader:
    sampler = EpochSampler(NUM_SAMPLES, seed=7, shuffle=training, equal_lengths=training, **options)
    dataset = RobustDataset(load, NUM_SAMPLES, seed=7, training=training)
    return Loader(dataset, sampler, BrokenFiles(NUM_SAMPLES, max_share), batch_size, num_workers=num_workers)


def contents(loader: Loader) -> list[torch.Tensor]:
    return [torch.cat([batch.inputs.flatten(1).long(), batch.ids[:, None]], 1) for batch in loader]


def equal(left, right) -> bool:
    return len(left) == len(right) and all(map(torch.equal, left, right))


@pytest.mark.parametrize("num_workers", [1, 2])
def test_batches_do_not_depend_on_the_workers(num_workers):
    load = Noise(broken=frozenset({3, 11}))
    alone, helped = make_loader(load), make_loader(load, num_workers)
    for epoch in range(2):
        alone.set_epoch(epoch)
        helped.set_epoch(epoch)
        assert equal(contents(alone), contents(helped))
    assert alone.broken.failures == helped.broken.failures
    assert alone.broken.num_broken == 2


def test_epochs_differ_and_can_be_repeated():
    loader = make_loader(Noise())
    epochs = []
    for epoch in (0, 1, 0):
        loader.set_epoch(epoch)
        epochs.append(contents(loader))
    assert equal(epochs[0], epochs[2])
    assert not equal(epochs[0], epochs[1])
    # The same sample also gets other random numbers in another epoch.
    rows = [{int(row[0]): row[1:3].tolist() for row in torch.cat(epoch)} for epoch in epochs[:2]]
    assert sum(rows[0][index] != rows[1][index] for index in rows[0]) > NUM_SAMPLES * 3 // 4


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_epoch_can_be_entered_anywhere(num_workers):
    loader = make_loader(Noise(broken=frozenset({3})), num_workers)
    loader.set_epoch(2)
    whole = contents(loader)
    for start in (0, 1, 4, len(whole)):
        loader.set_epoch(2, start)
        assert len(loader) == len(whole) - start
        assert equal(contents(loader), whole[start:])


def test_the_global_generator_is_left_alone():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    contents(make_loader(Noise()))
    assert torch.equal(torch.rand(3), expected)


def test_training_replaces_and_tells():
    loader = make_loader(Noise(broken=frozenset({3, 11})))
    batches = list(loader)
    assert sum(len(batch) for batch in batches) == NUM_SAMPLES
    ids = torch.cat([batch.ids for batch in batches]).tolist()
    assert not {3, 11} & set(ids)
    for batch in batches:
        assert torch.equal(batch.inputs[:, 0].flatten().long(), batch.ids)
        assert torch.equal(batch.targets, batch.ids % 4)
    assert {failure.path for failure in loader.broken.failures} == {"clip3", "clip11"}


def test_evaluation_replaces_nothing_and_tells():
    loader = make_loader(Noise(broken=frozenset({4, 5, 6, 7, 22}), num_views=3), training=False)
    batches = list(loader)
    assert [len(batch) for batch in batches] == [4, 0, 4, 4, 4, 2]
    assert all(batch.num_views == 3 or len(batch) == 0 for batch in batches)
    assert batches[0].inputs.shape == (12, 3, 1, 1, 1)
    assert batches[0].inputs[:, 0].flatten().tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert [failure.id for failure in batches[1].failures] == [4, 5, 6, 7]
    ids = torch.cat([batch.ids for batch in batches]).tolist()
    assert ids == [index for index in range(NUM_SAMPLES) if index not in (4, 5, 6, 7, 22)]


def test_too_many_broken_samples_stop_training():
    loader = make_loader(Noise(broken=frozenset(range(0, 20, 2))), max_share=0.2)
    with pytest.raises(UserError, match="max_broken_share"):
        run_epochs(loader, 2)


def run_epochs(loader: Loader, num_epochs: int) -> None:
    for epoch in range(num_epochs):
        loader.set_epoch(epoch)
        list(loader)


def test_a_data_set_without_one_good_sample_ends_its_tries():
    dataset = RobustDataset(Noise(broken=frozenset(range(NUM_SAMPLES))), NUM_SAMPLES, training=True, max_tries=5)
    item = dataset[0, 3]
    assert item.inputs is None
    assert len(item.failures) == 5
    assert item.failures[0].id == 3
    batch = collate([item])
    assert len(batch) == 0
    assert batch.inputs.shape == (0,)


def die(index: int, generator: torch.Generator) -> Sample:
    if index == 9:
        os.kill(os.getpid(), signal.SIGKILL)
    return Noise()(index, generator)


def test_a_killed_worker_is_one_clear_message():
    loader = make_loader(die, num_workers=1, training=False)
    with pytest.raises(UserError, match=r"killed by the system(.|\n)*num_workers") as caught:
        list(loader)
    assert "\n" not in str(caught.value)


def test_errors_of_the_program_are_not_mistaken_for_broken_files():
    def load(index, generator):
        raise KeyError("a defect")

    with pytest.raises(KeyError):
        list(make_loader(load))


@pytest.mark.parametrize("num_ranks", [1, 2, 4])
@pytest.mark.parametrize("training", [False, True])
def test_ranks_share_the_samples(num_ranks, training):
    ids = [
        [
            index
            for _, index, _ in EpochSampler(
                23, shuffle=training, rank=rank, num_ranks=num_ranks, equal_lengths=training
            )
        ]
        for rank in range(num_ranks)
    ]
    together = [index for part in ids for index in part]
    assert len(set(together)) == len(together)
    if training:
        assert len({len(part) for part in ids}) == 1
    else:
        assert sorted(together) == list(range(23))


def test_seeds_differ_in_every_coordinate():
    seeds = {sample_seed(seed, epoch, index) for seed in range(5) for epoch in range(5) for index in range(40)}
    assert len(seeds) == 1000


def test_seeds_and_order_are_those_of_earlier_versions():
    """Runs can be repeated across versions: numbers as they were before samples could be repeated."""
    keys = ((0, 0, 0), (7, 1, 3), (2**40, 300, 1281166))
    assert [sample_seed(*key) for key in keys] == [7896617691693857887, 7964965305340474863, 44322119426822828]
    sampler = EpochSampler(10, seed=7, shuffle=True)
    sampler.set_position(2)
    assert [key[1:] for key in sampler] == [(index, 0) for index in [1, 6, 0, 7, 8, 9, 4, 3, 2, 5]]


def test_all_global_generators_follow_the_sample_and_are_left_alone():
    def load(index, generator):
        drawn = [random.random(), np.random.rand(), float(torch.rand(())), float(torch.rand((), generator=generator))]
        return Sample((torch.tensor(drawn) * 255).byte().view(1, 4, 1, 1), 0)

    dataset = RobustDataset(load, 5, seed=3)
    before = random.random(), np.random.rand()
    state = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    drawn = torch.stack([dataset[epoch, index].inputs for epoch in range(2) for index in range(5)]).flatten(1)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == state[:2]
    assert torch.equal(torch.get_rng_state(), state[2])
    assert all(len(column.unique()) >= 7 for column in drawn.T)  # of 10, up to chance hits among 256
    random.seed(before[0])
    np.random.seed(1)
    again = torch.stack([dataset[epoch, index].inputs for epoch in range(2) for index in range(5)]).flatten(1)
    assert torch.equal(drawn, again)


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 4])
@pytest.mark.parametrize("repeats", [2, 3])
def test_repeats_share_one_epoch_and_go_to_different_ranks(num_ranks, repeats):
    def keys(rank: int, epoch: int) -> list[tuple[int, int, int]]:
        sampler = EpochSampler(
            23, seed=1, shuffle=True, rank=rank, num_ranks=num_ranks, equal_lengths=True, repeats=repeats
        )
        sampler.set_position(epoch)
        return list(sampler)

    ranks = [keys(rank, 4) for rank in range(num_ranks)]
    length = 23 // num_ranks
    assert [len(part) for part in ranks] == [length] * num_ranks
    together = [key for position in zip(*ranks) for key in position]  # as they were dealt
    assert len(set(together)) == len(together)
    # Every sample's repeats come one after the other; all but the last have all of them.
    indices = [index for _, index, _ in together]
    assert [repeat for _, _, repeat in together] == [position % repeats for position in range(len(together))]
    assert len(set(indices)) == -(-len(together) // repeats)
    # The samples are the first ones of the order without repeats.
    plain = EpochSampler(23, seed=1, shuffle=True)
    plain.set_position(4)
    assert list(dict.fromkeys(indices)) == [index for _, index, _ in plain][: len(set(indices))]
    if num_ranks >= repeats:
        assert all(len({index for _, index, _ in part}) == length for part in ranks)
    assert ranks[0] != keys(0, 5)


def test_repeats_of_a_sample_get_random_numbers_of_their_own():
    dataset = RobustDataset(Noise(), NUM_SAMPLES, seed=7)
    rows = [dataset[1, 5, repeat].inputs.flatten().tolist() for repeat in range(3)]
    assert [row[0] for row in rows] == [5, 5, 5]
    assert len({tuple(row) for row in rows}) == 3
    assert rows[0] == dataset[1, 5].inputs.flatten().tolist()


def test_no_repeats_at_all_are_refused():
    with pytest.raises(ValueError, match="0 repeats"):
        EpochSampler(5, repeats=0)


def test_extras_travel_with_their_samples():
    def load(index, generator):
        if index == 3:
            raise BrokenSample("clip3", "is empty")
        extras = {"place": torch.full((2, 2), float(index)), "weight": torch.tensor(index / 2)}
        return Sample(torch.full((1, 3, 1, 1), index, dtype=torch.uint8), 0, extras)

    for training in (True, False):
        for batch in make_loader(load, num_workers=1, training=training):
            assert batch.extras["place"].shape == (len(batch), 2, 2)
            assert torch.equal(batch.extras["place"][:, 0, 0], batch.ids.float())
            assert torch.equal(batch.extras["weight"], batch.ids / 2)
            assert batch.to("meta").extras["weight"].device.type == "meta"


def test_extras_of_different_shape_are_refused_and_an_empty_batch_has_none():
    items = [Item(torch.zeros(1, 3, 1, 1), 0, 0, extras={"map": torch.zeros(size)}) for size in (4, 5)]
    with pytest.raises(ValueError, match=r"map .* different shapes \[\(4,\), \(5,\)\]"):
        collate(items)
    assert collate([Item(None, -1, 0)]).extras == {}


def test_samples_of_different_shape_are_refused():
    items = [Item(torch.zeros(1, 3, size, size, dtype=torch.uint8), 0, size) for size in (4, 5)]
    with pytest.raises(ValueError, match="different shapes"):
        collate(items)


def test_batches_move_and_keep_their_failures():
    batch = next(iter(make_loader(Noise())))
    moved = batch.to("meta")
    assert moved.inputs.device.type == "meta"
    assert moved.ids.device.type == "meta"
    assert len(moved) == 4


def test_a_program_with_a_loader_in_its_hands_ends():
    """Workers outlive one SIGTERM, and that is all that Python sends them when it ends."""
    program = """
import torch
from revit.common.data.broken import BrokenFiles
from revit.common.data.dataset import RobustDataset, Sample
from revit.common.data.loader import Loader
from revit.common.data.sampler import EpochSampler

def load(index, generator):
    return Sample(torch.zeros(1, 3, 2, 2, dtype=torch.uint8), 0)

loader = Loader(RobustDataset(load, 4), EpochSampler(4), BrokenFiles(4), 2, num_workers=2)
print(sum(len(batch) for batch in loader))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "4\n"), done.stderr
