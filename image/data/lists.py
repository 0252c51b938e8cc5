"""Lists of labelled pictures: files of lines, folder-per-class trees, tar files; and class subsets of them.

timm has a reader of tar files too. This one keeps no open file (several processes would share its position), no Python
object per picture (each would grow in every loading worker), and writes no index beside the data.
"""

from __future__ import annotations

import io
import os
import tarfile
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from revit.common.data.flat import GrowingLabels, GrowingStrings
from revit.common.data.label_names import check_label, read_label_names
from revit.common.data.lists import SampleList
from revit.common.data.read_lists import is_number, list_folder, read_samples
from revit.common.system.errors import UserError

EXTENSIONS = (".jpeg", ".jpg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
"""Files of a tree or tar file that are taken for pictures; lists may name any file."""


def read_pictures(
    source: str, *, separator: str = " ", prefix: str = "", names: Sequence[str] | None = None, several: bool = False
) -> SampleList:
    """Read a list file, a folder-per-class tree, a tar file or a folder of tar files, whichever `source` is."""
    if _is_tar(source):
        return read_tar(source, names)
    return read_samples(
        source, "pictures", EXTENSIONS, separator=separator, prefix=prefix, names=names, several=several
    )


def keep_classes(samples: SampleList, classes: int | str | Sequence[str | int]) -> SampleList:
    """Return the samples of some classes, numbered anew in the order given; classes without a name are called by their number.

    classes: names or numbers, a file that lists them, or N for the first N.

    Raises UserError if a class is unknown or given twice, or no sample is left.
    """
    numbers = _class_numbers(samples, classes)
    positions = np.flatnonzero(np.isin(samples.labels, numbers))
    if not len(positions):
        raise UserError(f"{samples.source}: none of its pictures is of the {len(numbers)} classes of source.classes")
    names = [samples.names[number] if samples.names is not None else str(number) for number in numbers]
    return samples.take(positions, numbers, names)


def _class_numbers(samples: SampleList, classes: int | str | Sequence[str | int]) -> list[int]:
    count = samples.num_classes
    if isinstance(classes, int):
        if not 1 <= classes <= count:
            raise UserError(f"{samples.source}: source.classes is {classes}, but there are {count} classes")
        return list(range(classes))
    where = classes if isinstance(classes, str) else "source.classes"
    wanted = read_label_names(classes) if isinstance(classes, str) else classes
    number_of = {name: number for number, name in enumerate(samples.names or map(str, range(count)))}
    try:
        numbers = [check_label(str(label), number_of) for label in wanted]
    except ValueError as error:
        raise UserError(f"{where}: {error} of {samples.source}") from None
    if twice := [number for number, times in Counter(numbers).items() if times > 1]:
        raise UserError(f"{where}: classes appear more than once: {', '.join(map(str, twice[:5]))}")
    if not numbers:
        raise UserError(f"{where}: no class in it; leave source.classes out for all {count}")
    return numbers


# -- tar files -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TarList(SampleList):
    """Pictures of one or several tar files. The path of one is its tar file's and, behind it, its own in there."""

    archives: tuple[str, ...] = ()
    """The tar files."""
    archive_of: NDArray[np.int32] = field(default_factory=lambda: np.empty(0, np.int32))
    """Position (n,) of a picture's tar file in `archives`."""
    offsets: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    """First byte (n,) of a picture."""
    sizes: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    """Number of bytes (n,) of a picture."""

    def name(self, position: int) -> str:
        """Return folder and file: n01440764/x.JPEG, whether n01440764 is a folder in a tar file or a tar file itself."""
        archive = self.archives[self.archive_of[position]]
        member = self.path(position)[len(archive) + 1 :]
        return f"{_folder_name(archive, member)}/{PurePosixPath(member).name}"

    def open(self, position: int) -> BinaryIO:
        """Return the bytes of a picture. OSError if the tar file is not there or ends too early."""
        with open(self.archives[self.archive_of[position]], "rb") as file:
            file.seek(int(self.offsets[position]))
            content = file.read(int(self.sizes[position]))
        if len(content) < self.sizes[position]:
            raise OSError("the tar file ends within this picture")
        return io.BytesIO(content)

    def take(self, positions: NDArray[np.int64], kept: Sequence[int], names: Sequence[str]) -> Self:
        """See `SampleList.take`."""
        own = {name: getattr(self, name)[positions] for name in ("archive_of", "offsets", "sizes")}
        return replace(super().take(positions, kept, names), **own)


def read_tar(source: str, names: Sequence[str] | None = None) -> TarList:
    """Index a tar file, or every tar file of a folder, in alphabetical order.

    Two layouts, told apart by what is in there. Shards as webdataset writes them: `KEY.jpg` with its label, a class
    number or name, in `KEY.cls`. Otherwise the class is called like the folder that a picture lies in or, where it lies
    in none, like the tar file (ImageNet's n01440764.tar). Names are numbered by `names`, else alphabetically.

    Raises UserError if a file is no uncompressed tar file, a label is missing or unknown, or there is no picture.
    """
    archives: tuple[str, ...] = (source,)
    if os.path.isdir(source):
        archives = tuple(entry.path for entry in list_folder(source) if entry.name.endswith(".tar"))
    paths, labels = GrowingStrings(), GrowingLabels[tuple[str, bool]]()
    archive_of, offsets, sizes = array("i"), array("q"), array("q")
    for number, archive in enumerate(archives):
        for path, offset, size, said in _members(archive):
            paths.append(f"{archive}/{path}")
            labels.append(said)
            archive_of.append(number)
            offsets.append(offset)
            sizes.append(size)
    if not len(paths):
        raise UserError(
            f"{source}: no pictures ({' '.join(EXTENSIONS)}) in it; unpack a tar file of tar files once, and give the folder"
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


def _is_tar(source: str) -> bool:
    """Return True for a tar file, or a folder with tar files and no class folders."""
    if os.path.isdir(source):
        entries = list_folder(source)
        has_tar = any(entry.name.endswith(".tar") for entry in entries)
        return has_tar and not any(entry.is_dir() for entry in entries)
    return source.endswith((".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz"))


def _members(archive: str) -> Iterator[tuple[str, int, int, tuple[str, bool]]]:
    """Yield path, offset, size and label of the pictures of one tar file in its order; the label with whether a .cls file
    says so or the name of the folder."""
    pictures: list[tuple[str, int, int]] = []
    labels: dict[str, str] = {}
    try:
        # "r:" and not "r": inside a compressed file nothing can be reached at random.
        with tarfile.open(archive, "r:") as tar:
            for entry in tar:
                tar.members = []  # type: ignore[attr-defined]  # tarfile keeps every entry otherwise
                if not entry.isfile():
                    continue
                if entry.name.lower().endswith(EXTENSIONS):
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
        key = _key(path)
        if labels and key not in labels:
            raise UserError(f"{archive}: {path} has no label beside it ({key}.cls), others have")
        yield path, offset, size, (labels.get(key, _folder_name(archive, path)), bool(labels))


def _folder_name(archive: str, member: str) -> str:
    """Return the name of the folder that a member lies in or, where it lies in none, of the tar file."""
    return PurePosixPath(member).parent.name or PurePosixPath(archive).stem


def _key(path: str) -> str:
    """Return webdataset's key: the path up to the first dot of the file's name."""
    folder, slash, name = path.rpartition("/")
    return folder + slash + name.split(".", 1)[0]
