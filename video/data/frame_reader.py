"""`read_frames` in a helper process that is given up after a time-out, so that no file can hang a run."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from revit.video.data.decode import (
    Backend,
    ChooseIndices,
    DecodeError,
    VideoInfo,
    checked,
    read_frames,
    resolve_backend,
)
from revit.video.data.shared_frames import SharedFrames, shared_file

START_SECONDS = 60.0
"""How long the helper may take to start (a cold disk reads its libraries for seconds)."""


class FrameReader:
    """Reads frames like `read_frames`, in a helper process of its own.

    decord can hang while it holds the interpreter lock, where no signal, thread or alarm helps; a helper process can be
    killed. It starts at the first file, one per process that reads (each loading worker its own, also in daemonic
    workers and after a fork), is replaced after a time-out or a crash, and ends with its parent. What the decoders
    print is kept out of the user's sight.

    backend: see `read_frames`.  timeout_seconds: for one file, opening included; 0 reads in this process without a
    time-out.  command: what to start instead of the usual helper (tests); the number of the shared file is added to it.
    """

    def __init__(
        self,
        backend: Backend = "auto",
        timeout_seconds: float = 30.0,
        command: Sequence[str] | None = None,
    ) -> None:
        self.backend: Backend = resolve_backend(backend)
        self.timeout_seconds = timeout_seconds
        self.command = tuple(command or (sys.executable, "-m", "revit.video.data.decode_child"))
        self._helper: _Helper | None = None

    def read(self, path: str, choose_indices: ChooseIndices) -> NDArray[np.uint8]:
        """Frames uint8 (n, H, W, 3), as `read_frames` returns them.

        `DecodeError` if the file cannot be decoded, if decoding takes longer than the time-out, or if it crashes the
        decoder. `IndexError` for a number outside the file.
        """
        if self.timeout_seconds <= 0:
            return read_frames(path, choose_indices, self.backend)
        if self._helper is not None and self._helper.owner != os.getpid():
            self._helper = None  # inherited through a fork: it belongs to the parent
        if self._helper is not None and self._helper.process.poll() is not None:
            self.close()  # ended between two files, e.g. by the system
        if self._helper is None:
            self._helper = _Helper(self.command)
        try:
            return self._helper.read(path, choose_indices, self.backend, self.timeout_seconds)
        except (TimeoutError, EOFError, BrokenPipeError) as error:
            reason = self._helper.last_words() if not isinstance(error, TimeoutError) else ""
            self.close()
            if isinstance(error, TimeoutError):
                reason = f"decoding took longer than {self.timeout_seconds:g} s and was given up"
            else:
                reason = f"decoding it crashed the decoder{reason}"
            raise DecodeError(path, reason) from None
        except (DecodeError, IndexError):
            raise
        except BaseException:
            self.close()  # interrupted in the middle of a conversation: the helper cannot be used again
            raise

    def close(self) -> None:
        """End the helper process, if this process has one."""
        if self._helper is not None and self._helper.owner == os.getpid():
            self._helper.kill()
        self._helper = None

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_helper": None}

    def __del__(self) -> None:
        # At the end of the interpreter modules may be gone already; the helper then ends with its parent.
        with contextlib.suppress(Exception):
            self.close()


class _Helper:
    """One running helper process and the conversation with it."""

    def __init__(self, command: Sequence[str]) -> None:
        self.owner = os.getpid()
        self._noise = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 (lives as long as the process)
        # The folder the user stands in must not shadow numpy or av in the helper.
        environment = {**os.environ, "PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": "1"}
        self._file = shared_file()
        self._shared = SharedFrames(self._file)
        self.process = subprocess.Popen(
            (*command, str(self._file)),
            pass_fds=(self._file,),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._noise,
            bufsize=0,
            env=environment,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._requests, self._answers = self.process.stdin, self.process.stdout
        self._buffer = bytearray()
        self._deadline = time.monotonic() + START_SECONDS
        try:
            self._line()
        except (EOFError, TimeoutError) as error:
            words = self.last_words()
            self.kill()
            raise RuntimeError(f"the decoding helper {' '.join(command)} did not start{words}") from error

    def read(
        self, path: str, choose_indices: ChooseIndices, backend: str, timeout_seconds: float
    ) -> NDArray[np.uint8]:
        self._noise.seek(0)
        self._noise.truncate()
        self._deadline = time.monotonic() + timeout_seconds
        self._send({"path": os.fspath(path), "backend": backend})
        while True:
            answer = self._line()
            if "error" in answer:
                raise DecodeError(path, answer["error"])
            if "shape" in answer:
                return self._shared.view(tuple(answer["shape"])).copy()
            info = VideoInfo(**answer["info"])
            try:
                wanted = checked(choose_indices(info), info)
            except Exception:
                self._send({"cancel": True})  # or it would take the next request for this answer
                raise
            self._send({"indices": wanted.numbers.tolist(), "short_side": wanted.short_side})

    def last_words(self) -> str:
        """The last line the helper printed, to go behind a reason, or nothing."""
        self._noise.seek(0)
        lines = self._noise.read().decode(errors="replace").strip().splitlines()
        return f" ({lines[-1][:200]})" if lines else ""

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        for file in (self._requests, self._answers, self._noise):
            file.close()
        os.close(self._file)

    def _send(self, message: dict) -> None:
        self._requests.write(json.dumps(message).encode() + b"\n")

    def _line(self) -> dict:
        while b"\n" not in self._buffer:
            self._wait()
            data = os.read(self._answers.fileno(), 65536)
            if not data:
                raise EOFError
            self._buffer += data
        line, _, rest = self._buffer.partition(b"\n")
        self._buffer = rest
        return json.loads(line)

    def _wait(self) -> None:
        left = self._deadline - time.monotonic()
        if left <= 0 or not select.select([self._answers], [], [], left)[0]:
            raise TimeoutError
