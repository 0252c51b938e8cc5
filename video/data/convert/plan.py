"""Names of the new files, and the list that points at them.

A folder with one subfolder per class becomes such a folder. Of a list LISTS/train.csv the files go to OUT/train, in the
folders that they have below what is common to all, and OUT/train.csv has the lines of the old list with the new paths.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from revit.common.data.formats.base import ListRequest
from revit.common.data.label_names import read_label_names
from revit.common.data.lists import SampleList
from revit.common.system.errors import UserError
from revit.common.system.files import write_lines
from revit.video.data.lists import read_clips

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class ConvertPlan:
    """The new files of a list or a folder."""

    samples: SampleList
    out: Path
    """Absolute."""
    is_tree: bool
    stem: str
    """Name of the new list, without its end."""
    separator: str
    names: Mapping[str, str]
    """Absolute path of each source, in the order of the list -> path from `out`."""

    @property
    def list_path(self) -> Path:
        """New value of `data.source`."""
        return self.out if self.is_tree else self.out / f"{self.stem}.csv"

    def beside(self, name: str) -> Path:
        """Return the path of a text that goes with the list: `classes.txt` (position = number) or `broken.txt`."""
        return self.out / (name if self.is_tree else f"{self.stem}_{name}")

    def write(self, broken: Mapping[str, str]) -> None:
        """Write the list without the broken sources (path -> reason), the class names if there are any, and the broken ones."""
        names = self.samples.names
        if not self.is_tree:
            between = {"\\t": "\t"}.get(self.separator, self.separator)
            lines = (
                f"{self.out / self.names[source]}{between}{label if names is None else names[label]}\n"
                for source, label in self._rows()
                if source not in broken
            )
            write_lines(self.list_path, lines)
        if names is not None:
            write_lines(self.beside("classes.txt"), [f"{name}\n" for name in names])
        write_lines(self.beside("broken.txt"), [f"{source}: {reason}\n" for source, reason in broken.items()])

    def keys(self, broken: Collection[str]) -> list[str]:
        """List the keys to set so that the new files are read with the class numbers that the old ones have."""
        split = self.stem if self.stem in SPLITS else "|".join(SPLITS)
        keys = [f"data.source.{split}={self.list_path}"]
        kept = {label for source, label in self._rows() if source not in broken}
        # A folder numbers its classes by itself, and otherwise if one has no clip left.
        if self.samples.names is not None and (not self.is_tree or kept != {row[1] for row in self._rows()}):
            keys.append(f"data.source.label_names={self.beside('classes.txt')}")
        if not self.is_tree and self.separator != " ":
            keys.append(f"data.source.separator='{self.separator}'")
        return keys

    def _rows(self) -> Iterator[tuple[str, int]]:
        for position in range(len(self.samples)):
            yield os.path.abspath(self.samples.path(position)), self.samples.label(position)


def plan_conversion(
    where: str, out: str, *, separator: str = " ", prefix: str = "", label_names: str | None = None
) -> ConvertPlan:
    """Read the list or folder `where`, as `data.source` would. UserError if it is faulty, `out` is in it, or it in `out`."""
    names = read_label_names(label_names) if label_names else None
    samples = read_clips(ListRequest(where, separator=separator, prefix=prefix, names=names))
    if samples.segments is not None or type(samples) is not SampleList:
        kind = "members of tar files" if samples.segments is None else "segments of longer files"
        raise UserError(
            f"{where}: its clips are {kind}; convert their files first, and write their list or tar files anew"
        )
    is_tree = os.path.isdir(where)
    sources = list(dict.fromkeys(os.path.abspath(samples.path(place)) for place in range(len(samples))))
    if is_tree and _holds(where, out):
        raise UserError(f"--out {out} is inside {where}, the clips to convert; choose a folder beside it")
    inside = next((source for source in sources if _holds(out, source)), None)
    if inside is not None:
        raise UserError(f"{inside}, one of the clips to convert, is inside --out {out}; choose a folder without them")
    if is_tree:
        stem, below, root = Path(os.path.abspath(where)).name, "", os.path.abspath(where)
    else:
        stem = below = Path(where).stem
        root = os.path.commonpath([os.path.dirname(source) for source in sources])
    old = [os.path.relpath(source, root) for source in sources]
    new = [os.path.splitext(name)[0] + ".mp4" for name in old]
    times = Counter(new)  # .mp4 goes behind the old end where two files would become one
    targets = [one if times[one] == 1 else f"{name}.mp4" for name, one in zip(old, new)]
    return ConvertPlan(
        samples=samples,
        out=Path(os.path.abspath(out)),
        is_tree=is_tree,
        stem=stem,
        separator=separator,
        names={source: os.path.join(below, name) for source, name in zip(sources, targets)},
    )


def _holds(folder: str, path: str) -> bool:
    """Tell whether `path` is `folder` or lies in it, links followed."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))
