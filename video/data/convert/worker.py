"""Processes that convert clips side by side; one that crashes or hangs costs its file and nothing else. No torch here."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from revit.common.system.errors import UserError, reason_of
from revit.common.system.processes import end_with_parent
from revit.video.data.convert.clip import Alive, CheckError, ConvertSettings, OutputError, check_clip, encode_clip
from revit.video.data.decode.opening import DecodeError

PATIENCE = 120.0  # seconds without a frame, after which a process is taken to hang


@dataclass(frozen=True)
class Record:
    """One finished file."""

    name: str
    """Its path from OUT."""
    source: str
    size: int
    """Bytes of the source when it was read."""
    mtime_ns: int
    """Time of the source's last change."""
    bytes: int
    """Bytes of the finished file."""
    frames: int
    psnr: float
    """dB, see `check_clip`."""


def convert(
    source: str, name: str, alive: Alive, *, settings: ConvertSettings, out: Path, making: Path
) -> Record | str:
    """Write `source` in the folder `making`, check it and name it OUT/name; return the reason where it is left out.

    `OutputError` if the disk is full or cannot be written to.
    """
    new, target = making / f"{os.getpid()}.mp4", out / name
    try:
        before = os.stat(source)
        written = encode_clip(source, str(new), settings, alive)
        psnr = check_clip(source, str(new), written, settings)
    except DecodeError as error:
        return error.reason
    except CheckError as error:
        return f"not kept: {error}"
    except OSError as error:  # of the source: one of the new file is an OutputError
        return reason_of(error).lower()
    try:
        with new.open("rb") as file:  # its bytes are on the disk before it has its name
            os.fsync(file.fileno())
            size = os.fstat(file.fileno()).st_size
        target.parent.mkdir(parents=True, exist_ok=True)
        new.replace(target)
    except OSError as error:
        raise OutputError(f"{target}: cannot be written ({reason_of(error).lower()})") from None
    return Record(name, source, before.st_size, before.st_mtime_ns, size, len(written.seconds), psnr)


Convert = Callable[[str, str, Alive], Record | str]  # `convert` with its settings


def convert_all(
    names: Mapping[str, str], convert: Convert, num_workers: int, patience: float = PATIENCE
) -> Iterator[tuple[str, Record | str]]:
    """Yield every source with its record, or the reason why there is none, in the order in which they are done.

    names: source -> name.  Each process is a pool of its own, so that it is known which file one died of. UserError if nothing
    can be written any more.
    """
    waiting = iter(names.items())
    running: dict[Future[Record | str], tuple[str, ProcessPoolExecutor]] = {}
    others = set(multiprocessing.active_children())
    # Not fork: the caller may have started threads, which a forked child cannot survive.
    new_pool = partial(ProcessPoolExecutor, 1, multiprocessing.get_context("spawn"), _begin)
    try:
        idle = [new_pool() for _ in range(min(num_workers, len(names)))]
        while True:
            for pool, (source, name) in zip(list(idle), waiting):
                running[pool.submit(_convert_one, convert, source, name, patience)] = source, idle.pop(0)
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                source, pool = running.pop(future)
                try:
                    answer = future.result()
                except BrokenProcessPool:
                    answer = f"converting it crashed the decoder or encoder, or made no progress for {patience:g} s"
                    pool = new_pool()
                except UserError as error:
                    raise UserError(f"{error}; the same command goes on once that is put right") from None
                except Exception as error:  # of whatever kind: the other files are to be converted all the same
                    answer = f"converting it failed: {type(error).__name__}: {reason_of(error)}"
                idle.append(pool)
                yield source, answer
    finally:
        for process in set(multiprocessing.active_children()) - others:
            process.kill()


def _begin() -> None:
    end_with_parent()
    for number in (signal.SIGINT, signal.SIGTERM):  # they are for the run, which ends this process
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)


def _convert_one(convert: Convert, source: str, name: str, patience: float) -> Record | str:
    """Convert one file; the system's alarm ends this process where it hangs."""
    alive = partial(signal.setitimer, signal.ITIMER_REAL, patience)
    alive()
    try:
        return convert(source, name, alive)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
