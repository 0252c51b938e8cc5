"""A folder as Hugging Face's `videofolder` and `imagefolder` builders read it: files beside a `metadata.csv` or `.jsonl`."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from typing import Any

from revit.common.data.formats.base import SPLIT_WORDS, ListRequest
from revit.common.data.formats.rows import Rows, labels_in
from revit.common.data.formats.table import read_table
from revit.common.data.lists import SampleList
from revit.common.system.errors import UserError


class HuggingFaceFolder:
    """`metadata.csv` or `metadata.jsonl` with `file_name`, relative to it, and `label`; in the folder or in its split's."""

    name = "hf_folder"

    def recognises(self, request: ListRequest) -> bool:
        return request.is_folder and _metadata(request) is not None

    def read(self, request: ListRequest) -> SampleList:
        path = _metadata(request)
        if path is None:
            raise UserError(
                f"{request.source}: has no metadata.csv or metadata.jsonl, nor a subfolder {request.split} with one"
            )
        inner = replace(request, source=path, prefix=os.path.dirname(path))
        return read_table(inner, ",", "Hugging Face folder") if path.endswith(".csv") else _read_lines(inner)


def _metadata(request: ListRequest) -> str | None:
    folders = ["", *SPLIT_WORDS[request.split]]
    paths = (os.path.join(request.source, folder, f"metadata.{end}") for folder in folders for end in ("csv", "jsonl"))
    return next(filter(os.path.isfile, paths), None)


def _read_lines(request: ListRequest) -> SampleList:
    rows = Rows(request)
    column = request.label_column or "label"
    for number, line in request.lines():
        try:
            row = json.loads(line)
            rows.append(request.locate(row["file_name"]), _labels(row[column], request.several), number)
        except (ValueError, KeyError, TypeError):
            rows.refuse(number, f'not {{"file_name": ..., "{column}": ...}} with one label')
    return rows.finish("Hugging Face folder")


def _labels(value: Any, several: bool) -> str | tuple[str, ...]:
    """Return the label that a row holds, or all of a list of them. ValueError for a list where each sample has one label."""
    if isinstance(value, list):
        if not several:
            raise ValueError("several labels")
        return tuple(map(str, value))
    return labels_in(str(value)) if several else str(value)
