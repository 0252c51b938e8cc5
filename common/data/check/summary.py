"""The newest summary of a list's check, and where it lies: in `.NAME.check` beside the list or folder, or, where that cannot be
written, in the user's cache."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from revit.common.data.lists import SampleList
from revit.common.system.errors import UserError, reason_of
from revit.common.system.files import cache_folder, write_json

NAME = "summary.json"


@dataclass(frozen=True)
class Summary:
    """Result of a check of one list."""

    checked: str
    """Date and time, UTC."""
    fingerprint: str
    """Fingerprint of the listed paths, see `paths_of`."""
    listed: int
    """Samples of the list."""
    files: int
    """Number of files that were checked: all, or a part."""
    good: int
    """Number of checked files without a problem."""
    kinds: Mapping[str, int]
    """Number of problems, and of odd files, by kind."""

    def quoted(self, samples: SampleList) -> dict[str, Any]:
        """Return what a report keeps of the check of a list that now has these samples."""
        return {"source": samples.source, **asdict(self), "current": self.fingerprint == paths_of(samples)}


def paths_of(samples: SampleList) -> str:
    """Return number and check sum of the paths of a list, from the root on; labels are no part of it."""
    digest = hashlib.sha256()
    for position in range(len(samples)):
        digest.update(os.fsencode(os.path.abspath(samples.path(position))) + b"\0")
    return f"{len(samples)} paths, {digest.hexdigest()[:12]}"


def quote(facts: Mapping[str, Any]) -> str:
    """Return one line of `Summary.quoted`."""
    part = "" if facts["files"] == facts["listed"] else f" (of {facts['listed']})"
    found = ", ".join(f"{count} {kind}" for kind, count in facts["kinds"].items()) or "nothing wrong"
    changed = "" if facts["current"] else "; THE LIST HAS CHANGED SINCE: check it again (tools/check_data.py)"
    when = str(facts["checked"])[:10]
    return f"{facts['source']}: {facts['good']} of {facts['files']} files{part} are good ({found}; checked {when}){changed}"


def newest_summary(source: str, split: str | None = None) -> Summary | None:
    """Return the newest summary of a list file or folder; None if it was never checked.

    split: which of several lists that one folder holds, as those of UCF101.
    """
    found: list[Summary] = []
    for folder in _folders(source):
        for name in (NAME, f"{split}-{NAME}"):
            with contextlib.suppress(OSError, ValueError, TypeError):
                found.append(Summary(**json.loads((folder / name).read_text(encoding="utf-8"))))
    return max(found, key=lambda one: one.checked, default=None)


def keep_summary(folder: Path, summary: Summary, split: str | None = None) -> None:
    """Write the summary of a list into its `kept_folder`; split: as in `newest_summary`. UserError if the disk is full."""
    write_json(folder / (NAME if split is None else f"{split}-{NAME}"), asdict(summary))


def kept_folder(source: str) -> Path:
    """Return the folder of all that is kept of a list, and make it: beside it, or in the cache where that is read-only."""
    beside, cache = _folders(source)
    with contextlib.suppress(OSError):
        if beside.parent.stat().st_mode & 0o222:  # what nobody may change, root leaves alone, too
            beside.mkdir(exist_ok=True)
            with tempfile.TemporaryFile(dir=beside):
                return beside
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{cache}: cannot be made ({reason_of(error).lower()}); set REVIT_CACHE to another folder"
        ) from None
    return cache


def _folders(source: str) -> tuple[Path, Path]:
    path = Path(os.path.abspath(source))
    name = f"{path.name}-{hashlib.sha256(os.fsencode(path)).hexdigest()[:12]}"
    return path.with_name(f".{path.name}.check"), cache_folder() / "check" / name
