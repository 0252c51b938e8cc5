"""Tables: CSV and TSV with or without a header, with quotes, an index column and any separator."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from math import inf

from revit.common.data.formats.base import FilesByStem, ListRequest
from revit.common.data.formats.rows import Rows, is_number, labels_in
from revit.common.data.lists import SampleList
from revit.common.system.errors import UserError

SEPARATORS = ",;\t|"
PATH_COLUMNS = (
    "path",
    "file_name",
    "filename",
    "file",
    "filepath",
    "video_path",
    "image_path",
    "video",
    "image",
    "clip",
    "vid_name",
    "video_name",
    "video_id",
    "image_id",
    "name",
    "id",
    "full_path",
    "relative_path",
    "img",
)
"""Names of columns, most telling first; as those below."""
LABEL_COLUMNS = ("label", "labels", "class", "class_name", "label_name", "category", "action", "target", "text", "y")
NUMBER_COLUMNS = (
    "label_id",
    "class_id",
    "label_idx",
    "class_idx",
    "class_index",
    "label_index",
    "category_id",
    "label_num",
)
START_COLUMNS = ("start", "start_time", "time_start", "start_sec", "start_seconds", "t_start", "begin")
END_COLUMNS = ("end", "end_time", "time_end", "end_sec", "end_seconds", "t_end", "stop", "stop_time")


@dataclass(frozen=True)
class Columns:
    """Places of what is read in a row."""

    path: int
    label: int
    start: int | None = None
    end: int | None = None
    names: int | None = None
    """Place of the class name, where `label` is its number."""


def separator_of(request: ListRequest) -> str | None:
    """Return the separator that cuts all first lines into as many columns, two at least; None if there is none."""
    asked = request.separator.replace("\\t", "\t")
    for separator in SEPARATORS if asked == " " else asked:
        widths = {len(row) for row in csv.reader(request.head[:50], delimiter=separator, skipinitialspace=True)}
        if len(widths) == 1 and widths.pop() >= 2:
            return separator
    return None


def read_rows(request: ListRequest, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Yield line number and stripped cells of every row that is not empty. UserError if the file cannot be read."""
    try:
        with open(request.source, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            reader = csv.reader(file, delimiter=separator, skipinitialspace=True)
            for row in reader:
                cells = [cell.strip() for cell in row]
                if any(cells):
                    yield reader.line_num, cells
    except (OSError, csv.Error) as error:
        raise UserError(f"{request.source}: cannot be read as a table ({error})") from None


class Table:
    """A CSV or TSV file. Columns are found by their header, else by what is in them."""

    name = "csv"

    def recognises(self, request: ListRequest) -> bool:
        separator = separator_of(request) if request.head else None
        if separator is None:
            return False
        rows = list(csv.reader(request.head[:50], delimiter=separator, skipinitialspace=True))
        if _by_header(rows[0], request) is not None:
            return True
        # `a b.mp4,c 3` is a line of white space; `a b.mp4,c d` is a row.
        by_space = [line.rsplit(None, 1)[0].strip('"') for line in request.head[:50]]
        return not all(map(request.is_sample, by_space)) and _by_content(rows, request) is not None

    def read(self, request: ListRequest) -> SampleList:
        separator = separator_of(request)
        if separator is None:
            raise UserError(f"{request.source}: its lines have no column in common; separate path and label by a comma")
        return read_table(request, separator)


def read_table(request: ListRequest, separator: str, read_as: str = "CSV") -> SampleList:
    """Read a table of paths and labels, and of beginnings and ends in seconds where it has them."""
    head = [cells for _, cells in islice(read_rows(request, separator), 50)]
    if not head:
        raise UserError(f"{request.source}: no {request.noun} in it")
    columns = _by_header(head[0], request)
    has_header = columns is not None
    columns = columns or _by_content(head, request)
    if columns is None:
        raise UserError(
            f"{request.source}: which columns are path and label is not clear from {head[0]}; "
            "give the table a header with `path` and `label`"
        )
    has_segments = columns.start is not None or columns.end is not None
    rows = Rows(request, "seconds" if has_segments else None)
    by_stem: FilesByStem | None = None
    names: dict[int, str] = {}
    needed = max(
        place for place in (columns.path, columns.label, columns.start, columns.end, columns.names) if place is not None
    )
    for row_number, (line, cells) in enumerate(read_rows(request, separator)):
        if has_header and row_number == 0:
            continue
        if len(cells) <= needed or not cells[columns.path] or not (cells[columns.label] or request.several):
            rows.refuse(line, f"path or label is missing in {separator.join(cells)!r}")
            continue
        path = request.locate(cells[columns.path])
        if not request.is_sample(path) and not os.path.exists(path):
            by_stem = by_stem or FilesByStem(request)
            path = by_stem.path(os.path.abspath(path), cells[columns.path])
        segment = None
        if has_segments:
            try:
                start = 0.0 if columns.start is None else seconds(cells[columns.start])
                segment = segment_of(start, inf if columns.end is None else seconds(cells[columns.end]))
            except ValueError as error:
                rows.refuse(line, str(error))
                continue
        label = cells[columns.label]
        if columns.names is not None and is_number(label):
            names[int(label)] = cells[columns.names]
            if cells[columns.names] in (request.names or ()):
                label = cells[columns.names]  # another list may number the classes otherwise
        rows.append(path, labels_in(label, ";|,") if request.several else label, line, segment)
    return rows.finish(
        f"{read_as}, columns {_called(head[0], columns.path, has_header)} and {_called(head[0], columns.label, has_header)}",
        _in_order(names),
    )


def seconds(text: str) -> float:
    """Read seconds, or hours:minutes:seconds. ValueError for anything else."""
    total = 0.0
    for part in text.split(":"):
        try:
            total = total * 60 + float(part)
        except ValueError:
            total = inf
    if not 0 <= total < inf:
        raise ValueError(f"{text!r} is no time in seconds or h:m:s")
    return total


def segment_of(start: float, end: float) -> tuple[float, float]:
    """Return beginning and end of a segment. ValueError if it does not end after it begins."""
    if not end > start:
        raise ValueError(f"the segment ends at {end:g}, not after its beginning at {start:g}")
    return start, end


def _called(row: Sequence[str], place: int, has_header: bool) -> str:
    return repr(row[place]) if has_header else str(place + 1)


def _in_order(names: dict[int, str]) -> tuple[str, ...] | None:
    """Return names whose numbers have no gap in order, else None."""
    first = min(names, default=0)
    whole = bool(names) and first in (0, 1) and sorted(names) == list(range(first, first + len(names)))
    return (
        tuple(names[number] for number in sorted(names)) if whole and len(set(names.values())) == len(names) else None
    )


def _by_header(row: Sequence[str], request: ListRequest) -> Columns | None:
    """Return the columns that a first row names; None if it is no header."""
    cells = [cell.strip().lower().replace(" ", "_") for cell in row]
    if any(map(request.is_sample, cells)):
        return None

    def find(wanted: Sequence[str]) -> int | None:
        return next((cells.index(name) for name in wanted if name in cells), None)

    path, text, number = find(PATH_COLUMNS), find(LABEL_COLUMNS), find(NUMBER_COLUMNS)
    if request.label_column is not None:
        if path is None or request.label_column not in row:
            wanted = "of paths, such as `path`" if path is None else repr(request.label_column)
            raise UserError(f"{request.source}: has no column {wanted}; its columns are {', '.join(row)}")
        return Columns(path, list(row).index(request.label_column), find(START_COLUMNS), find(END_COLUMNS))
    if path is None or (text is None and number is None):
        return None
    if number is None:
        # `label` may be a number with its name beside it.
        names = find([name for name in LABEL_COLUMNS if name != cells[text or 0]])
        return Columns(path, text or 0, find(START_COLUMNS), find(END_COLUMNS), names)
    return Columns(path, number, find(START_COLUMNS), find(END_COLUMNS), text)


def _by_content(rows: Sequence[Sequence[str]], request: ListRequest) -> Columns | None:
    """Return the columns of a table without header: one of files, and one label behind it; None if that is not clear."""
    width = len(rows[0])
    cells = [[cell.strip() for cell in row] for row in rows if len(row) == width]
    files = [place for place in range(width) if all(request.is_sample(row[place]) for row in cells)]
    if (
        not files
        and width == 2
        and not any(is_number(row[-1].rsplit(None, 1)[-1]) and " " in row[-1] for row in cells if row[-1])
    ):
        files = [
            0
        ]  # names without an ending, as Something-Something version 1 has: `100218;Something falling like a feather`
    if len(files) != 1:
        return None
    others = [place for place in range(width) if place != files[0]]
    index = [place for place in others if [row[place] for row in cells] == [str(n) for n in range(len(cells))]]
    if len(others) > 1 and index == others[:1]:
        others = others[1:]
    return Columns(files[0], others[0]) if len(others) == 1 else None
