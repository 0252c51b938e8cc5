"""Lists of labelled files, from `path label` lines or from a folder with one subfolder per class.

Errors name file and line; `noun` is the samples' name in messages, such as clips.
"""

from __future__ import annotations

import csv
import logging
import os
import re
from array import array
from collections.abc import Iterator, Sequence

import numpy as np

from revit.common.data.flat import FlatNumbers, GrowingLabels, GrowingStrings
from revit.common.data.label_names import check_label
from revit.common.data.lists import SampleList
from revit.common.system.errors import UserError

LOG = logging.getLogger("revit.data")

SHOWN_PROBLEMS = 5
"""Bad lines that one message names; the others are counted."""


def read_samples(
    source: str,
    noun: str,
    extensions: tuple[str, ...],
    *,
    separator: str = " ",
    prefix: str = "",
    names: Sequence[str] | None = None,
    several: bool = False,
) -> SampleList:
    """Read the list file or the folder per class that `source` is, see `read_list` and `read_tree`."""
    if os.path.isdir(source):
        return read_tree(source, noun, extensions, names)
    return read_list(source, noun, separator=separator, prefix=prefix, names=names, several=several)


def read_list(
    source: str,
    noun: str,
    *,
    separator: str = " ",
    prefix: str = "",
    names: Sequence[str] | None = None,
    several: bool = False,
) -> SampleList:
    """Read lines `path separator label`. The label is the last field, so paths may contain the separator.

    A space separates by any white space. With `names`, the class names in order, labels are numbers or these names; without,
    all numbers or all names, which are then numbered alphabetically. Quotes around a path and empty lines are left out.
    several: a line may have several labels, see `split_labels`.

    UserError names file, line and what was found.
    """
    cut = {" ": None, "\\t": "\t"}.get(separator, separator)
    paths, labels, lines = GrowingStrings(), GrowingLabels[tuple[str, ...]](), array("q")
    bad: list[tuple[int, str]] = []
    header = ""
    try:
        with open(source, encoding="utf-8-sig", errors="surrogateescape") as file:
            for number, line in enumerate(file, start=1):
                line = line.strip()
                if not line:
                    continue
                if several:
                    path, found = split_labels(line, cut)
                else:
                    fields = line.rsplit(cut, 1)
                    path, label = fields[0].strip(), fields[-1].strip().strip('"')
                    found = (label,) if len(fields) == 2 and label else None
                if not path or found is None:
                    bad.append((number, f"no label behind the path in {line!r} (separator {separator!r})"))
                    continue
                path = path.strip('"')
                paths.append(os.path.join(prefix, path) if prefix else path)
                labels.append(found)
                lines.append(number)
                header = header or line
    except OSError as error:
        raise UserError(
            f"{source}: cannot read this list of {noun} ({(error.strerror or str(error)).lower()})"
        ) from None
    _check_lines(source, bad)
    if not lines:
        raise UserError(f"{source}: no {noun} in it")
    sets, places = labels.distinct, labels.places
    texts = list(dict.fromkeys(text for one in sets for text in one))
    if not texts:
        raise UserError(f"{source}: none of its lines has a label; give a list with labels")
    if names is None and not is_number(texts[0]):
        if len(texts) > 1 and all(map(is_number, texts[1:])) and np.count_nonzero(places == 0) == 1:
            raise UserError(f"{source}: line {lines[0]} looks like a header ({header!r}); delete it")
        names = sorted(texts)
    number_of = {name: number for number, name in enumerate(names)} if names is not None else None
    numbers, faults = {}, {}
    for label in texts:
        try:
            numbers[label] = check_label(label, number_of)
        except ValueError as error:
            faults[label] = str(error)
    wrong = {place: faults[label] for place, one in enumerate(sets) for label in one if label in faults}
    rows = np.flatnonzero(np.isin(places, list(wrong))) if wrong else ()
    _check_lines(source, [(lines[row], wrong[places[row]]) for row in rows])
    known = tuple(names) if names is not None else None
    found_sets = [sorted({numbers[label] for label in one}) for one in sets]
    label_sets = FlatNumbers.of(found_sets[place] for place in places) if several else None
    first = np.array([one[0] if one else -1 for one in found_sets], np.int64)
    return SampleList(paths.flat(), first[places], known, source, root=prefix, label_sets=label_sets)


def split_labels(line: str, cut: str | None) -> tuple[str, tuple[str, ...] | None]:
    """Return path and labels of a line that may have several, or none (`""`); None where the line has no labels' place.

    Separated by white space (`cut` None): numbers at the end of the line, or one field of names joined by `;` or `|`; a path
    that ends in a number stands in quotes. By another sign: the fields behind the path, as CSV; a quoted field may join its
    labels by `;`, `|` or `,`.
    """
    if cut is not None:
        path, *fields = next(csv.reader([line], delimiter=cut, skipinitialspace=True))
        joined = ";".join(re.sub("[,|]", ";", field) for field in fields)
        return path.strip(), _labels_in(joined) if fields else None
    quoted = re.fullmatch(r'"([^"]+)"\s+(.+)', line)
    found = quoted or re.fullmatch(r"(\S.*?)\s+((?:[+-]?\d+\s+)*[+-]?\d+|\S+)", line)
    if found is None:
        return line, None
    said = found[2].strip('"')
    numbers = all(map(is_number, said.split()))
    return found[1], _labels_in(";".join(said.split()) if numbers else said)


def _labels_in(joined: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(label.strip() for label in re.split("[;|]", joined) if label.strip()))


def read_tree(source: str, noun: str, extensions: tuple[str, ...], names: Sequence[str] | None = None) -> SampleList:
    """Read a folder with one subfolder per class; its files may lie deeper. Class numbers follow the folder names' order.

    Samples are the files with these extensions, in any case. With `names`, those of the training tree, folders must be among
    them, and some may be missing. Without, a folder that holds no sample is no class, which is logged: it came with the
    archive (__MACOSX), or its files are of another kind.

    Files come in the order of torchvision's and pytorchvideo's readers, which silently leave out what they may not read;
    here it is a UserError.
    """
    folders = [entry.name for entry in list_folder(source) if entry.is_dir()]
    if not folders:
        raise UserError(
            f"{source}: no subfolders; give a folder with one subfolder of {noun} per class, or a list file"
        )
    known = {name: number for number, name in enumerate(names)} if names is not None else None
    paths, labels = GrowingStrings(), array("q")
    classes: list[str] = []
    unknown: list[str] = []
    empty: list[str] = []
    for folder in folders:
        number = len(classes) if known is None else known.get(folder, -1)
        before = len(labels)
        for path in _files(os.path.join(source, folder), extensions):
            paths.append(path)
            labels.append(number)
        (empty if len(labels) == before else unknown if number < 0 else classes).append(folder)
    if unknown:
        raise UserError(
            f"{source}: folders {', '.join(map(repr, unknown[:SHOWN_PROBLEMS]))} are not among the {len(known or ())} known "
            "class names; rename them or correct the names"
        )
    if not labels:
        raise UserError(f"{source}: no {noun} ({' '.join(extensions)}) in its {len(folders)} subfolders")
    if empty:
        consequence = "" if names is not None else "; they are no classes"
        LOG.warning("%s: no %s in %s%s", source, noun, ", ".join(empty), consequence)
    called = tuple(names if names is not None else classes)
    return SampleList(paths.flat(), np.frombuffer(labels, np.int64), called, source, root=source)


def list_folder(folder: str) -> list[os.DirEntry[str]]:
    """Return the entries of a folder by name, without hidden ones. UserError if it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            shown = [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise _unreadable(error) from None
    return sorted(shown, key=lambda entry: entry.name)


def _files(folder: str, extensions: tuple[str, ...]) -> Iterator[str]:
    def refuse(error: OSError) -> None:
        raise _unreadable(error) from None

    for inner, _, names in sorted(os.walk(folder, followlinks=True, onerror=refuse)):
        for name in sorted(names):
            if name.lower().endswith(extensions):
                yield os.path.join(inner, name)


def _unreadable(error: OSError) -> UserError:
    reason = (error.strerror or str(error)).lower()
    return UserError(f"{error.filename}: cannot be read ({reason}); allow it, or take this folder out")


def is_number(label: str) -> bool:
    """Return whether a label is a whole number, of either sign."""
    return label.lstrip("+-").isdecimal()


def _check_lines(source: str, bad: Sequence[tuple[int, str]]) -> None:
    """Raise UserError if there are bad lines, each a line's number and what is wrong with it."""
    if bad:
        shown = "".join(f"\n  line {number}: {text}" for number, text in bad[:SHOWN_PROBLEMS])
        more = f"\n  ... and {len(bad) - SHOWN_PROBLEMS} more" if len(bad) > SHOWN_PROBLEMS else ""
        raise UserError(f"{source}: {len(bad)} bad lines:{shown}{more}")
