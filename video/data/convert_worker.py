"""A process that converts one clip after the other as it is told through a pipe. No torch here."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from revit.common.system.errors import UserError, reason_of
from revit.common.system.processes import end_with_parent
from revit.video.data.convert_check import CheckError, check_clip
from revit.video.data.convert_encode import encode_clip
from revit.video.data.convert_options import ConvertSettings
from revit.video.data.convert_records import Record
from revit.video.data.decode import DecodeError

ALIVE_SECONDS = 1.0
"""How often a busy process says that it goes on."""


@dataclass(frozen=True)
class Job:
    """One clip to convert."""

    source: str
    name: str
    """Path of the new file from `out`."""
    out: str
    making: str
    """Folder on the same disk, where it is written."""
    settings: ConvertSettings


@dataclass(frozen=True)
class Broken:
    """A source that was left out."""

    reason: str


@dataclass(frozen=True)
class Fatal:
    """Nothing can be written any more."""

    message: str


def convert(job: Job, alive: Callable[[], None]) -> Record | Broken:
    """Writes, checks and names one file.

    Raises:
        UserError: the disk is full or cannot be written to.
    """
    target = os.path.join(job.out, job.name)
    making = os.path.join(job.making, f"{os.getpid()}.mp4")
    try:
        before = os.stat(job.source)
        written = encode_clip(job.source, making, job.settings, alive)
        psnr = check_clip(job.source, making, written, job.settings)
    except DecodeError as error:
        return Broken(error.reason)
    except CheckError as error:
        return Broken(f"not kept: {error}")
    except OSError as error:  # of the source: what is wrong with the new file is an OutputError
        return Broken(reason_of(error).lower())
    size = _settle(making, target)
    return Record(job.name, job.source, before.st_size, before.st_mtime_ns, size, len(written.seconds), psnr)


def _settle(making: str, target: str) -> int:
    """Give a finished file its name, its bytes being on the disk; returns how many."""
    try:
        with open(making, "rb") as file:
            os.fsync(file.fileno())
            size = os.fstat(file.fileno()).st_size
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        os.replace(making, target)
    except OSError as error:
        raise UserError(f"{target}: cannot be written ({reason_of(error).lower()})") from None
    return size


def serve(jobs: Connection) -> None:
    """Convert until the other end closes the pipe; one answer per job, and "alive" (None) in between."""
    end_with_parent()
    for number in (signal.SIGINT, signal.SIGTERM):  # they are for the run, which ends this process
        signal.signal(number, signal.SIG_IGN)
    said = time.monotonic()

    def alive() -> None:
        nonlocal said
        if time.monotonic() - said > ALIVE_SECONDS:
            said = time.monotonic()
            jobs.send(None)

    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            job = jobs.recv()
            answer: Record | Broken | Fatal
            try:
                answer = convert(job, alive)
            except UserError as error:
                answer = Fatal(str(error))
            except ConnectionError:
                raise
            except Exception as error:  # of whatever kind: the other files are to be converted all the same
                answer = Broken(f"converting it failed: {type(error).__name__}: {reason_of(error)}")
            jobs.send(answer)
