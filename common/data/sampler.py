"""The order of samples: a function of seed, epoch and position alone, so that any run can go on anywhere."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Sampler

from revit.common.data.dataset import sample_seed


class EpochSampler(Sampler[tuple[int, int, int]]):
    """Keys `(epoch, index, repeat)` for `RobustDataset`, in list order or shuffled anew each epoch.

    Ranks take turns in the order, so that after any number of rounds they have read its first samples together, and any
    other number of ranks can go on there. `equal_lengths` leaves out the last samples, fewer than `num_ranks`, so that all
    ranks read equally many (training needs it; evaluation must not leave out any).

    shares (n,): in proportion to which an epoch meets the samples, none of them 0; None: each once. An epoch is as long as
    before, and a sample comes as often as its share says, rounded up or down by chance (systematic sampling: Madow, "On the
    Theory of Systematic Sampling II", 1949), so what many samples share comes as often as it should, to within one.

    repeats: repeated augmentation (Hoffer et al., "Augment your batch"; DeiT takes 3). Each sample comes that many times
    in a row, with random numbers of its own and on different ranks, and the epoch ends after as many keys as without
    repeats: it meets 1 / repeats of the samples. (The published sampler also cuts the epoch to a multiple of 256 keys.)
    """

    def __init__(
        self,
        num_samples: int,
        *,
        seed: int = 0,
        shuffle: bool = False,
        rank: int = 0,
        num_ranks: int = 1,
        equal_lengths: bool = False,
        repeats: int = 1,
        shares: NDArray[np.float64] | None = None,
    ) -> None:
        if not 0 <= rank < num_ranks:
            raise ValueError(f"rank {rank} is outside 0..{num_ranks - 1}")
        if repeats < 1:
            raise ValueError(f"{repeats} repeats; 1 shows every sample once an epoch")
        self.num_samples = num_samples
        self.seed = seed
        self.shuffle = shuffle
        self.rank = rank
        self.num_ranks = num_ranks
        self.equal_lengths = equal_lengths
        self.repeats = repeats
        self.shares = shares
        self.epoch = 0
        self.start = 0

    def set_position(self, epoch: int, start: int = 0) -> None:
        """Begin the next iteration at sample `start` of the order of `epoch`, counted over all ranks; none before is read."""
        if not 0 <= start <= self.num_samples:
            raise ValueError(f"start {start} is outside the epoch's {self.num_samples} samples")
        self.epoch = epoch
        self.start = start

    @property
    def samples_per_epoch(self) -> int:
        """Number of samples that this rank reads in a whole epoch."""
        return len(self._positions(0))

    def __len__(self) -> int:
        """Return how many samples this rank still reads, from the start that was set."""
        return len(self._positions(self.start))

    def __iter__(self) -> Iterator[tuple[int, int, int]]:
        epoch = self.epoch
        if self.shuffle:
            # No sample has this index, so the order's seed differs from every sample's.
            generator = torch.Generator().manual_seed(sample_seed(self.seed, epoch, self.num_samples))
            order = torch.randperm(self.num_samples, generator=generator)
            if self.shares is not None:
                order = self._drawn(order, generator)
        else:
            order = torch.arange(self.num_samples)
        for position in self._positions(self.start):
            yield epoch, int(order[position // self.repeats]), position % self.repeats

    def _drawn(self, order: Tensor, generator: torch.Generator) -> Tensor:
        """Draw as many samples as there are by their shares, from a random order (n,), and shuffle them."""
        shares = torch.as_tensor(self.shares)[order]
        by_share = shares.argsort(stable=True)  # samples of one share side by side
        ends = shares[by_share].cumsum(0)
        points = torch.arange(len(order)) + torch.rand((), generator=generator, dtype=torch.float64)
        places = torch.searchsorted(ends, points * (ends[-1] / len(order)), right=True).clamp(max=len(order) - 1)
        return order[by_share][places][torch.randperm(len(order), generator=generator)]

    def _positions(self, start: int) -> range:
        """Return this rank's places in the order from `start` on."""
        end = self.num_samples
        if self.equal_lengths:
            end -= (end - start) % self.num_ranks
        return range(start + self.rank, end, self.num_ranks)
