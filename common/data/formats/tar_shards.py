"""Tar files of samples, read at random places: webdataset's shards, or folders and classes packed as they were.

timm has a reader of tar files too. This one keeps no open file (several processes would share its position), no Python
object per sample (each would grow in every loading worker), and writes no index beside the data.
"""

from __future__ import annotations

import io
import json
import tarfile
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from revit.common.data.flat import FlatNumbers, GrowingLabels, GrowingStrings
from revit.common.data.formats.base import ListRequest
from revit.common.data.formats.rows import first_number, is_number, labels_in
from revit.common.data.label_names import check_label
from revit.common.data.lists import FilePart, SampleList
from revit.common.system.errors import UserError


@dataclass(frozen=True)
class TarList(SampleList):
    """Samples of one or several tar files. The path of one is its tar file's and, behind it, its own in there."""

    archives: tuple[str, ...] = ()
    """The tar files."""
    archive_of: NDArray[np.int32] = field(default_factory=lambda: np.empty(0, np.int32))
    """Position (n,) of a sample's tar file in `archives`."""
    offsets: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    """First byte (n,) of a sample."""
    sizes: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    """Number of bytes (n,) of a sample."""

    def name(self, position: int) -> str:
        """Return folder and file: n01440764/x.JPEG, whether n01440764 is a folder in a tar file or a tar file itself."""
        archive = self.archives[self.archive_of[position]]
        member = self.path(position)[len(archive) + 1 :]
        return f"{_folder_name(archive, member)}/{PurePosixPath(member).name}"

    def open(self, position: int) -> BinaryIO:
        """Return the bytes of a sample. OSError if the tar file is not there or ends too early."""
        part = self.file(position)
        with open(part.whole, "rb") as file:
            file.seek(part.offset)
            content = file.read(part.size)
        if len(content) < part.size:
            raise OSError("the tar file ends within this file")
        return io.BytesIO(content)

    def file(self, position: int) -> FilePart:
        """See `SampleList.file`."""
        archive, offset = self.archives[self.archive_of[position]], int(self.offsets[position])
        return FilePart(self.path(position), archive, offset, int(self.sizes[position]))

    def at(self, positions: NDArray[np.int64]) -> Self:
        """See `SampleList.at`."""
        own = {name: getattr(self, name)[positions] for name in ("archive_of", "offsets", "sizes")}
        return replace(super().at(positions), **own)


class TarShards:
    """A tar file, or every tar file of a folder, in alphabetical order.

    Two layouts, told apart by what is in there. Shards as webdataset writes them: `KEY.mp4` with its label, a class
    number or name, in `KEY.cls`, or as `label` or `cls` in `KEY.json`. Otherwise the class is called like the folder that a sample lies in
    or, where it lies in none, like the tar file (ImageNet's n01440764.tar). Names are numbered by the request's, else alphabetically.
    """

    name = "tar"

    def recognises(self, request: ListRequest) -> bool:
        if request.is_folder:
            has_tar = any(entry.name.endswith(".tar") for entry in request.entries)
            return has_tar and not any(entry.is_dir() for entry in request.entries)
        return request.source.endswith((".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz"))

    def read(self, request: ListRequest) -> TarList:
        """Index the samples. UserError if a file is no uncompressed tar file, a label is missing or unknown, or none is there."""
        archives: tuple[str, ...] = (request.source,)
        if request.is_folder:
            archives = tuple(entry.path for entry in request.entries if entry.name.endswith(".tar"))
        paths, labels = GrowingStrings(), GrowingLabels[tuple[str, bool]]()
        archive_of, offsets, sizes = array("i"), array("q"), array("q")
        for number, archive in enumerate(archives):
            for path, offset, size, found in _members(archive, request):
                paths.append(f"{archive}/{path}")
                labels.append(found)
                archive_of.append(number)
                offsets.append(offset)
                sizes.append(size)
        if not len(paths):
            raise UserError(
                f"{request.source}: no {request.noun} ({' '.join(request.extensions)}) in it; unpack a tar file of tar files "
                "once, and give the folder"
            )
        names = request.names
        # A folder called 7 is a name, as in a tree; 7 in a .cls file is a number.
        said = [
            (labels_in(text) if request.several and is_said else (text,), is_said) for text, is_said in labels.distinct
        ]
        if names is None and not all(from_file and all(map(is_number, one)) for one, from_file in said):
            names = tuple(sorted({label for one, _ in said for label in one}))
        numbers = [int(label) for one, from_file in said if from_file for label in one if is_number(label)]
        first = first_number(numbers, names) if request.first_label is None else request.first_label
        number_of = {name: number for number, name in enumerate(names)} if names is not None else None
        flat, sets = paths.flat(), []
        for place, (one, from_file) in enumerate(said):
            try:
                unknown = [label for label in one if not from_file and number_of is not None and label not in number_of]
                if unknown:
                    raise ValueError(f"{unknown[0]!r} is not among the {len(number_of or ())} known class names")
                sets.append(sorted({check_label(label, number_of, first) for label in one}))
            except ValueError as error:
                raise UserError(f"{flat[int((labels.places == place).argmax())]}: {error}") from None
        return TarList(
            paths=flat,
            labels=np.array([one[0] if one else -1 for one in sets], np.int64)[labels.places],
            label_sets=FlatNumbers.of(sets[place] for place in labels.places) if request.several else None,
            names=names,
            source=request.source,
            first_label=first,
            read_as=f"{len(archives)} tar file{'s' * (len(archives) > 1)}" + ", labels from 1" * first,
            archives=archives,
            archive_of=np.frombuffer(archive_of, np.int32),
            offsets=np.frombuffer(offsets, np.int64),
            sizes=np.frombuffer(sizes, np.int64),
        )


def _members(archive: str, request: ListRequest) -> Iterator[tuple[str, int, int, tuple[str, bool]]]:
    """Yield path, offset, size and label of the samples of one tar file in its order; the label with whether a file beside
    the sample says so or the name of the folder."""
    samples: list[tuple[str, int, int]] = []
    labels: dict[str, str] = {}
    try:
        # "r:" and not "r": inside a compressed file nothing can be reached at random.
        with tarfile.open(archive, "r:") as tar:
            for entry in tar:
                tar.members = []  # type: ignore[attr-defined]  # tarfile keeps every entry otherwise
                if not entry.isfile():
                    continue
                if request.is_sample(entry.name):
                    samples.append((entry.name, entry.offset_data, entry.size))
                elif entry.name.endswith((".cls", ".json")):
                    content = tar.extractfile(entry)
                    try:
                        label = _label(entry.name, content.read() if content else b"")
                    except UnicodeDecodeError:
                        raise UserError(f"{archive}: the label {entry.name} is no text; write it as UTF-8") from None
                    if label is not None:
                        labels[_key(entry.name)] = label
    except tarfile.ReadError as error:
        raise UserError(
            f"{archive}: not an uncompressed tar file ({error}); uncompress it first, and make it again if it is damaged"
        ) from None
    except OSError as error:
        raise UserError(f"{archive}: cannot read it ({(error.strerror or str(error)).lower()})") from None
    for path, offset, size in samples:
        key = _key(path)
        if labels and key not in labels:
            raise UserError(f"{archive}: {path} has no label beside it ({key}.cls), others have")
        yield path, offset, size, (labels.get(key, _folder_name(archive, path)), bool(labels))


def _label(name: str, content: bytes) -> str | None:
    """Return the label that a file beside a sample holds, several joined by `;`; None for JSON without one."""
    if name.endswith(".cls"):
        return content.decode().strip()
    try:
        said = json.loads(content)
    except UnicodeDecodeError:
        raise
    except ValueError:
        return None
    found = (
        [said[key] for key in ("label", "cls", "class") if said.get(key) is not None] if isinstance(said, dict) else []
    )
    if found and isinstance(found[0], list):
        return ";".join(map(str, found[0]))
    return str(found[0]) if found else None


def _folder_name(archive: str, member: str) -> str:
    """Return the name of the folder that a member lies in or, where it lies in none, of the tar file."""
    return PurePosixPath(member).parent.name or PurePosixPath(archive).stem


def _key(path: str) -> str:
    """Return webdataset's key: the path up to the first dot of the file's name."""
    folder, slash, name = path.rpartition("/")
    return folder + slash + name.split(".", 1)[0]
