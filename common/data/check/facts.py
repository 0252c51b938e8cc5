"""What reading one file to its end tells. Nothing here imports torch: the processes that read start from it."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, BinaryIO, Literal

from revit.common.data.lists import FilePart
from revit.common.system.crew import Alive
from revit.common.system.errors import reason_of

Kind = Literal[
    "missing", "unreadable", "empty", "no_video", "truncated", "damaged", "slow", "duplicate", "overlap", "label", "odd"
]
KINDS: tuple[Kind, ...] = Kind.__args__  # type: ignore[attr-defined]
"""Kinds of trouble; `odd` is a remark, not a problem."""

PRINT_BYTES = 576
"""Bytes of a print: small grey pictures of a file, at places that a copy of other size, rate and codec has, too."""
DIGEST_BYTES, READ_BYTES = 16, 1 << 20


def open_file(path: str) -> BinaryIO:
    """Open a file, or one that holds `path` where that begins. OSError."""
    file = open(path.whole if isinstance(path, FilePart) else path, "rb")  # noqa: SIM115 (the caller closes it)
    file.seek(path.offset if isinstance(path, FilePart) else 0)
    return file


def stamp_of(path: str) -> tuple[int, int]:
    """Return size in bytes and time of the last change in ns, by which a changed file is known. OSError.

    Of a folder of frames those of its files: their sizes together, and the latest change.
    """
    whole = path.whole if isinstance(path, FilePart) else path
    found = [os.stat(one) for one in [whole, *_files_in(path)]]
    size = path.size if isinstance(path, FilePart) else sum(one.st_size for one in (found[1:] or found))
    return size, max(one.st_mtime_ns for one in found)


def _files_in(path: str) -> list[str]:
    """Return the files of a folder by name; none of a file."""
    return sorted(entry.path for entry in os.scandir(path) if entry.is_file()) if os.path.isdir(path) else []


@dataclass(frozen=True)
class Facts:
    """Facts about a file."""

    kind: Kind | None = None
    """Kind of what is wrong with it; None: nothing."""
    reason: str = ""
    """One line that says what."""
    odd: str = ""
    """Remark on a file that can be used."""
    digest: bytes = b""
    """Hash of its bytes (DIGEST_BYTES,)."""
    print: bytes = b""
    """See PRINT_BYTES; empty where none could be taken."""
    seconds: float = 0.0
    """Length of a clip as it plays."""
    frames: int = 0
    """Whole frames of a clip."""

    def to_json(self) -> dict[str, Any]:
        """Return what a line of the journal keeps."""
        kept = {
            "kind": self.kind,
            "reason": self.reason,
            "odd": self.odd,
            "seconds": self.seconds,
            "frames": self.frames,
        }
        return {**kept, "digest": self.digest.hex(), "print": self.print.hex()}

    @classmethod
    def from_json(cls, line: dict[str, Any]) -> Facts:
        """Return what `to_json` wrote. KeyError, TypeError or ValueError for anything else."""
        if line["kind"] is not None and line["kind"] not in KINDS:
            raise ValueError(line["kind"])
        digest, print_ = bytes.fromhex(line["digest"]), bytes.fromhex(line["print"])
        if len(digest) not in (0, DIGEST_BYTES) or len(print_) not in (0, PRINT_BYTES):
            raise ValueError("a hash of another length")
        texts = str(line["reason"]), str(line["odd"])
        return cls(line["kind"], *texts, digest, print_, float(line["seconds"]), int(line["frames"]))


Look = Callable[[str, Alive], Facts]
"""Function that reads what a file, a `FilePart` or a folder of frames shows, all of it."""


def examine(item: tuple[int, str], alive: Alive, *, look: Look) -> tuple[tuple[int, int] | None, Facts]:
    """Read a file (its number, and its path) to its end; return its stamp, if it has one, and what was found."""
    path = item[1]
    try:
        stamp = stamp_of(path)
        digest = _digest(path, alive)
        alive()
        return stamp, Facts("empty", "the file is empty (0 bytes)") if stamp[0] == 0 else replace(
            look(path, alive), digest=digest
        )
    except FileNotFoundError as error:
        return None, Facts("missing", reason_of(error).lower())
    except EOFError:
        return None, Facts("truncated", "its tar file ends before it does")
    except (OSError, ValueError) as error:  # a null character in its name
        return None, Facts("unreadable", reason_of(error).lower())


def _digest(path: str, alive: Alive) -> bytes:
    """Return the hash of the bytes. OSError; EOFError for a part beyond the end of its file."""
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for one in _files_in(path) or [path]:
        left = one.size if isinstance(one, FilePart) else None
        if not stat.S_ISREG(os.stat(one.whole if isinstance(one, FilePart) else one).st_mode):
            continue  # opening a pipe would wait for its writer; a folder has nothing to be read
        with open_file(one) as file:
            while part := file.read(READ_BYTES if left is None else min(READ_BYTES, left)):
                digest.update(part)
                left = None if left is None else left - len(part)
                alive()
        if left:
            raise EOFError
    return digest.digest()


def no_span(data: Any) -> tuple[float, int]:
    """Return the span of pictures: none."""
    return 0.0, 1


@dataclass(frozen=True)
class Subject:
    """Kind of files that are checked: clips, or pictures."""

    look: Look
    print_frames: int
    """Pictures that a print is of."""
    extensions: tuple[str, ...]
    """Ends of names of files in folders."""
    span: Callable[[Any], tuple[float, int]] = no_span
    """Function from a data section to the seconds, and the frames, that a sample takes of a file."""
