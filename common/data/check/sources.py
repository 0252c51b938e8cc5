"""What a user names to be checked: list files, folders with one subfolder per class, and plain folders of files."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

from revit.common.data.lists import SampleList
from revit.common.system.errors import UserError, reason_of

PEEKED_FILES, PEEKED_BYTES = 1000, 1 << 16
"""How much of a source is looked at to tell what it is of."""


@dataclass(frozen=True)
class Source:
    """A list that was read."""

    samples: SampleList
    read_as: str
    labelled: bool = True
    """False for a plain folder."""
    strays: tuple[str, ...] = ()
    """Files of a folder of classes that lie in no class."""


def kind_of(where: str, extensions: Mapping[str, Collection[str]]) -> str:
    """Return the kind (key of `extensions`) that most of the files of a source are of by their names; the first if none is.

    UserError if there is no such source.
    """
    if not os.path.exists(where):
        raise UserError(f"{where}: no such file or folder; give a list file, or a folder of files or of classes")
    names = list(islice(_files(where), PEEKED_FILES)) if os.path.isdir(where) else [where]
    if names and names[0].lower().endswith(".tar"):
        names = _members(names[0])
    elif names == [where]:
        names = _words(where)
    ends = [os.path.splitext(name.lower())[1] for name in names]
    counts = {kind: sum(end in known for end in ends) for kind, known in extensions.items()}
    return max(counts, key=lambda kind: counts[kind])


def read_source(where: str, extensions: Collection[str], read: Callable[[str], SampleList], noun: str) -> Source:
    """Read a source with `read`, as training would; what that refuses may be a plain folder of files. UserError if it is faulty."""
    top = [entry.path for entry in sorted(_entries(where), key=lambda one: one.name) if _ends(entry.name, extensions)]
    try:
        samples = read(where)
    except UserError:
        if not top or any(entry.is_dir() and not entry.name.startswith(".") for entry in _entries(where)):
            raise
        return Source(
            SampleList.build(((path, 0) for path in top), None, where), f"{noun}: plain folder", labelled=False
        )
    # Of a folder that names its own files, such as one with a table of them, they are no strays.
    has_classes = os.path.isdir(where) and not _is_in(samples, where)
    return Source(samples, f"{noun}: {samples.read_as or 'list'}", strays=tuple(top) if has_classes else ())


def _entries(where: str) -> list[os.DirEntry[str]]:
    return list(os.scandir(where)) if os.path.isdir(where) else []


def _is_in(samples: SampleList, folder: str) -> bool:
    """Tell whether some sample lies directly in a folder."""
    paths = (samples.path(position) for position in range(min(len(samples), PEEKED_FILES)))
    return any(os.path.dirname(path) == os.path.normpath(folder) for path in paths)


def _ends(name: str, extensions: Collection[str]) -> bool:
    return not name.startswith(".") and os.path.splitext(name.lower())[1] in extensions


def _files(folder: str) -> Iterator[str]:
    for inner, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (os.path.join(inner, name) for name in names)


def _members(archive: str) -> list[str]:
    """Return the first names in a tar file; none of one that is damaged, which its reader says."""
    try:
        with tarfile.open(archive, "r:") as tar:
            return [member.name for member in islice(tar, PEEKED_FILES)]
    except (tarfile.TarError, OSError):
        return []


def _words(where: str) -> list[str]:
    """Return what may be names of files in the beginning of a list."""
    try:
        with open(where, "rb") as file:
            text = file.read(PEEKED_BYTES).decode(errors="replace")
    except OSError as error:
        raise UserError(f"{where}: cannot be read ({reason_of(error).lower()})") from None
    for mark in ',;"\t':
        text = text.replace(mark, " ")
    return text.split()
