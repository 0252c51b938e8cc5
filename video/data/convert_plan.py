"""Which file becomes which, and the list that points at the new ones.

A folder with one subfolder per class becomes such a folder. Of a list LISTS/train.csv the files go to OUT/train, in the
folders that they have below what is common to all, and OUT/train.csv has the lines of the old list with the new paths.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from revit.common.data.label_names import read_label_names
from revit.common.data.lists import SampleList
from revit.common.system.errors import UserError
from revit.common.system.files import write_lines
from revit.video.data.lists import read_clips

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class ConvertPlan:
    """What is to be made of a list or a folder."""

    samples: SampleList
    out: Path
    """Absolute."""
    is_tree: bool
    stem: str
    """What the new list is called, without its end."""
    separator: str
    sources: tuple[str, ...]
    """Absolute, each once, in the order of the list."""
    names: Mapping[str, str]
    """Source -> path from `out`."""

    @property
    def list_path(self) -> Path:
        """What `data.source` is to be pointed at."""
        return self.out if self.is_tree else self.out / f"{self.stem}.csv"

    @property
    def classes_path(self) -> Path:
        """Class names, one per line, position = number."""
        return self.out / ("classes.txt" if self.is_tree else f"{self.stem}_classes.txt")

    @property
    def broken_path(self) -> Path:
        """Sources that were left out, and why."""
        return self.out / ("broken.txt" if self.is_tree else f"{self.stem}_broken.txt")

    def write(self, broken: Mapping[str, str]) -> None:
        """The list without the broken sources (path -> reason), the class names if there are any, and the broken ones.

        Raises:
            UserError: the disk is full.
        """
        if not self.is_tree:
            write_lines(self.list_path, self._lines(broken))
        if self.samples.names is not None:
            write_lines(self.classes_path, [f"{name}\n" for name in self.samples.names])
        write_lines(self.broken_path, [f"{source}: {reason}\n" for source, reason in broken.items()])

    def keys(self, broken: Mapping[str, str]) -> list[str]:
        """What to set so that the new files are read, with the class numbers that the old ones have."""
        split = self.stem if self.stem in SPLITS else "|".join(SPLITS)
        keys = [f"data.source.{split}={self.list_path}"]
        if self.samples.names is not None and (not self.is_tree or self._lost_classes(broken)):
            keys.append(f"data.source.label_names={self.classes_path}")
        if not self.is_tree and self.separator != " ":
            keys.append(f"data.source.separator='{self.separator}'")
        return keys

    def _lines(self, broken: Mapping[str, str]) -> Iterator[str]:
        between = {"\\t": "\t"}.get(self.separator, self.separator)
        names = self.samples.names
        for position in range(len(self.samples)):
            source, label = os.path.abspath(self.samples.path(position)), self.samples.label(position)
            if source not in broken:
                text = str(label) if names is None else names[label]
                yield f"{self.out / self.names[source]}{between}{text}\n"

    def _lost_classes(self, broken: Mapping[str, str]) -> bool:
        """Whether the new folder would number the classes otherwise, as one of them has no clip left."""
        before, after = set(), set()
        for position in range(len(self.samples)):
            label = self.samples.label(position)
            before.add(label)
            if os.path.abspath(self.samples.path(position)) not in broken:
                after.add(label)
        return before != after


def plan_conversion(
    where: str, out: str, *, separator: str = " ", prefix: str = "", label_names: str | None = None
) -> ConvertPlan:
    """Reads the list or folder `where`, as `data.source` would with these settings.

    Raises:
        UserError: it is faulty; `out` is in it, or it in `out`.
    """
    names = read_label_names(label_names) if label_names else None
    samples = read_clips(where, separator=separator, prefix=prefix, names=names)
    is_tree = os.path.isdir(where)
    folder = Path(os.path.abspath(out))
    sources = tuple(
        dict.fromkeys(os.path.abspath(samples.path(position)) for position in range(len(samples)))
    )
    if is_tree and _holds(where, out):
        raise UserError(f"--out {out} is inside {where}, the clips to convert; choose a folder beside it")
    inside = next((source for source in sources if _holds(out, source)), None)
    if inside is not None:
        raise UserError(
            f"{inside}, one of the clips to convert, is inside --out {out}; choose a folder without them"
        )
    stem = Path(os.path.abspath(where)).name if is_tree else Path(where).stem
    if is_tree:
        below, root = "", os.path.abspath(where)
    else:
        below, root = stem, _common_folder(sources)
    targets = _targets([os.path.relpath(source, root) for source in sources])
    return ConvertPlan(
        samples=samples,
        out=folder,
        is_tree=is_tree,
        stem=stem,
        separator=separator,
        sources=sources,
        names={source: os.path.join(below, name) for source, name in zip(sources, targets)},
    )


def _targets(names: Sequence[str]) -> list[str]:
    """Each name with .mp4 at its end instead of its own; behind its own where two files would become one."""
    plain = [os.path.splitext(name)[0] + ".mp4" for name in names]
    times = Counter(plain)
    return [new if times[new] == 1 else f"{name}.mp4" for name, new in zip(names, plain)]


def _common_folder(sources: Sequence[str]) -> str:
    return os.path.commonpath([os.path.dirname(source) for source in sources])


def _holds(folder: str | Path, path: str | Path) -> bool:
    """Whether `path` is `folder` or lies in it, links followed."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))
