"""A data set that never raises for a broken file, and whose random numbers do not depend on the workers."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from torch import Generator, Tensor
from torch.utils.data import Dataset

from revit.common.data.batch import Item
from revit.common.data.broken import BrokenSample, Failure
from revit.common.data.lists import SampleList


class Sample(NamedTuple):
    """One sample as the reading function returns it."""

    inputs: Tensor
    """uint8 (V, C, T, H, W) or (V, C, H, W)."""
    target: int | Tensor
    """Class number, -1 when unknown; or float (classes,), see `target_of`."""
    extras: Mapping[str, Tensor] = {}
    """Further tensors of the sample, by name; batches stack them."""
    remark: str | None = None
    """Remark on a file that was read but is not whole: how much of it is."""
    path: str = ""
    """File, where there is a remark."""


def target_of(samples: SampleList, index: int) -> int | Tensor:
    """Return what is learned of a sample: its class number, or, in a list of samples with several labels, float (classes,)
    with 1 for its own and 0 else."""
    if not samples.several:
        return samples.label(index)
    target = torch.zeros(samples.num_classes)
    target[list(samples.label_set(index))] = 1
    return target


Load = Callable[[int, Generator], Sample]
"""`load(index, generator)` reads sample `index`, with random numbers from `generator` or from the global generators of
torch, numpy or Python (all seeded alike), and raises BrokenSample if it cannot be read."""


def sample_seed(seed: int, epoch: int, index: int, repeat: int = 0) -> int:
    """Return a 63-bit seed that depends on these numbers alone, not on worker, order or history."""
    entropy = [seed, epoch, index, repeat] if repeat else [seed, epoch, index]
    state = np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0]
    return int(state >> np.uint64(1))


@contextmanager
def global_generators_seeded(seed: int) -> Iterator[None]:
    """Start the global generators of torch (CPU), numpy and Python from `seed` inside, and restore them afterwards.

    torchvision's transforms draw from the first, timm's from the other two (numpy's legacy generator).
    """
    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            np.random.seed(seed % 2**32)  # noqa: NPY002
            random.seed(seed)
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002


class RobustDataset(Dataset[Item]):
    """Map-style data set over keys `(epoch, index, repeat)` of `EpochSampler`, or an index alone.

    In training a sample that cannot be read is replaced by another one, drawn from the sample's own seed, until
    `max_tries` were tried; the failures travel in the item. Else nothing is replaced: the item has no inputs. (The published
    loader replaces silently in training and dies in testing.)
    """

    def __init__(
        self, load: Load, num_samples: int, *, seed: int = 0, training: bool = False, max_tries: int = 10
    ) -> None:
        if num_samples < 1:
            raise ValueError("a data set needs at least one sample, got none")
        self.load = load
        self.num_samples = num_samples
        self.seed = seed
        self.training = training
        self.max_tries = max_tries if training else 1

    def __len__(self) -> int:
        return self.num_samples

    def __getitem__(self, key: int | tuple[int, ...]) -> Item:
        epoch, index, *repeat = key if isinstance(key, tuple) else (0, key)
        if not 0 <= index < self.num_samples:
            raise IndexError(f"sample {index} asked of a data set of {self.num_samples}")
        seed = sample_seed(self.seed, epoch, index, *repeat)
        generator = Generator().manual_seed(seed)
        failures: list[Failure] = []
        with global_generators_seeded(seed):
            for _ in range(self.max_tries):
                try:
                    sample = self.load(index, generator)
                except BrokenSample as broken:
                    failures.append(Failure(index, broken.path, broken.reason))
                    index = int(torch.randint(self.num_samples, (), generator=generator))
                    continue
                remarks = () if sample.remark is None else (Failure(index, sample.path, sample.remark),)
                return Item(sample.inputs, sample.target, index, tuple(failures), sample.extras, remarks)
        return Item(None, -1, failures[0].id, tuple(failures))
