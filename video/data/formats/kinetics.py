"""The annotations of Kinetics as the CVDF hands them out."""

from __future__ import annotations

from revit.common.data.formats.base import SPLIT_WORDS, FilesByStem, ListRequest
from revit.common.data.formats.rows import Rows
from revit.common.data.formats.table import read_rows, seconds
from revit.common.data.lists import SampleList
from revit.common.system.errors import UserError

NEEDED = ("label", "youtube_id", "time_start", "time_end")


class Kinetics:
    """Columns `label,youtube_id,time_start,time_end,split`; a clip's file is `ID_%06d_%06d`, with any ending, in any folder
    below the prefix, or below the list's folder."""

    name = "kinetics"

    def recognises(self, request: ListRequest) -> bool:
        return set(NEEDED) <= set(request.header)

    def read(self, request: ListRequest) -> SampleList:
        header, rows, files = request.header, Rows(request), FilesByStem(request)
        place = {name: header.index(name) for name in (*NEEDED, "split") if name in header}
        read = list(read_rows(request, ","))[1:]
        words = (
            {cells[place["split"]].lower() for _, cells in read if len(cells) == len(header)}
            if "split" in place
            else set()
        )
        unknown = words - {word for known in SPLIT_WORDS.values() for word in known}
        if unknown and len(words) > 1:
            raise UserError(
                f"{request.source}: its column split has {', '.join(map(repr, sorted(unknown)))}, which is no word for train, val or "
                "test; write one of these"
            )
        for number, cells in read:
            if len(cells) != len(header):
                rows.refuse(number, f"has {len(cells)} columns, the header {len(header)}")
                continue
            if len(words) > 1 and cells[place["split"]].lower() not in SPLIT_WORDS[request.split]:
                continue
            label, name, *times = (cells[place[column]] for column in NEEDED)
            try:
                start, end = map(round, map(seconds, times))
            except ValueError as error:
                rows.refuse(number, str(error))
                continue
            rows.append(files.path(name, f"{name}_{start:06d}_{end:06d}"), label, number)
        return rows.finish(f"Kinetics annotations, files ID_start_end below {files.root}")
