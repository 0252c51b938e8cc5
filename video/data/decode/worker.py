"""The helper process: reads requests from a pipe, answers there, and puts frames into shared memory. No torch here.

Its last two arguments are the open file behind that memory and its end of the pipe. One request is a conversation, so that the
caller's function can choose frames after the file is opened:

    -> (path, backend, damaged)
    <- VideoInfo                       (again after a recount)
    -> (numbers, short side or None), or None to leave it
    <- the shape (n, H, W, 3) of the frames in shared memory, valid until the next request, or a reason why there are none
"""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from revit.common.system.processes import end_with_parent
from revit.video.data.decode import DecodeError, VideoInfo, Wanted, read_frames
from revit.video.data.decode.shared_frames import NoRoom, SharedFrames

READ: Callable[..., NDArray[np.uint8]] = read_frames
"""Function that answers a request; a test puts a decoder that hangs here."""


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
        frames = READ(path, ask, backend, allocate=shared.make, damaged=damaged)
        shared.hold(frames)
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
