"""The helper process: reads requests on standard input, answers on standard output, puts frames into the memory behind the
open file that is its last argument. No torch here.

One request is a conversation of JSON lines, so that the caller's function can choose frames after the file is opened:

    -> {"path": ..., "backend": ..., "damaged": ...}
    <- {"info": {...}}                 (again after a recount)
    -> {"indices": [...], "short_side": pixels or null} or {"cancel": true}
    <- {"shape": [n, H, W, 3]} of the frames in shared memory, valid until the next request, or {"error": reason}
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from revit.common.system.processes import end_with_parent
from revit.video.data.decode import DecodeError, VideoInfo, Wanted, read_frames
from revit.video.data.decode.shared_frames import NoRoom, SharedFrames

READ: Callable[..., NDArray[np.uint8]] = read_frames
"""What answers a request; a test puts a decoder that hangs here."""


class _Cancelled(Exception):
    """The caller does not want the frames after all."""


def main() -> None:
    """Serve requests until standard input ends."""
    end_with_parent()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(
            number, signal.SIG_IGN
        )  # they are for the run: it finishes its update first, and ends this process
    # Libraries that print must not write into the answers.
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    requests = sys.stdin.buffer
    shared = SharedFrames(int(sys.argv[-1]))
    _send(answers, {"ready": True})
    for line in requests:
        request = json.loads(line)
        try:
            frames = READ(
                request["path"],
                lambda info: _ask(requests, answers, info),
                request["backend"],
                allocate=shared.make,
                damaged=request["damaged"],
            )
            shared.hold(frames)
        except _Cancelled:
            continue
        except DecodeError as error:
            _send(answers, {"error": error.reason})
        except NoRoom as error:
            _send(answers, {"error": str(error)})
        except Exception as error:
            _send(answers, {"error": f"the decoder failed: {type(error).__name__}: {error}"})
        else:
            _send(answers, {"shape": frames.shape})


def _ask(requests: BinaryIO, answers: BinaryIO, info: VideoInfo) -> Wanted:
    _send(answers, {"info": asdict(info)})
    reply = json.loads(requests.readline())
    if reply.get("cancel"):
        raise _Cancelled
    return Wanted(reply["indices"], reply["short_side"])


def _send(answers: BinaryIO, message: dict) -> None:
    left = memoryview(json.dumps(message).encode() + b"\n")
    while left:
        left = left[answers.write(left) :]


if __name__ == "__main__":
    main()
