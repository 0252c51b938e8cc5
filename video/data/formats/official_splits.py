"""The official splits of UCF101 and HMDB51."""

from __future__ import annotations

import os
import re
from dataclasses import replace

from revit.common.data.formats.base import ListRequest
from revit.common.data.formats.rows import Rows
from revit.common.data.label_names import read_label_names
from revit.common.data.lists import SampleList
from revit.common.system.errors import UserError

# In any case: the folder HandstandPushups has files called v_HandStandPushups.
UCF_LINE = re.compile(r"(\w+)/(v_\1_g\d+_c\d+\.\w+)(?:\s+(\d+))?", re.IGNORECASE)
HMDB_FILE = re.compile(r"(.+)_test_split([1-3])\.txt")
HMDB_PARTS = {"train": "1", "val": "2", "test": "2"}
"""Number behind the clips of a split; 0 is in neither."""


class Ucf101:
    """`trainlist01.txt` (labels from 1), `testlist01.txt` (none; the folder is the class) and `classInd.txt` beside them.

    Given the folder with these files, the list of the request's split and fold.
    """

    name = "ucf101"

    def recognises(self, request: ListRequest) -> bool:
        if request.is_folder:
            return os.path.isfile(_ucf_list(request))
        return bool(request.head) and all(map(UCF_LINE.fullmatch, request.head))

    def read(self, request: ListRequest) -> SampleList:
        if request.is_folder:
            request = replace(request, source=_ucf_list(request))
        index = request.beside("classInd.txt")
        names = read_label_names(index) if index is not None else None
        rows, called = Rows(replace(request, names=request.names or names)), dict[str, str]()
        for number, line in request.lines():
            found = UCF_LINE.fullmatch(line)
            if found is None:
                rows.refuse(number, f"{line!r} is no `Class/v_Class_g01_c01.avi` with or without a label from 1")
                continue
            # The folder is the class, in both lists; the number is only checked.
            folder, label = found[1], found[3]
            other = label is not None and called.setdefault(label, folder) != folder
            if other or (label is not None and names is not None and names[int(label) - 1 : int(label)] != (folder,)):
                rows.refuse(
                    number, f"label {label} is another class than the folder {folder} in this list or in classInd.txt"
                )
                continue
            rows.append(request.locate(f"{found[1]}/{found[2]}"), found[1], number)
        labels = ", labels from 1" if called else ", classes by folder"
        return rows.finish(f"UCF101 split{labels}", [called[key] for key in sorted(called, key=int)] or None)


def _ucf_list(request: ListRequest) -> str:
    part = "train" if request.split == "train" else "test"
    return os.path.join(request.source, f"{part}list{request.fold:02d}.txt")


class Hmdb51:
    """The folder of `CLASS_test_split1.txt` files, each with lines `name.avi PART`: 1 train, 2 test, 0 in neither."""

    name = "hmdb51"

    def recognises(self, request: ListRequest) -> bool:
        if request.is_folder:
            return any(HMDB_FILE.fullmatch(entry.name) for entry in request.entries)
        named = HMDB_FILE.fullmatch(os.path.basename(request.source))
        return named is not None and all(line.rsplit(None, 1)[-1] in ("0", "1", "2") for line in request.head)

    def read(self, request: ListRequest) -> SampleList:
        if not request.is_folder:
            raise UserError(
                f"{request.source}: is the HMDB51 split of one class, whose numbers are 1 for train and 2 for test; "
                f"give the folder: {os.path.dirname(request.source) or '.'}"
            )
        rows = Rows(request)
        for entry in request.entries:
            named = HMDB_FILE.fullmatch(entry.name)
            if named is None or int(named[2]) != request.fold:
                continue
            for number, line in replace(request, source=entry.path).lines():
                name, part = line.rsplit(None, 1) if len(line.split()) > 1 else (line, "")
                if part == HMDB_PARTS[request.split]:
                    rows.append(request.locate(os.path.join(named[1], name.strip())), named[1], number)
                elif part not in ("0", "1", "2"):
                    rows.refuse(number, f"{entry.name}: {line!r} does not end with 0, 1 or 2")
        return rows.finish(f"HMDB51 split {request.fold}, clips marked {HMDB_PARTS[request.split]}")
