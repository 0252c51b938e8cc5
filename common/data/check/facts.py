"""What reading one file to its end tells. Nothing here imports torch: the processes that read start from it."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, BinaryIO, Literal, NamedTuple

from revit.common.system.crew import Alive
from revit.common.system.errors import reason_of

Kind = Literal[
    "missing", "unreadable", "empty", "no_video", "truncated", "damaged", "slow", "duplicate", "overlap", "label", "odd"
]
KINDS: tuple[Kind, ...] = Kind.__args__  # type: ignore[attr-defined]
"""Kinds of trouble; `odd` is a remark, not a problem."""

PRINT_BYTES = 576
"""Bytes of a print: small grey pictures of a file, at places that a copy of other size, rate and codec has, too."""
DIGEST_BYTES = 16


class Place(NamedTuple):
    """Bytes of one sample."""

    path: str
    """Name in messages."""
    file: str
    """File that holds it."""
    offset: int = 0
    """First byte."""
    size: int | None = None
    """Number of bytes; None: to the end of the file."""

    def open(self) -> BinaryIO:
        """Open the file at the first byte. OSError."""
        file = open(self.file, "rb")  # noqa: SIM115 (the caller closes it)
        file.seek(self.offset)
        return file

    def stamp(self) -> tuple[int, int]:
        """Return size in bytes and time of the last change in ns, by which a changed file is known. OSError."""
        found = os.stat(self.file)
        return found.st_size if self.size is None else self.size, found.st_mtime_ns


@dataclass(frozen=True)
class Facts:
    """What was found of a file."""

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


Look = Callable[[Place, Alive], Facts]
"""Function that reads what a file shows, all of it."""


def examine(item: tuple[int, Place], alive: Alive, *, look: Look) -> tuple[tuple[int, int] | None, Facts]:
    """Read a file (its number, and where it is) to its end; return its stamp, if it has one, and what was found."""
    try:
        stamp = item[1].stamp()
    except (OSError, ValueError):  # what is read next says why
        stamp = None
    return stamp, facts_of(item[1], alive, look)


def facts_of(place: Place, alive: Alive, look: Look) -> Facts:
    """Read the bytes of a file for their hash, then what it shows."""
    try:
        mode = os.stat(place.file).st_mode
        if not stat.S_ISREG(mode):  # opening a pipe would wait for its writer
            return Facts(
                "unreadable", "is a folder" if stat.S_ISDIR(mode) else "is not a file, but a pipe, socket or device"
            )
        digest, num_bytes = _digest(place, alive)
    except FileNotFoundError as error:
        return Facts("missing", reason_of(error).lower())
    except (OSError, ValueError) as error:  # a null character in its name
        return Facts("unreadable", reason_of(error).lower())
    if not num_bytes:
        return Facts("empty", "the file is empty (0 bytes)")
    if place.size is not None and num_bytes < place.size:
        return Facts("truncated", f"its tar file ends after {num_bytes} of its {place.size} bytes")
    alive()
    return replace(look(place, alive), digest=digest)


def _digest(place: Place, alive: Alive) -> tuple[bytes, int]:
    """Return hash and number of the bytes."""
    digest, num_bytes = hashlib.blake2b(digest_size=DIGEST_BYTES), 0
    with place.open() as file:
        while part := file.read(1 << 20 if place.size is None else min(1 << 20, place.size - num_bytes)):
            digest.update(part)
            num_bytes += len(part)
            alive()
    return digest.digest(), num_bytes


def no_span(data: Any) -> tuple[float, int]:
    """Return the span of pictures: none."""
    return 0.0, 1


@dataclass(frozen=True)
class Subject:
    """What is checked: clips, or pictures."""

    look: Look
    print_frames: int
    """Pictures that a print is of."""
    extensions: tuple[str, ...]
    """Ends of names of files in folders."""
    span: Callable[[Any], tuple[float, int]] = no_span
    """Function from a data section to the seconds, and the frames, that a sample takes of a file."""
