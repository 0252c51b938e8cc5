"""Results of a check: as JSON, as the summaries that are kept, and as clean lists."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from revit.common.data.check.facts import KINDS, Kind
from revit.common.data.check.files import UNKNOWN, Files
from revit.common.data.check.labels import class_counts
from revit.common.data.check.summary import Summary, paths_of
from revit.common.data.lists import FilePart, SampleList
from revit.common.system.errors import UserError
from revit.common.system.files import write_lines


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, or odd."""

    path: str
    """The file or, of labels, the list."""
    kind: Kind
    reason: str
    """One line."""


@dataclass
class Checkup:
    """Results of a check."""

    files: Files
    read_as: str
    bad: Mapping[int, Problem]
    """By samples, numbered over all lists: those that a clean list goes without."""
    odd: Mapping[int, Problem]
    """Remarks, by samples."""
    labels: list[Problem]
    labelled: bool
    """False for a plain folder of files."""
    checked: str
    """Date and time, UTC."""
    seconds: float

    @property
    def num_files(self) -> int:
        """Number of samples that were looked at."""
        return int(self.files.looked_at.sum())

    @property
    def num_good(self) -> int:
        return self.num_files - sum(map(self._is_looked_at, self.bad))

    @property
    def problems(self) -> Iterator[Problem]:
        """All that is wrong, then what is odd; a file that several samples are parts of once."""
        yield from self.labels
        yield from dict.fromkeys(self.bad[number] for number in sorted(self.bad))
        yield from dict.fromkeys(self.odd[number] for number in sorted(self.odd))

    @property
    def kinds(self) -> dict[str, int]:
        """Number of problems of each kind that there is."""
        counts = Counter(problem.kind for problem in self.problems)
        return {kind: counts[kind] for kind in KINDS if counts[kind]}

    def to_json(self) -> dict[str, Any]:
        """Return what `check_data.py --json` writes."""
        classes: Counter[str] = Counter()
        for samples in self.files.lists if self.labelled else ():
            classes.update(class_counts(samples))
        return {
            "read_as": self.read_as,
            "files": self.num_files,
            "listed": len(self.files.of_sample),
            "good": self.num_good,
            "classes": dict(classes),
            "problems": [asdict(problem) for problem in self.problems],
            "kinds": self.kinds,
            "fingerprint": " + ".join(samples.fingerprint for samples in self.files.lists),
            "seconds": round(self.seconds, 3),
            "lists": {
                called: {"source": self.files.lists[which].source} | asdict(self.summary(which))
                for which, called in enumerate(self.files.called)
            },
        }

    def summary(self, which: int) -> Summary:
        """Return the summary of one list."""
        samples = self.files.lists[which]
        begin, end = self.files.begins[which : which + 2].tolist()
        num_files = int(self.files.looked_at[begin:end].sum())
        bad = [number for number in self.bad if begin <= number < end]
        odd = {self.odd[number] for number in self.odd if begin <= number < end}
        counts = Counter(problem.kind for problem in {self.bad[number] for number in bad} | odd)
        counts["label"] = sum(problem.path == samples.source for problem in self.labels)
        kinds = {str(kind): counts[kind] for kind in KINDS if counts[kind]}
        num_good = num_files - sum(map(self._is_looked_at, bad))
        return Summary(self.checked, paths_of(samples), len(samples), num_files, num_good, kinds)

    def write_clean(self, which: int, path: Path) -> tuple[int, list[str]]:
        """Write a list without the bad samples; return how many lines there are, and files whose name cannot stand in one.

        Lines are an absolute path and the number of its class, whose names go into a file beside it (`names_beside`); of a
        plain folder the paths alone. Files that were not looked at are taken to be good.
        """
        samples, begin = self.files.lists[which], int(self.files.begins[which])
        first = first_written(samples)
        unwritten: list[str] = []
        num_lines = 0

        def lines() -> Iterator[str]:
            nonlocal num_lines
            for position in range(len(samples)):
                file = os.path.abspath(samples.path(position))
                if begin + position in self.bad:
                    continue
                if file.splitlines() != [file] or file != file.strip().strip('"'):
                    unwritten.append(file)
                    continue
                num_lines += 1
                # In quotes where a number at the end of a name could be a label.
                named = f'"{file}"' if samples.several else file
                yield f"{named} {samples.label_text(position, first)}\n" if self.labelled else f"{file}\n"

        write_lines(path, lines())
        if self.labelled and samples.names is not None:
            write_lines(names_beside(path), (f"{name}\n" for name in samples.names))
        return num_lines, unwritten

    def _is_looked_at(self, number: int) -> bool:
        return bool(self.files.code[self.files.of_sample[number]] != UNKNOWN)


def first_written(samples: SampleList) -> int:
    """Return the number of the first class in a clean list: where there are no names, that of the list itself."""
    return samples.first_label if samples.names is None else 0


def names_beside(path: Path) -> Path:
    """Return the file of class names that goes with a clean list."""
    return path.with_name(f"{path.stem}.classes.txt")


def check_can_be_listed(lists: Mapping[str, SampleList]) -> None:
    """Raise UserError for samples that lines of path and label cannot name."""
    for called, samples in lists.items():
        if isinstance(samples.file(0), FilePart):
            raise UserError(
                f"--out: the files of {called} lie in a tar file, which a list cannot name; leave --out out"
            )
        if samples.segments is not None:
            raise UserError(
                f"--out: the samples of {called} are segments of files, which a line of path and label cannot name; leave "
                "--out out"
            )
