"""Files written whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from revit.common.system.errors import UserError, reason_of


@contextlib.contextmanager
def locked(path: Path, refusal: str | None = None) -> Iterator[None]:
    """Hold a lock file, which the system frees when its holder dies; makes the folder.

    Waits for whoever holds it or, with a `refusal`, raises UserError with these words and who that is: the file says it.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+", encoding="utf-8", errors="replace")  # what its holder wrote must stay
    except OSError as error:
        raise UserError(f"{path.parent}: cannot be written to ({reason_of(error)}); choose another folder") from error
    with file:
        try:
            import fcntl
        except ImportError:  # Windows: without the lock, two processes at once are the user's to avoid
            yield
            return
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (fcntl.LOCK_NB if refusal else 0))
        except BlockingIOError as error:
            file.seek(0)
            holder = file.readline().strip()
            by = f" ({holder})" if holder else ""
            raise UserError(f"{path.parent}: {refusal}{by}; wait for it, end it, or choose another folder") from error
        except OSError:  # a file system without locks
            pass
        with contextlib.suppress(OSError):  # a full disk; the lock holds all the same
            os.ftruncate(file.fileno(), 0)
            os.write(file.fileno(), f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        yield


def cache_folder() -> Path:
    """Return where what was measured and found is kept: $REVIT_CACHE, or below the user's cache folder."""
    own = os.environ.get("REVIT_CACHE")
    if own:
        return Path(own)
    home = os.environ.get("XDG_CACHE_HOME")
    if not home:
        try:
            home = str(Path.home() / ".cache")
        except RuntimeError:  # a user of no name and no home, as containers have
            home = tempfile.gettempdir()
    return Path(home) / "revit-video"


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 text so that readers see the old file or the new one, never a part; makes the folder.

    Raises:
        UserError: the place cannot be written to, or the disk is full.
    """
    write_lines(path, [text])


def write_lines(path: str | Path, lines: Iterable[str]) -> None:
    """Write text that comes in pieces, as `write_text`. Names of files that are no text are written as they are.

    A device or a pipe (`/dev/null`, `/dev/stdout`) is written to: a file put in its place would take it from everybody.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        if _is_stream(path):
            with open(path, "w", encoding="utf-8", errors="surrogateescape") as stream:
                stream.writelines(lines)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.writelines(lines)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from error


def check_writable(path: str | Path) -> None:
    """Check that `path` could be written now; makes its folder, and leaves an older file as it is.

    Raises:
        UserError: as `write_text`, or a folder has that name.
    """
    path = Path(path)
    try:
        if path.is_dir():
            raise IsADirectoryError(21, "a folder has that name")
        if _is_stream(path):
            if not os.access(path, os.W_OK):
                raise PermissionError(13, "Permission denied")
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from error


def _is_stream(path: Path) -> bool:
    """Say whether this is something to write to that is neither a file nor a folder."""
    return path.exists() and not path.is_file() and not path.is_dir()


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all. NaN and infinity are refused: JSON has none.

    Raises:
        UserError: as `write_text`.
        ValueError: a number that JSON cannot hold.
    """
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")
