"""Parts of one list, for validation and test or to be held out in turn, with clips that were cut from one source on one side."""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath

import numpy as np
from numpy.typing import NDArray

from revit.common.data.formats.base import Split
from revit.common.data.lists import SampleList
from revit.common.system.errors import UserError

LAST_PART = re.compile(r"[\s_.\-]*[A-Za-z]{0,6}\d+$")
"""The last numbered part of a name, such as `_c01`, `-3` or ` part 2`."""
FEWEST_GROUPS = 5
"""Groups that every class must have for names to show them: with fewer, numbers in names only count files."""


@dataclass(frozen=True)
class SplitOff:
    """Rule by which parts are split off: every process and every later run finds the same parts."""

    share: float
    """Share of each class that one part takes."""
    parts: tuple[Split, ...]
    """Parts to be split off; the rest is the training list."""
    seed: int = 0

    def take(self, samples: SampleList, part: Split) -> SampleList:
        """Return one part of a list; what it was read as says how all were split."""
        groups = groups_of(samples)
        positions = self.positions(samples, groups)
        counts = ", ".join(f"{name} {len(its)}" for name, its in positions.items())
        sources = list(dict.fromkeys(groups))
        together = (
            f", files of one source together ({len(sources)} such as {sources[0]!r})"
            if len(sources) < len(samples)
            else ""
        )
        said = f"{samples.read_as}, split by seed {self.seed}: {counts}{together}"
        return replace(samples.at(positions[part]), read_as=said)

    def positions(self, samples: SampleList, groups: Sequence[str]) -> dict[Split, NDArray[np.int64]]:
        """Return the sorted positions of the samples in "train" and in each part. UserError if a class is left out of the training.

        groups: those of the samples, see `groups_of`. They are taken in an order that depends on the seed and their names alone, and go to the first part that still wants
        samples of their class: a new file does not move the others.
        """
        strata = strata_of(samples)
        members: dict[str, list[int]] = defaultdict(list)
        for position, group in enumerate(groups):
            members[group].append(position)
        wanted = {part: np.rint(np.bincount(strata) * self.share) for part in self.parts}
        found: dict[Split, list[int]] = {"train": [], **{part: [] for part in self.parts}}
        for group in sorted(members, key=self._draw):
            (label, _), *_ = Counter(strata[members[group]].tolist()).most_common(1)
            part: Split = next((one for one in self.parts if wanted[one][label] > 0), "train")
            found[part] += members[group]
            if part != "train":
                wanted[part] -= np.bincount(strata[members[group]], minlength=len(wanted[part]))
        every, rest = (
            np.bincount(one.all_labels, minlength=samples.num_classes)
            for one in (samples, samples.at(np.array(found["train"], np.int64)))
        )
        lost = np.flatnonzero((rest == 0) & (every > 0))
        if len(lost):
            raise UserError(
                f"{samples.source}: class {samples.class_name(int(lost[0]))!r} has too few samples to split off "
                f"{' and '.join(self.parts)} ({self.share:g} each); add some, or give data.source.val"
            )
        return {part: np.array(sorted(its), np.int64) for part, its in found.items()}

    def _draw(self, group: str) -> bytes:
        return _drawn(group, self.seed)


def folds_of(samples: SampleList, num_folds: int, seed: int) -> list[NDArray[np.int64]]:
    """Divide a list into parts of about equal size in every class, files of one source in one part: sorted positions.

    Every process and every later run finds the same. UserError for fewer sources than parts.
    """
    members: dict[str, list[int]] = defaultdict(list)
    for position, group in enumerate(groups_of(samples)):
        members[group].append(position)
    if len(members) < num_folds:
        raise UserError(
            f"{samples.source}: its {len(samples)} samples are of {len(members)} sources, too few for {num_folds} folds; lower "
            "lengths.folds, or set it to 0"
        )
    strata = strata_of(samples)
    sizes = np.zeros((num_folds, strata.max() + 1), np.int64)
    found: list[list[int]] = [[] for _ in range(num_folds)]
    for group in sorted(members, key=lambda name: _drawn(name, seed)):
        labels = strata[members[group]]
        (label, _), *_ = Counter(labels.tolist()).most_common(1)
        fold = min(range(num_folds), key=lambda number: (sizes[number, label], sizes[number].sum()))
        found[fold] += members[group]
        sizes[fold] += np.bincount(labels, minlength=sizes.shape[1])
    return [np.array(sorted(its), np.int64) for its in found]


def _drawn(group: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed} {group}".encode(errors="surrogateescape")).digest()


def strata_of(samples: SampleList) -> NDArray[np.int64]:
    """Return what each sample (n,) is counted as: its class or, of samples with several labels, the rarest of them, from 1, with
    0 for those that have none."""
    if not samples.several:
        return samples.labels
    counts = np.bincount(samples.all_labels)
    sets = map(samples.label_set, range(len(samples)))
    return np.array([1 + min(one, key=lambda label: counts[label]) if one else 0 for one in sets], np.int64)


def groups_of(samples: SampleList) -> list[str]:
    """Return the source that each sample was cut from, as far as names show it; else each sample's own path.

    Names end in numbered parts ("v_Jump_g08_c01", "P01_scene3_02", "film_000010_000020"). As many parts are left out as still
    leave `FEWEST_GROUPS` groups in every class; segments of one file are of one source in any case.
    """
    paths = [samples.path(position) for position in range(len(samples))]
    names = [PurePath(path).stem for path in paths]
    best = paths
    while True:
        shorter = [LAST_PART.sub("", name) or name for name in names]
        if shorter == names:
            return best
        by_class: dict[int, set[str]] = defaultdict(set)
        for name, label in zip(shorter, samples.labels.tolist()):
            by_class[label].add(name)
        if min(map(len, by_class.values())) < FEWEST_GROUPS:
            return best
        if len(set(shorter)) < len(set(paths)):
            best = shorter
        names = shorter
