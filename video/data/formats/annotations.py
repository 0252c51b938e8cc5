"""Annotations of data sets by their authors: Something-Something, Diving48, Charades, EPIC-KITCHENS."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from revit.common.data.formats.base import FilesByStem, ListRequest
from revit.common.data.formats.rows import Rows, labels_in
from revit.common.data.formats.table import read_rows, seconds, segment_of
from revit.common.data.label_names import read_label_names
from revit.common.data.lists import SampleList
from revit.common.system.errors import UserError


class SomethingSomething:
    """JSON list of `{"id", "template"}`, classes by template without its brackets, numbered by `labels.json` beside it."""

    name = "something_something"

    def recognises(self, request: ListRequest) -> bool:
        return _is_list_of(request.json, "id") and ("template" in request.json[0] or set(request.json[0]) == {"id"})

    def read(self, request: ListRequest) -> SampleList:
        rows, files = Rows(request), FilesByStem(request)
        for number, entry in _entries(request, "id"):
            if "template" not in entry:
                raise UserError(f"{request.source}: its clips have no labels (it is the list of the test server)")
            label = entry["template"].replace("[", "").replace("]", "")
            rows.append(files.path(str(entry["id"])), label, number)
        names = request.beside("labels.json", "something-something-v2-labels.json")
        return rows.finish("Something-Something annotations", read_label_names(names) if names is not None else None)


class Diving48:
    """JSON list of `{"vid_name", "label", "start_frame", "end_frame"}`; class names from `Diving48_vocab.json` beside it."""

    name = "diving48"

    def recognises(self, request: ListRequest) -> bool:
        return _is_list_of(request.json, "vid_name", "label")

    def read(self, request: ListRequest) -> SampleList:
        rows, files = Rows(request, "frames"), FilesByStem(request)
        for number, entry in _entries(request, "vid_name", "label"):
            try:
                segment = segment_of(float(entry.get("start_frame", 0)), float(entry.get("end_frame", "inf")))
            except (TypeError, ValueError):
                rows.refuse(number, f"start_frame and end_frame are no numbers of frames: {str(entry)[:80]}")
                continue
            rows.append(files.path(str(entry["vid_name"])), str(entry["label"]), number, segment)
        vocabulary = request.beside("Diving48_vocab.json")
        return rows.finish(
            "Diving48 annotations, segments in frames", read_label_names(vocabulary) if vocabulary else None
        )


class Charades:
    """CSV with columns `id` and `actions` ("c092 11.90 21.20;c147 0.00 12.60"): a sample for each action, its segment of the file;
    or, where samples may have several labels, each file with all of its actions.

    Class names from `Charades_v1_classes.txt` beside it.
    """

    name = "charades"

    def recognises(self, request: ListRequest) -> bool:
        return {"id", "actions"} <= set(request.header)

    def read(self, request: ListRequest) -> SampleList:
        rows, files = Rows(request, None if request.several else "seconds"), FilesByStem(request)
        for number, row in _by_column(request):
            found: list[tuple[str, tuple[float, float]]] = []
            for action in labels_in(row["actions"], ";"):
                try:
                    label, start, end = action.split()
                    found.append((str(int(label.removeprefix("c"))), segment_of(seconds(start), seconds(end))))
                except ValueError:
                    rows.refuse(number, f"{action!r} is no class with two times")
            if request.several:
                rows.append(files.path(row["id"]), tuple(label for label, _ in found), number)
                continue
            for label, segment in found:
                rows.append(files.path(row["id"]), label, number, segment)
        classes = request.beside("Charades_v1_classes.txt")
        each = "a sample per file" if request.several else "a sample per action"
        return rows.finish(f"Charades annotations, {each}", read_label_names(classes) if classes else None)


class Epic:
    """CSV of EPIC-KITCHENS with `video_id`, `start_timestamp`, `stop_timestamp` and columns `verb_class` and `noun_class`: a sample
    for each narrated segment. The label is the verb, or the request's column; names from `EPIC_100_verb_classes.csv`.
    """

    name = "epic"

    def recognises(self, request: ListRequest) -> bool:
        return {"video_id", "start_timestamp", "stop_timestamp"} <= set(request.header)

    def read(self, request: ListRequest) -> SampleList:
        rows, files, column = Rows(request, "seconds"), FilesByStem(request), request.label_column or "verb_class"
        for number, row in _by_column(request):
            if column not in row:
                raise UserError(
                    f"{request.source}: has no column {column!r} (data.source.label_column); choose from {list(row)}"
                )
            try:
                segment = segment_of(seconds(row["start_timestamp"]), seconds(row["stop_timestamp"]))
            except ValueError as error:
                rows.refuse(number, str(error))
                continue
            rows.append(files.path(row["video_id"]), row[column], number, segment)
        kind = column.removesuffix("_class")
        classes = request.beside(f"EPIC_100_{kind}_classes.csv", f"EPIC_{kind}_classes.csv")
        names = read_label_names(classes) if classes else None
        return rows.finish(f"EPIC-KITCHENS annotations, column {column}, a sample per segment", names)


def _is_list_of(content: Any, *keys: str) -> bool:
    return isinstance(content, list) and bool(content) and isinstance(content[0], dict) and set(keys) <= set(content[0])


def _entries(request: ListRequest, *keys: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield number and content of each entry of a JSON list. UserError for one without these keys."""
    for number, entry in enumerate(request.json if isinstance(request.json, list) else (), start=1):
        if not isinstance(entry, dict) or not set(keys) <= set(entry):
            raise UserError(f"{request.source}: entry {number} has not the keys {', '.join(keys)}: {str(entry)[:80]}")
        yield number, entry


def _by_column(request: ListRequest) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield line number and cells by column name of each row of a CSV file with a header."""
    header: list[str] | None = None
    for number, cells in read_rows(request, ","):
        if header is None:
            header = cells
        else:
            yield number, dict(zip(header, [*cells, *[""] * (len(header) - len(cells))]))
