"""Pictures inside tar files: an index of where each lies, made once, and random access without unpacking.

timm has such a reader too. This one keeps no open file (several processes would share its position), no Python object
per picture (each would grow in every loading worker), and writes no index beside the data.
"""

from __future__ import annotations

import io
import os
import tarfile
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from revit.common.data.flat import GrowingLabels, GrowingStrings
from revit.common.data.label_names import check_label
from revit.common.data.lists import SampleList
from revit.common.data.read_lists import is_number, list_folder
from revit.common.system.errors import UserError


@dataclass(frozen=True)
class TarList(SampleList):
    """Pictures of one or several tar files. The path of one is its tar file's and, behind it, its own in there."""

    archives: tuple[str, ...] = ()
    """The tar files."""
    archive_of: NDArray[np.int32] = field(default_factory=lambda: np.empty(0, np.int32))
    """(n,): which of them holds a picture."""
    offsets: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    """(n,): where its bytes begin."""
    sizes: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    """(n,): how many they are."""

    def name(self, position: int) -> str:
        """Folder and file: n01440764/x.JPEG, whether n01440764 is a folder in a tar file or a tar file itself."""
        archive = self.archives[self.archive_of[position]]
        member = PurePosixPath(self.path(position)[len(archive) + 1 :])
        folder = member.parent.name or PurePosixPath(archive).stem
        return f"{folder}/{member.name}"

    def open(self, position: int) -> BinaryIO:
        """The bytes of picture `position`. OSError if the tar file is not there or ends too early."""
        with open(self.archives[self.archive_of[position]], "rb") as file:
            file.seek(int(self.offsets[position]))
            content = file.read(int(self.sizes[position]))
        if len(content) < self.sizes[position]:
            raise OSError("the tar file ends within this picture")
        return io.BytesIO(content)

    def take(self, positions: NDArray[np.int64], kept: Sequence[int], names: Sequence[str]) -> Self:
        """See `SampleList.take`."""
        return replace(
            super().take(positions, kept, names),
            archive_of=self.archive_of[positions],
            offsets=self.offsets[positions],
            sizes=self.sizes[positions],
        )


class Member(NamedTuple):
    """A picture as the index meets it."""

    path: str
    """Inside the tar file."""
    offset: int
    size: int
    label: str
    """What its .cls file says, a class number or name, else the name of its folder."""
    from_file: bool
    """Which of the two."""


def is_tar(source: str) -> bool:
    """Whether `source` is a tar file, or a folder with tar files and no class folders."""
    if os.path.isdir(source):
        entries = list_folder(source)
        return any(entry.name.endswith(".tar") for entry in entries) and not any(
            entry.is_dir() for entry in entries
        )
    return source.endswith((".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz"))


def read_tar(source: str, extensions: tuple[str, ...], names: Sequence[str] | None = None) -> TarList:
    """Index a tar file, or every tar file of a folder, in alphabetical order.

    Two layouts, told apart by what is in there. Shards as webdataset writes them: `KEY.jpg` with its label, a class
    number or name, in `KEY.cls`. Otherwise the class is called like the folder that a picture lies in or, where it lies
    in none, like the tar file (ImageNet's n01440764.tar). Names are numbered by `names`, else alphabetically.

    `UserError` if a file is no uncompressed tar file, a label is missing or unknown, or there is no picture.
    """
    archives: tuple[str, ...] = (source,)
    if os.path.isdir(source):
        archives = tuple(entry.path for entry in list_folder(source) if entry.name.endswith(".tar"))
    paths, labels = GrowingStrings(), GrowingLabels[tuple[str, bool]]()
    archive_of, offsets, sizes = array("i"), array("q"), array("q")
    for number, archive in enumerate(archives):
        for member in _index(archive, extensions):
            paths.append(f"{archive}/{member.path}")
            labels.append((member.label, member.from_file))
            archive_of.append(number)
            offsets.append(member.offset)
            sizes.append(member.size)
    if not len(paths):
        raise UserError(
            f"{source}: no pictures ({' '.join(extensions)}) in it; unpack a tar file of tar files once, and give the folder"
        )
    # A folder called 7 is a name, as in a tree; 7 in a .cls file is a number.
    if names is None and not all(from_file and is_number(label) for label, from_file in labels.distinct):
        names = sorted({label for label, _ in labels.distinct})
    number_of = {name: number for number, name in enumerate(names)} if names is not None else None
    flat, numbers = paths.flat(), []
    for place, (label, from_file) in enumerate(labels.distinct):
        try:
            if number_of is not None and not from_file and label not in number_of:
                raise ValueError(f"{label!r} is not among the {len(number_of)} known class names")
            numbers.append(check_label(label, number_of))
        except ValueError as error:
            raise UserError(f"{flat[int((labels.places == place).argmax())]}: {error}") from None
    return TarList(
        paths=flat,
        labels=np.array(numbers, np.int64)[labels.places],
        names=tuple(names) if names is not None else None,
        source=source,
        archives=archives,
        archive_of=np.frombuffer(archive_of, np.int32),
        offsets=np.frombuffer(offsets, np.int64),
        sizes=np.frombuffer(sizes, np.int64),
    )


def _index(archive: str, extensions: tuple[str, ...]) -> Iterator[Member]:
    """The pictures of one tar file in its order."""
    pictures: list[tuple[str, int, int]] = []
    labels: dict[str, str] = {}
    try:
        # "r:" and not "r": inside a compressed file nothing can be reached at random.
        with tarfile.open(archive, "r:") as tar:
            for entry in tar:
                tar.members = []  # type: ignore[attr-defined]  # tarfile keeps every entry otherwise
                if not entry.isfile():
                    continue
                if entry.name.lower().endswith(extensions):
                    pictures.append((entry.name, entry.offset_data, entry.size))
                elif entry.name.endswith(".cls"):
                    content = tar.extractfile(entry)
                    labels[_key(entry.name)] = content.read().decode().strip() if content else ""
    except tarfile.ReadError as error:
        raise UserError(
            f"{archive}: not an uncompressed tar file ({error}); uncompress it first, and make it again if it is damaged"
        ) from None
    except OSError as error:
        raise UserError(f"{archive}: cannot read it ({(error.strerror or str(error)).lower()})") from None
    for path, offset, size in pictures:
        if labels and _key(path) not in labels:
            raise UserError(f"{archive}: {path} has no label beside it ({_key(path)}.cls), others have")
        own = PurePosixPath(path).parent.name or PurePosixPath(archive).stem
        yield Member(path, offset, size, labels.get(_key(path), own), bool(labels))


def _key(path: str) -> str:
    """webdataset's key: the path up to the first dot of the file's name."""
    folder, _, name = path.rpartition("/")
    return f"{folder}/{name.split('.', 1)[0]}" if folder else name.split(".", 1)[0]
