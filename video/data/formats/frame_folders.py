"""Folders of pictures, one for each clip: mmaction2's lists of them, and class folders that hold them."""

from __future__ import annotations

import os
from collections.abc import Sequence

from revit.common.data.formats.base import ListRequest
from revit.common.data.formats.path_label import ClassFolders
from revit.common.data.formats.rows import Rows, is_number
from revit.common.data.lists import SampleList
from revit.common.system.errors import UserError
from revit.video.data.decode.frame_folder import PICTURE_EXTENSIONS


class FrameFolderList:
    """Lines `folder count label` or `folder offset count label`: a clip is `count` pictures from number `offset` (0: the first)."""

    name = "frame_folders"

    def recognises(self, request: ListRequest) -> bool:
        # Numbers behind a path may be several labels: then only its name tells this format.
        return bool(request.head) and not request.several and all(_parts(line, request) for line in request.head)

    def read(self, request: ListRequest) -> SampleList:
        if request.several:
            raise UserError(
                f"{request.source}: a line of this format has one label; with data.source.several_labels write a CSV with the "
                "columns path and labels"
            )
        rows = Rows(request, "frames")
        for number, line in request.lines():
            parts = _parts(line, request)
            if parts is None:
                rows.refuse(number, f"{line!r} is no `folder count label` or `folder offset count label`")
                continue
            folder, offset, count, label = parts
            rows.append(request.locate(folder), label, number, (offset, offset + count))
        return rows.finish("folders of frames with their counts (mmaction2)")


def _parts(line: str, request: ListRequest) -> tuple[str, int, int, str] | None:
    """Return folder, offset, count and label; None if the line is not that."""
    fields = line.rsplit(None, 3)
    if len(fields) == 4 and is_number(fields[1]) and is_number(fields[2]):
        folder, offset, count, label = fields[0], int(fields[1]), int(fields[2]), fields[3]
    else:
        fields = line.rsplit(None, 2)
        if len(fields) < 3 or not is_number(fields[1]):
            return None
        folder, offset, count, label = fields[0], 0, int(fields[1]), fields[2]
    return (folder, offset, count, label) if count > 0 and not request.is_sample(folder) and is_number(label) else None


class ClipFolders(ClassFolders):
    """Class folders of clip files or, where a class folder has no clip file, of folders of pictures, each of them a clip."""

    def samples(self, folder: str, request: ListRequest) -> Sequence[str]:
        clips = super().samples(folder, request)
        if clips:
            return clips
        return [
            inner
            for inner, _, names in sorted(os.walk(folder, followlinks=True))
            if inner != folder and any(name.lower().endswith(PICTURE_EXTENSIONS) for name in names)
        ]
