"""`read_frames` in helper processes that are given up after a time-out, so that no file can hang or crash a run."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from revit.common.processes import in_lasting_thread, killed_from_outside
from revit.video.data.decode import (
    Backend,
    ChooseIndices,
    Damaged,
    DecodeError,
    VideoInfo,
    checked,
    read_frames,
    resolve_backend,
)
from revit.video.data.decode.shared_frames import SharedFrames, shared_file

START_SECONDS = 60.0
"""How long a helper may take to start (a cold disk reads its libraries for seconds)."""
MOST_MILLISECONDS = 1e9
"""The longest time that the system can be told to wait."""
END_SECONDS = 5.0
"""How long one may take to end whose pipes are closed, before it is killed."""


class FrameReader:
    """Reads frames like `read_frames`, in helper processes of its own; any number of threads may use it at once.

    decord can hang while it holds the interpreter lock, where no signal, thread or alarm helps; a helper process can be
    killed. Helpers start when they are first needed, `num_helpers` of them at most in every process that reads (each loading
    worker has its own, also in daemonic workers and after a fork). One is replaced after a time-out or a crash, and all end
    with the process, not with the thread that read first. One that was killed from outside is started again and the file
    read once more. What the decoders print is kept out of the user's sight.

    backend, damaged: see `read_frames`.  timeout_seconds: for one file, opening included, waiting for a helper left out; 0
    reads in this process without a time-out.  num_helpers: files read at once; more threads wait.  command: what to start
    instead of the usual helper (tests); the number of the shared file is added to it.
    """

    def __init__(
        self,
        backend: Backend = "auto",
        timeout_seconds: float = 30.0,
        damaged: Damaged = "refuse",
        num_helpers: int = 1,
        command: Sequence[str] | None = None,
    ) -> None:
        self.backend: Backend = resolve_backend(backend)
        self.timeout_seconds = timeout_seconds
        self.damaged: Damaged = damaged
        self.num_helpers = num_helpers
        self.command = tuple(command or (sys.executable, "-m", "revit.video.data.decode.worker"))
        self._helpers = _Helpers(num_helpers)

    def read(self, path: str, choose_indices: ChooseIndices) -> NDArray[np.uint8]:
        """Frames uint8 (n, H, W, 3), as `read_frames` returns them.

        `DecodeError` if the file cannot be decoded, if decoding takes longer than the time-out, or if it crashes the
        decoder. `FrameNumberError` for a number outside the file.
        """
        if self.timeout_seconds <= 0:
            return read_frames(path, choose_indices, self.backend, damaged=self.damaged)
        helpers = self._own_helpers()
        with helpers.place():
            try:
                return self._read_once(helpers, path, choose_indices)
            except _Killed:
                pass
            try:
                return self._read_once(helpers, path, choose_indices)
            except _Killed as killed:
                reason = f"the process that decoded it was killed twice ({killed}); is memory short?"
        raise DecodeError(path, reason)

    def _own_helpers(self) -> _Helpers:
        """The helpers of this process: those inherited through a fork are the parent's."""
        with _FORKING:
            if self._helpers.owner != os.getpid():
                self._helpers = _Helpers(self.num_helpers)
            return self._helpers

    def _read_once(self, helpers: _Helpers, path: str, choose_indices: ChooseIndices) -> NDArray[np.uint8]:
        helper = helpers.take() or _Helper(self.command)
        try:
            frames = helper.read(path, choose_indices, self.backend, self.damaged, self.timeout_seconds)
        except TimeoutError:
            helper.kill()
            reason = (
                f"decoding took longer than {self.timeout_seconds:g} s and was given up "
                "(data.loading.decode_timeout_seconds)"
            )
            raise DecodeError(path, reason) from None
        except (EOFError, BrokenPipeError):
            words, signal = helper.last_words(), killed_from_outside(helper.wait_for_end())
            if signal is not None:
                raise _Killed(signal) from None
            raise DecodeError(path, f"decoding it crashed the decoder{words}") from None
        except BaseException:
            if helper.is_mid_conversation:  # interrupted: the next answer would be to this request
                helper.kill()
            else:
                helpers.give_back(helper)
            raise
        helpers.give_back(helper)
        return frames

    def helper_pids(self) -> list[int]:
        """List the process ids of this process's helpers that wait for a file."""
        return self._own_helpers().pids()

    def close(self) -> None:
        """End the helper processes of this process; those at work end with the file at hand."""
        helpers = self._own_helpers()
        self._helpers = _Helpers(self.num_helpers)
        helpers.close()

    def __getstate__(self) -> dict:
        return {name: value for name, value in self.__dict__.items() if name != "_helpers"}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._helpers = _Helpers(self.num_helpers)

    def __del__(self) -> None:
        # At the end of the interpreter modules may be gone already; helpers then end with their parent.
        with contextlib.suppress(Exception):
            self.close()


_FORKING = threading.Lock()
"""Held while a reader finds out whether it is in another process than before."""
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_FORKING.acquire, after_in_parent=_FORKING.release, after_in_child=_FORKING.release
    )


class _Killed(Exception):
    """A helper was ended by a signal from outside, which the message names."""


class _Helpers:
    """The helpers of one process that are waiting for a file, and places for as many as there may be."""

    def __init__(self, num: int) -> None:
        self.owner = os.getpid()
        self._places = threading.Semaphore(num)
        self._lock = threading.Lock()
        self._idle: list[_Helper] = []
        self._closed = False

    @contextlib.contextmanager
    def place(self) -> Iterator[None]:
        """Wait until fewer than all helpers are at work."""
        with self._places:
            yield

    def take(self) -> _Helper | None:
        """Take one that waits for a file; None if a new one is to be started."""
        with self._lock:
            while self._idle:
                helper = self._idle.pop()
                if helper.process.poll() is None:
                    return helper
                helper.kill()  # ended between two files, e.g. by the system
        return None

    def give_back(self, helper: _Helper) -> None:
        """Put a helper back for the next file."""
        with self._lock:
            if not self._closed:
                self._idle.append(helper)
                return
        helper.kill()

    def pids(self) -> list[int]:
        """List the process ids of those that wait."""
        with self._lock:
            return [helper.process.pid for helper in self._idle]

    def close(self) -> None:
        """End those that wait now, and the others when they are given back."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for helper in idle:
            helper.kill()


class _Helper:
    """One running helper process and the conversation with it."""

    def __init__(self, command: Sequence[str]) -> None:
        self._noise = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 (lives as long as the process)
        self._file = shared_file()
        self._shared = SharedFrames(self._file)
        try:
            self.process = in_lasting_thread(lambda: self._start(command))
        except BaseException:
            self._noise.close()
            os.close(self._file)
            raise
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._requests, self._answers = self.process.stdin, self.process.stdout
        self._poll = select.poll()  # unlike select.select it takes any number of open files
        self._poll.register(self._answers, select.POLLIN)
        self._buffer = bytearray()
        self._deadline = time.monotonic() + START_SECONDS
        self.is_mid_conversation = False
        """Whether a request was sent whose last answer has not been read."""
        try:
            self._line()
        except EOFError as error:
            words, signal = self.last_words(), killed_from_outside(self.wait_for_end())
            if signal is not None:
                raise _Killed(signal) from None
            raise RuntimeError(f"the decoding helper {' '.join(command)} did not start{words}") from error
        except TimeoutError as error:
            self.kill()
            raise RuntimeError(
                f"the decoding helper {' '.join(command)} did not start in {START_SECONDS:g} s"
            ) from error

    def _start(self, command: Sequence[str]) -> subprocess.Popen[bytes]:
        # The folder the user stands in must not shadow numpy or av in the helper.
        environment = {**os.environ, "PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(
            (*command, str(self._file)),
            pass_fds=(self._file,),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._noise,
            bufsize=0,
            env=environment,
        )

    def read(
        self,
        path: str,
        choose_indices: ChooseIndices,
        backend: str,
        damaged: str,
        timeout_seconds: float,
    ) -> NDArray[np.uint8]:
        self._noise.seek(0)
        self._noise.truncate()
        self._deadline = time.monotonic() + timeout_seconds
        self.is_mid_conversation = True
        self._send({"path": os.fspath(path), "backend": backend, "damaged": damaged})
        while True:
            answer = self._line()
            if "error" in answer:
                self.is_mid_conversation = False
                raise DecodeError(path, answer["error"])
            if "shape" in answer:
                self.is_mid_conversation = False
                return self._shared.view(tuple(answer["shape"])).copy()
            info = VideoInfo(**answer["info"])
            try:
                wanted = checked(choose_indices(info), info)
            except Exception:
                self._send({"cancel": True})  # or it would take the next request for this answer
                self.is_mid_conversation = False
                raise
            self._send({"indices": wanted.numbers.tolist(), "short_side": wanted.short_side})

    def last_words(self) -> str:
        """The last line the helper printed, to go behind a reason, or nothing."""
        self._noise.seek(0)
        lines = self._noise.read().decode(errors="replace").strip().splitlines()
        return f" ({lines[-1][:200]})" if lines else ""

    def wait_for_end(self) -> int | None:
        """Wait for the end of a helper that has closed its pipes; return its exit code, negative for a signal."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(END_SECONDS)
        code = self.process.poll()
        self.kill()
        return code

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
        if left <= 0 or not self._poll.poll(min(1000 * left, MOST_MILLISECONDS)):
            raise TimeoutError
