"""The helper process: reads requests from a pipe, answers there, and puts frames into shared memory. No torch here.

Its last two arguments are the open file behind that memory and its end of the pipe. One request is a conversation, so that the
caller's function can choose frames after the file is opened:

    -> (path, backend, damaged)
    <- VideoInfo                       (again after a recount)
    -> (numbers, short side or None), or None to leave it
    <- the shape (n, H, W, 3) of the frames in shared memory, valid until the next request, or a reason why there are none

That memory has no name anywhere, /dev/shm included: the system takes it back when the last of the two processes ends, however.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from revit.common.system.processes import end_with_parent
from revit.video.data.decode.index import VideoInfo
from revit.video.data.decode.opening import DecodeError
from revit.video.data.decode.read import Wanted, read_frames

READ: Callable[..., NDArray[np.uint8]] = read_frames
"""Function that answers a request; a test puts a decoder that hangs here."""


KEPT_BYTES = 32 << 20  # a larger memory is given back to the system with the next, smaller clip


def shared_file() -> int:
    """Open a file without a name, for a child to inherit: in memory on Linux, a temporary one elsewhere."""
    if hasattr(os, "memfd_create"):
        with contextlib.suppress(OSError):  # not allowed in some sandboxes
            return os.memfd_create("frames")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


class NoRoom(Exception):
    """There is not enough memory (or, without memory files, disk) for the frames of a clip. The message is one line."""


class SharedFrames:
    """The memory behind an open file that two processes share. The one that fills it decides how large it is."""

    def __init__(self, file: int) -> None:
        self._file = file
        self._memory: mmap.mmap | None = None

    def put(self, frames: NDArray[np.uint8]) -> None:
        """Copy `frames` here, over those before. `NoRoom` if there is none."""
        num_bytes = frames.nbytes
        size = os.fstat(self._file).st_size
        try:
            if num_bytes > size or size > max(num_bytes, KEPT_BYTES):
                os.ftruncate(self._file, num_bytes)
                if hasattr(os, "posix_fallocate"):
                    # Now: a page that cannot be had when it is written to would end this process.
                    os.posix_fallocate(self._file, 0, num_bytes)
            array = self.view(frames.shape)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, 0)
            self._memory = None
            reason = (error.strerror or str(error)).lower()
            raise NoRoom(f"no room for its frames, {num_bytes / 1e6:.0f} MB ({reason})") from None
        array[:] = frames

    def view(self, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """Return what the other process has put here, valid until it is asked for more."""
        size = os.fstat(self._file).st_size
        if self._memory is None or len(self._memory) != size:
            self._memory = mmap.mmap(self._file, size)
        return np.frombuffer(self._memory, np.uint8, math.prod(shape)).reshape(shape)


class _Cancelled(Exception):
    """The caller does not want the frames after all."""


def main() -> None:
    """Serve requests until the pipe is closed."""
    end_with_parent()
    for number in (signal.SIGINT, signal.SIGTERM):  # for the run, which finishes its update and ends this process
        signal.signal(number, signal.SIG_IGN)
    file, end = map(int, sys.argv[-2:])
    shared, pipe = SharedFrames(file), Connection(end)
    pipe.send("ready")
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            with contextlib.suppress(_Cancelled):
                pipe.send(_answer(pipe, shared, *pipe.recv()))


def _answer(
    pipe: Connection[Any, Any], shared: SharedFrames, path: str, backend: str, damaged: str
) -> tuple[int, ...] | str:
    def ask(info: VideoInfo) -> Wanted:
        pipe.send(info)
        if (reply := pipe.recv()) is None:
            raise _Cancelled
        return Wanted(*reply)

    try:
        frames = READ(path, ask, backend, damaged=damaged)
        shared.put(frames)
    except DecodeError as error:
        return error.reason
    except NoRoom as error:
        return str(error)
    except (_Cancelled, EOFError, ConnectionError):
        raise
    except Exception as error:
        return f"the decoder failed: {type(error).__name__}: {error}"
    return frames.shape


if __name__ == "__main__":
    main()
