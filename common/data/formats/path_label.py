"""Lines `path label`, and folders with one subfolder per class."""

from __future__ import annotations

import csv
import logging
import os
import re
from array import array
from collections.abc import Sequence

import numpy as np

from revit.common.data.flat import GrowingStrings
from revit.common.data.formats.base import SPLIT_WORDS, FilesByStem, ListRequest, walk_files
from revit.common.data.formats.rows import SHOWN_PROBLEMS, Rows, is_number, labels_in
from revit.common.data.lists import SampleList
from revit.common.system.errors import UserError

LOG = logging.getLogger("revit.data")

SPLIT_NAMES = frozenset(word for words in SPLIT_WORDS.values() for word in words)


class PathLabel:
    """Lines of a path, a separator and a label. The label is the last field, so paths may contain the separator.

    A space separates by any white space; quotes around a path are left out. A first line without a class that the others
    have is a header if the others' labels are numbers. Paths without ending are looked for with those of samples. Several
    labels of a sample: see `split_labels`.
    """

    name = "path_label"

    def recognises(self, request: ListRequest) -> bool:
        return request.is_text

    def read(self, request: ListRequest) -> SampleList:
        separator = request.separator
        cut = {" ": None, "\\t": "\t"}.get(separator, separator)
        rows, by_stem, header = Rows(request), None, ""
        has_header = _has_header(request, cut)
        for number, line in request.lines():
            if has_header and not header:
                header = line
                continue
            if request.several:
                path, labels = split_labels(line, cut)
            else:
                fields = line.rsplit(cut, 1)
                path, one = fields[0].strip(), fields[-1].strip().strip('"')
                labels = (one,) if len(fields) == 2 and one else None
            if not path or labels is None:
                rows.refuse(number, f"no label behind the path in {line!r} (separator {separator!r})")
                continue
            if not request.several and _has_more_labels(path, cut, request):
                rows.refuse(number, f"several labels in {line!r}; if that is meant set data.source.several_labels=true")
                continue
            where = request.locate(path.strip('"'))
            if not os.path.splitext(where)[1] and not os.path.exists(where):
                by_stem = by_stem or FilesByStem(request)
                where = by_stem.path(os.path.abspath(where), path.strip('"'))
            rows.append(where, labels, number)
        return rows.finish("paths and labels" + (f", without the header {header!r}" if header else ""))


def split_labels(line: str, cut: str | None) -> tuple[str, tuple[str, ...] | None]:
    """Return path and labels of a line that may have several, or none (`""`); None where the line has no labels' place.

    Separated by white space (`cut` None): numbers at the end of the line, or one field of labels joined by `;` or `|`; a path
    that ends in a number stands in quotes. By another sign: the fields behind the path; a quoted field may join its labels by
    `;`, `|` or `,`.
    """
    if cut is not None:
        path, *fields = next(csv.reader([line], delimiter=cut, skipinitialspace=True))
        return path.strip(), labels_in(";".join(fields), ";|,") if fields else None
    quoted = re.fullmatch(r'"([^"]+)"\s+(.+)', line)
    found = quoted or re.fullmatch(r"(\S.*?)\s+((?:[+-]?\d+\s+)*[+-]?\d+|\S+)", line)
    if found is None:
        return line, None
    said = found[2].strip('"')
    return found[1], labels_in(";".join(said.split()) if all(map(is_number, said.split())) else said)


def _has_more_labels(path: str, cut: str | None, request: ListRequest) -> bool:
    """Say whether numbers stand between the file and its label."""
    if not is_number(path.rsplit(cut, 1)[-1].strip()):
        return False
    words = path.split(cut)
    while len(words) > 1 and is_number(words[-1].strip()):
        words.pop()
    return request.is_sample(words[-1].strip(' "'))


def _has_header(request: ListRequest, cut: str | None) -> bool:
    """Say whether the first line names columns: its label is no number, those of all others are."""
    labels = [line.rsplit(cut, 1)[-1].strip().strip('"') for line in request.head]
    first = request.head[0].rsplit(cut, 1)[0].strip('" ') if request.head else ""
    if len(labels) < 2 or is_number(labels[0]) or request.is_sample(first):
        return False
    return all(map(is_number, labels[1:])) or labels[0].lower() in ("label", "class", "category", "target")


class ClassFolders:
    """A folder with one subfolder per class; its files may lie deeper. Class numbers follow the folder names' order.

    Files come in the order of torchvision's and pytorchvideo's readers, which silently leave out what they may not read;
    here it is a UserError. With known names (those of the training tree) folders must be among them, and some may be missing.
    Without, a folder that holds no sample is no class, which is logged: it came with the archive (__MACOSX), or its files are
    of another kind.
    """

    name = "class_folders"

    def recognises(self, request: ListRequest) -> bool:
        return request.is_folder

    def read(self, request: ListRequest) -> SampleList:
        source, noun = request.source, request.noun
        folders = [entry.name for entry in request.entries if entry.is_dir()]
        if not folders:
            raise UserError(
                f"{source}: no subfolders; give a folder with one subfolder of {noun} per class, or a list file"
            )
        self._check_level(request, folders)
        number_of = {name: number for number, name in enumerate(request.names)} if request.names is not None else None
        paths, labels = GrowingStrings(), array("q")
        classes: list[str] = []
        unknown: list[str] = []
        empty: list[str] = []
        for folder in folders:
            number = len(classes) if number_of is None else number_of.get(folder, -1)
            before = len(labels)
            for path in self.samples(os.path.join(source, folder), request):
                paths.append(path)
                labels.append(number)
            (empty if len(labels) == before else unknown if number < 0 else classes).append(folder)
        if unknown:
            raise UserError(
                f"{source}: folders {', '.join(map(repr, unknown[:SHOWN_PROBLEMS]))} are not among the "
                f"{len(request.names or ())} known class names; rename them or correct the names"
            )
        if not labels:
            raise UserError(f"{source}: no {noun} ({' '.join(request.extensions)}) in its {len(folders)} subfolders")
        if empty:
            consequence = "" if request.names is not None else "; they are no classes"
            LOG.warning("%s: no %s in %s%s", source, noun, ", ".join(empty), consequence)
        names = request.names if request.names is not None else tuple(classes)
        if request.names is None and all(map(is_number, names)) and list(map(int, names)) != list(range(len(names))):
            LOG.warning(
                "%s: the class folders are called by numbers; classes are numbered in the order of these names as text "
                "(%s, ...), and keep them as names",
                source,
                ", ".join(f"{name} is class {number}" for number, name in enumerate(names[:3])),
            )
        numbers = np.frombuffer(labels, np.int64)
        return SampleList(paths.flat(), numbers, names, source, root=source, read_as="a folder per class")

    def samples(self, folder: str, request: ListRequest) -> Sequence[str]:
        """Return the paths of a class folder's samples, by name. UserError if a folder in it cannot be read."""
        return list(walk_files(folder, request.extensions))

    def _check_level(self, request: ListRequest, folders: Sequence[str]) -> None:
        """Raise UserError if the folders are splits, or one folder that has the classes in it."""
        are_splits = all(folder.lower() in SPLIT_NAMES for folder in folders)
        if not are_splits and (len(folders) > 1 or request.names is not None):
            return
        hints = []
        for folder in folders:
            inside = os.path.join(request.source, folder)
            with os.scandir(inside) as entries:
                kinds = [(entry.is_dir(), request.is_sample(entry.name)) for entry in entries]
            if sum(is_dir for is_dir, _ in kinds) > 1 and not any(is_sample for _, is_sample in kinds):
                key = next((key for key, words in SPLIT_WORDS.items() if folder.lower() in words), "train")
                hints.append(f"data.source.{key}={inside}")
        if hints:
            raise UserError(
                f"{request.source}: one folder too high: {', '.join(folders)} are no classes, these are in there; "
                f"set {' '.join(hints)}"
            )
