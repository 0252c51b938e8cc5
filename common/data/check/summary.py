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

from revit.common.system.errors import UserError, reason_of
from revit.common.system.files import write_json

NAME = "summary.json"


@dataclass(frozen=True)
class Summary:
    """What a check found of one list."""

    checked: str
    """Date and time, UTC."""
    fingerprint: str
    """Of the list that was checked, see `SampleList.fingerprint`."""
    listed: int
    """Samples of the list."""
    files: int
    """Of them those that were checked: all, or a part."""
    good: int
    """Of these those without a problem."""
    kinds: Mapping[str, int]
    """Number of problems, and of odd files, by kind."""

    def facts(self, fingerprint: str) -> dict[str, Any]:
        """Return what a report quotes; fingerprint: of the list that is used."""
        return {**asdict(self), "current": self.fingerprint == fingerprint}

    def sentence(self, source: str, fingerprint: str) -> str:
        """Return one line on the list `source`, whose fingerprint is now this one."""
        return quote(source, self.facts(fingerprint))


def quote(source: str, facts: Mapping[str, Any]) -> str:
    """Return one line of what `Summary.facts` holds."""
    part = "" if facts["files"] == facts["listed"] else f" (of {facts['listed']})"
    found = ", ".join(f"{count} {kind}" for kind, count in facts["kinds"].items()) or "nothing wrong"
    changed = "" if facts["current"] else "; THE LIST HAS CHANGED SINCE: check it again (tools/check_data.py)"
    when = str(facts["checked"])[:10]
    return f"{source}: {facts['good']} of {facts['files']} files{part} are good ({found}; checked {when}){changed}"


def newest_summary(source: str) -> Summary | None:
    """Return the newest summary of a list file or folder; None if it was never checked."""
    found: list[Summary] = []
    for folder in _folders(source):
        try:
            found.append(Summary(**json.loads((folder / NAME).read_text(encoding="utf-8"))))
        except (OSError, ValueError, TypeError):
            continue
    return max(found, key=lambda one: one.checked, default=None)


def keep_summary(folder: Path, summary: Summary) -> None:
    """Write the summary of a list into its `kept_folder`. UserError if the disk is full."""
    write_json(folder / NAME, asdict(summary))


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
        raise UserError(f"{cache}: cannot be made ({reason_of(error).lower()}); set XDG_CACHE_HOME") from None
    return cache


def _folders(source: str) -> tuple[Path, Path]:
    path = Path(os.path.abspath(source))
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    name = f"{path.name}-{hashlib.sha256(os.fsencode(path)).hexdigest()[:12]}"
    return path.with_name(f".{path.name}.check"), cache / "revit" / "check" / name
