"""A data set that never raises for a broken file, and whose random numbers do not depend on the workers.

It knows nothing of video or pictures: reading one sample is a function that is passed in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Generator, Tensor
from torch.utils.data import Dataset

from revit.common.data.batch import Item
from revit.common.data.broken import BrokenSample, Failure


class Sample(NamedTuple):
    """One sample as the reading function returns it."""

    inputs: Tensor
    """uint8 (V, C, T, H, W) or (V, C, H, W)."""
    target: int
    """Class number; -1 when unknown."""


Load = Callable[[int, Generator], Sample]
"""`load(index, generator)`: read sample `index`, drawing every random number from `generator` or from torch's
global generator (seeded alike); raise `BrokenSample` if it cannot be read."""


def sample_seed(seed: int, epoch: int, index: int) -> int:
    """A 63-bit seed that depends on the three numbers and on nothing else (not on worker, order or history)."""
    state = np.random.SeedSequence([seed, epoch, index]).generate_state(1, np.uint64)[0]
    return int(state >> np.uint64(1))


class RobustDataset(Dataset[Item]):
    """Map-style data set over keys `(epoch, index)`, as `EpochSampler` yields them; a bare index means epoch 0.

    load: reads one sample, see `Load`.
    training: a sample that cannot be read is replaced by another one, drawn from the sample's own seed, at most
        `max_tries` times; the failures travel in the item. Otherwise nothing is replaced: the item has no inputs
        and its failure says why.

    The published loader replaces silently in training and dies in testing after ten tries; here neither happens.
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

    def __getitem__(self, key: int | tuple[int, int]) -> Item:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        if not 0 <= index < self.num_samples:
            raise IndexError(f"sample {index} asked of a data set of {self.num_samples}")
        seed = sample_seed(self.seed, epoch, index)
        generator = Generator().manual_seed(seed)
        failures: list[Failure] = []
        # torchvision's transforms draw from torch's global generator: seed it for this sample alone.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            for _ in range(self.max_tries):
                try:
                    sample = self.load(index, generator)
                except BrokenSample as broken:
                    failures.append(Failure(index, broken.path, broken.reason))
                    index = int(torch.randint(self.num_samples, (), generator=generator))
                    continue
                return Item(sample.inputs, sample.target, index, tuple(failures))
        return Item(None, -1, failures[0].id, tuple(failures))
