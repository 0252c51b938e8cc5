"""A data set converted once: files that are finished are kept, the others made, and the new list written.

    OUT/.converted/settings.json    settings that every file in OUT was made with
    OUT/.converted/records.jsonl    one line per finished file, appended when it has its name and its bytes are on the disk
    OUT/.converted/making           files being written

A process killed at any moment leaves no more than an unfinished file in `making` and half a line, which are left out.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import av

from revit.common.system.errors import UserError, reason_of
from revit.common.system.files import locked, write_json
from revit.common.system.log import progress
from revit.video.data.convert.encode import ENCODER, ConvertSettings
from revit.video.data.convert.plan import ConvertPlan
from revit.video.data.convert.worker import Record, convert, convert_all

HIDDEN = ".converted"  # readers of folders leave out what begins with a dot
RECORDS = f"{HIDDEN}/records.jsonl"


def convert_data_set(plan: ConvertPlan, settings: ConvertSettings, num_workers: int) -> dict[str, Any]:
    """Convert what is not finished yet, write the new list, and return what `convert_clips.py --json` writes.

    Killed at any moment, the same call goes on.

    Raises:
        UserError: no encoder; the folder is another's (see `_opened`); the disk is full; not one clip could be converted.
    """
    if ENCODER not in av.codecs_available:
        version = av.__version__
        raise UserError(f"the FFmpeg of this PyAV ({version}) has no {ENCODER}; pip install --only-binary av av")
    begin, out = time.monotonic(), plan.out
    with _opened(out, settings) as making:
        known = _read_records(out / RECORDS)
        found = {source: known.get(name) for source, name in plan.names.items()}
        records = {source: one for source, one in found.items() if one is not None and _is_current(out, one, source)}
        num_there, broken = len(records), _convert_missing(plan, settings, making, records, num_workers)
        seconds = time.monotonic() - begin
        if not records:
            source, reason = next(iter(broken.items()))
            raise UserError(
                f"{plan.samples.source}: none of its {len(broken)} clips can be converted; the first, {source}: {reason}"
            )
        plan.write(broken)
        # Here, as it brings torch along, which converting does without.
        from revit.video.data.convert.speed import measure_reading

        made = {source: records[source] for source in plan.names if source in records}
        reading = measure_reading([(source, str(out / one.name)) for source, one in made.items()])
    return {
        "data": plan.samples.source,
        "out": str(plan.list_path),
        "set": plan.keys(broken),
        "settings": settings.fingerprint(),
        "files": {
            "listed": len(plan.samples),
            "distinct": len(plan.names),
            "converted": len(records) - num_there,
            "already_there": num_there,
            "broken": len(broken),
        },
        "bytes": {
            "before": sum(record.size for record in records.values()),
            "after": sum(record.bytes for record in records.values()),
        },
        "smallest_psnr": min(record.psnr for record in records.values()),
        "reading": reading,
        "broken": [{"path": path, "reason": reason} for path, reason in broken.items()],
        "seconds": round(seconds, 3),
    }


def _convert_missing(
    plan: ConvertPlan, settings: ConvertSettings, making: Path, records: dict[str, Record], num_workers: int
) -> dict[str, str]:
    """Convert the sources that have no record and add theirs, in the folder too; return the broken ones' reasons."""
    left = {source: name for source, name in plan.names.items() if source not in records}
    how = partial(convert, settings=settings, out=plan.out, making=making)
    path, broken = plan.out / RECORDS, dict[str, str]()
    with progress("Converting clips", len(plan.names)) as update_bar:
        update_bar(advance=len(records))
        for source, answer in convert_all(left, how, num_workers):
            if isinstance(answer, Record):
                with _writing(path), open(path, "ab") as file:
                    file.write(json.dumps(asdict(answer)).encode() + b"\n")
                records[source] = answer
            else:
                broken[source] = answer
                with contextlib.suppress(OSError):  # what was made of it when it was whole
                    (plan.out / left[source]).unlink()
            update_bar(note=f"{len(broken)} broken" if broken else None)
    return {source: broken[source] for source in left if source in broken}


def _read_records(path: Path) -> dict[str, Record]:
    """Read the finished files by name."""
    records = {}
    with _writing(path), open(path, "a+", encoding="utf-8") as file:
        file.seek(0)
        line = "\n"
        for line in file:
            with contextlib.suppress(ValueError, TypeError):  # half a line of a killed process
                record = Record(**json.loads(line))
                records[record.name] = record
        if not line.endswith("\n"):
            file.write("\n")
    return records


def _is_current(out: Path, record: Record, source: str) -> bool:
    """Tell whether a recorded file is there, made from this source as it is now (or was when it was removed).

    Raises:
        UserError: it was made from another file, which it would replace.
    """
    try:
        if (out / record.name).stat().st_size != record.bytes:
            return False
    except OSError:
        return False
    if record.source != source:
        raise UserError(
            f"{out / record.name} was made from {record.source}, and {source} would replace it; choose another --out for this "
            "list"
        )
    try:
        now = os.stat(source)
    except FileNotFoundError:  # removed once it was converted
        return True
    except OSError:
        return False
    return (now.st_size, now.st_mtime_ns) == (record.size, record.mtime_ns)


@contextlib.contextmanager
def _opened(out: Path, settings: ConvertSettings) -> Iterator[Path]:
    """Make the folder or go on in it; gives the folder for files being written.

    Raises:
        UserError: another process is at it, it is of other settings or not of a conversion, or cannot be written to.
    """
    hidden = out / HIDDEN
    making = hidden / "making"
    with _writing(out):
        if not hidden.is_dir() and out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise UserError(f"{out}: not empty, and no folder of converted clips; choose a new folder")
        hidden.mkdir(parents=True, exist_ok=True)
    with locked(hidden / "lock", "another process is converting into it"):
        _check_settings(hidden / "settings.json", out, settings.fingerprint())
        try:
            with _writing(out):
                shutil.rmtree(making, ignore_errors=True)  # a killed process's
                making.mkdir()
            yield making
        finally:
            shutil.rmtree(making, ignore_errors=True)


def _check_settings(path: Path, out: Path, wanted: dict[str, Any]) -> None:
    if not path.exists():
        write_json(path, wanted)
        return
    found = json.loads(path.read_text(encoding="utf-8"))
    changed = [f"{key} {found.get(key)} -> {wanted[key]}" for key in wanted if found.get(key) != wanted[key]]
    if changed:
        raise UserError(
            f"{out} holds clips converted with other settings ({', '.join(changed)}); choose a new folder, or the old "
            "settings to go on"
        )


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Turn the system's errors about `path` into a UserError."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written to ({reason_of(error).lower()}); the same command goes on once that is put right"
        ) from error
