"""Lists and loaders from options. The function that reads one sample is passed in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from revit.common.data.broken import BrokenFiles
from revit.common.data.dataset import Load, RobustDataset
from revit.common.data.formats.base import ListRequest, Split
from revit.common.data.label_names import read_label_names
from revit.common.data.lists import SampleList
from revit.common.data.loader import Loader
from revit.common.data.options import LoadingOptions, SourceOptions
from revit.common.data.sampler import EpochSampler
from revit.common.data.split_off import SplitOff
from revit.common.system.errors import UserError

ReadList = Callable[[ListRequest], SampleList]
"""Function that reads a source in whichever format it is."""


def read_split(source: SourceOptions, split: Split, read: ReadList) -> SampleList:
    """Return the samples of one split, with the class names of `label_names` or else of the training list, from whose first
    label the others count as well.

    Without a test list the val list is tested; with `split_off` what is not given is split off the training list. UserError if
    there is no list or it is faulty.
    """
    if source.parts and split in ("train", *source.parts):
        assert source.train is not None
        assert source.split_off is not None
        whole = _read(source, source.train, "train", read)
        return SplitOff(source.split_off, source.parts, source.split_seed).take(whole, split)
    where = source.val if split == "test" and source.test is None else getattr(source, split)
    if where is None:
        raise UserError(f"data.source.{split} is not set: give a list file or a folder with one subfolder per class")
    return _read(source, where, "val" if split == "test" and source.test is None else split, read)


def _read(source: SourceOptions, where: str, split: Split, read: ReadList) -> SampleList:
    names = read_label_names(source.label_names) if source.label_names else None
    first_label = source.first_label
    train_labels: Literal["names", "numbers"] | None = None
    if split != "train" and source.train is not None and (names is None or first_label is None):
        train = _read(source, source.train, "train", read)
        if names is None:
            names, train_labels = train.names, ("numbers" if train.names is None else "names")
        first_label = train.first_label
    samples = read(
        ListRequest(
            where,
            split=split,
            separator=source.separator,
            prefix=source.prefix,
            names=names,
            first_label=first_label,
            train_labels=train_labels,
            fold=source.fold,
            label_column=source.label_column,
            format=source.format,
            several=source.several_labels,
        )
    )
    return samples.with_label_sets() if source.several_labels else samples


def train_loader(
    load: Load,
    samples: SampleList,
    loading: LoadingOptions,
    batch_size: int,
    seed: int,
    *,
    repeats: int = 1,
    rank: int = 0,
    num_ranks: int = 1,
    shares: NDArray[np.float64] | None = None,
) -> Loader:
    """Return a loader of shuffled batches of `batch_size` per process; what cannot be read is replaced. `shares`: see
    `EpochSampler`.

    Its loop raises UserError once more than `max_broken_share` of the files met cannot be read. The last, smaller batch of
    an epoch is dropped, unless it is the only one.
    """
    sampler = EpochSampler(
        len(samples),
        seed=seed,
        shuffle=True,
        rank=rank,
        num_ranks=num_ranks,
        equal_lengths=True,
        repeats=repeats,
        shares=shares,
    )
    return Loader(
        RobustDataset(load, len(samples), seed=seed, training=True, max_tries=loading.max_tries),
        sampler,
        BrokenFiles(len(samples), loading.max_broken_share, name=samples.source),
        batch_size,
        num_workers=loading.num_workers,
        prefetch=loading.prefetch,
        drop_last=sampler.samples_per_epoch >= batch_size,
    )


def eval_loader(
    load: Load,
    samples: SampleList,
    loading: LoadingOptions,
    batch_size: int,
    *,
    num_views: int = 1,
    rank: int = 0,
    num_ranks: int = 1,
) -> Loader:
    """Return a loader of every sample once, in list order. What cannot be read is missing and among the failures."""
    return Loader(
        RobustDataset(load, len(samples)),
        EpochSampler(len(samples), rank=rank, num_ranks=num_ranks),
        BrokenFiles(len(samples), name=samples.source),
        batch_size,
        num_workers=loading.num_workers,
        prefetch=loading.prefetch,
        num_views=num_views,
    )
