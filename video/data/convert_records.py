"""The folder of a conversion: which settings it is of, which files in it are finished, and one process at a time.

    OUT/.converted/settings.json    what every file in OUT was made with
    OUT/.converted/records.jsonl    one line per finished file, appended when it has its name and its bytes are on the disk
    OUT/.converted/making           files being written

A process killed at any moment leaves no more than an unfinished file in `making` and half a line, which are left out.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from revit.common.system.errors import UserError, reason_of
from revit.common.system.files import locked, write_json
from revit.video.data.convert_options import ConvertSettings

HIDDEN = ".converted"
"""Readers of folders leave out what begins with a dot."""


@dataclass(frozen=True)
class Record:
    """One finished file."""

    name: str
    """Its path from OUT."""
    source: str
    size: int
    """Bytes of the source when it was read."""
    mtime_ns: int
    """When the source was last changed."""
    bytes: int
    """Of the finished file."""
    frames: int
    psnr: float
    """dB, see `check_clip`."""


class Records:
    """What is finished under `out`; made by `opened`."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.making = out / HIDDEN / "making"
        self._path = out / HIDDEN / "records.jsonl"
        self._by_name = {record.name: record for record in self._read()}

    def _read(self) -> Iterator[Record]:
        with contextlib.suppress(FileNotFoundError), open(self._path, encoding="utf-8") as file:
            for line in file:
                with contextlib.suppress(ValueError, TypeError):  # half a line of a killed process
                    yield Record(**json.loads(line))

    def finished(self, name: str, source: str) -> Record | None:
        """The record of OUT/name, if that was made from this source as it is now (or was when it was removed).

        Raises:
            UserError: it was made from another file, which it would replace.
        """
        record = self._by_name.get(name)
        if record is None:
            return None
        with contextlib.suppress(OSError):
            if (self.out / name).stat().st_size == record.bytes:
                if record.source != source:
                    raise UserError(
                        f"{self.out / name} was made from {record.source}, and {source} would replace it; choose another "
                        "--out for this list"
                    )
                return record if _is_as_it_was(record) else None
        return None

    def add(self, record: Record) -> None:
        """Note a file that has its name. `UserError` if the disk is full."""
        line = json.dumps(asdict(record)) + "\n"
        try:
            with open(self._path, "ab") as file:
                if file.tell() and not _ends_with_newline(self._path):
                    file.write(b"\n")
                file.write(line.encode())
        except OSError as error:
            raise _unwritable(self._path, error) from error
        self._by_name[record.name] = record


@contextlib.contextmanager
def opened(out: Path, settings: ConvertSettings) -> Iterator[Records]:
    """Makes the folder or goes on in it.

    Raises:
        UserError: another process is at it, it is of other settings or not of a conversion, or cannot be written to.
    """
    hidden = out / HIDDEN
    try:
        fresh = not hidden.is_dir()
        if fresh and out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise UserError(f"{out}: not empty, and no folder of converted clips; choose a new folder")
        hidden.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(out, error) from error
    with locked(hidden / "lock", "another process is converting into it"):
        _check_settings(hidden / "settings.json", out, settings)
        records = Records(out)
        shutil.rmtree(records.making, ignore_errors=True)  # a killed process's
        try:
            records.making.mkdir(exist_ok=True)
        except OSError as error:
            raise _unwritable(out, error) from error
        try:
            yield records
        finally:
            shutil.rmtree(records.making, ignore_errors=True)


def _check_settings(path: Path, out: Path, settings: ConvertSettings) -> None:
    wanted = settings.fingerprint()
    if not path.exists():
        write_json(path, wanted)
        return
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        changed = [
            f"{key} {found.get(key)} -> {wanted[key]}" for key in wanted if found.get(key) != wanted[key]
        ]
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: cannot be read ({reason_of(error)}); choose a new folder") from error
    if changed:
        raise UserError(
            f"{out} holds clips converted with other settings ({', '.join(changed)}); choose a new folder, or the old "
            "settings to go on"
        )


def _is_as_it_was(record: Record) -> bool:
    try:
        now = os.stat(record.source)
    except FileNotFoundError:  # removed once it was converted
        return True
    except OSError:
        return False
    return (now.st_size, now.st_mtime_ns) == (record.size, record.mtime_ns)


def _ends_with_newline(path: Path) -> bool:
    with open(path, "rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def _unwritable(path: Path, error: OSError) -> UserError:
    return UserError(
        f"{path}: cannot be written to ({reason_of(error).lower()}); the same command goes on once that is put right"
    )
