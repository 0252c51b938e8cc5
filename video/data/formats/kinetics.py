"""The annotations of Kinetics as the CVDF hands them out."""

from __future__ import annotations

from revit.common.data.formats.base import FilesByStem, ListRequest, Rows
from revit.common.data.formats.table import read_rows, seconds
from revit.common.data.lists import SampleList

SPLITS = {"train": ("train",), "val": ("val", "validate", "validation"), "test": ("test",)}
"""Words of the column `split`."""
NEEDED = ("label", "youtube_id", "time_start", "time_end")


class Kinetics:
    """Columns `label,youtube_id,time_start,time_end,split`; a clip's file is `ID_%06d_%06d`, with any ending, in any folder
    below the prefix, or below the list's folder."""

    name = "kinetics"

    def recognises(self, request: ListRequest) -> bool:
        return bool(request.head) and set(NEEDED) <= set(_header(request))

    def read(self, request: ListRequest) -> SampleList:
        header, rows, files = _header(request), Rows(request), FilesByStem(request)
        place = {name: header.index(name) for name in (*NEEDED, "split") if name in header}
        read = list(read_rows(request, ","))[1:]
        splits = (
            {cells[place["split"]] for _, cells in read if len(cells) == len(header)} if "split" in place else set()
        )
        for number, cells in read:
            if len(cells) != len(header):
                rows.refuse(number, f"has {len(cells)} columns, the header {len(header)}")
                continue
            if len(splits) > 1 and cells[place["split"]].lower() not in SPLITS[request.split]:
                continue
            label, name, *times = (cells[place[column]] for column in NEEDED)
            try:
                start, end = map(round, map(seconds, times))
            except ValueError as error:
                rows.refuse(number, str(error))
                continue
            rows.append(files.path(name, f"{name}_{start:06d}_{end:06d}"), label, number)
        return rows.finish(f"Kinetics annotations, files ID_start_end below {files.root}")


def _header(request: ListRequest) -> list[str]:
    return [cell.strip().strip('"') for cell in request.head[0].split(",")] if request.head else []
