"""`read_frames` in helper processes that are given up after a time-out, so that no file can hang or crash a run.

decord can hang while it holds the interpreter lock, where no signal, thread or alarm helps; a helper process can be killed.
See `worker` for the other end of the conversation with one.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import queue
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from revit.common.system.processes import in_lasting_thread, killed_from_outside
from revit.video.data.decode.index import VideoInfo
from revit.video.data.decode.opening import DecodeError
from revit.video.data.decode.read import Backend, ChooseIndices, Damaged, checked, read_frames, resolve_backend
from revit.video.data.decode.worker import SharedFrames, shared_file

START_SECONDS = 60.0  # time that a helper may take to start (a cold disk reads its libraries for seconds)
MOST_SECONDS = 1e6  # longest time that the system can be told to wait
END_SECONDS = 5.0  # time that one may take to end whose pipe is closed, before it is killed


class FrameReader:
    """Reads frames like `read_frames`, in helper processes of its own; any number of threads may use it at once.

    Helpers start when they are first needed, `num_helpers` of them at most in every process that reads (each loading
    worker has its own, also in daemonic workers and after a fork). One is replaced after a time-out or a crash, and all end
    with the process, not with the thread that read first. One that was killed from outside is started again and the file
    read once more. Output of the decoders is kept out of the user's sight.

    backend, damaged: see `read_frames`.  timeout_seconds: for one file, opening included, waiting for a helper left out; 0
    reads in this process without a time-out.  num_helpers: files read at once; more threads wait.  command: started instead of
    the usual helper (tests); the numbers of the shared file and the pipe are added to it.
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
        self._helpers: dict[int, _Helpers] = {}  # by process: those that come through a fork are the parent's

    def read(self, path: str, choose_indices: ChooseIndices) -> NDArray[np.uint8]:
        """Read frames uint8 (n, H, W, 3), as `read_frames` returns them.

        `DecodeError` if the file cannot be decoded, if decoding takes longer than the time-out, or if it crashes the
        decoder. `FrameNumberError` for a number outside the file.
        """
        if self.timeout_seconds <= 0:
            return read_frames(path, choose_indices, self.backend, damaged=self.damaged)
        helpers = self._own_helpers()
        for _ in range(2):
            try:
                with helpers.borrow() as helper:
                    return helper.read(path, choose_indices, self.backend, self.damaged, self.timeout_seconds)
            except _Killed as error:
                reason = f"the process that decoded it was killed twice ({error}); is memory short?"
        raise DecodeError(path, reason)

    def _own_helpers(self) -> _Helpers:
        # Without a lock, which a fork might find held: each step is atomic.
        own = os.getpid()
        for pid in list(self._helpers):
            if pid != own:
                self._helpers.pop(pid, None)
        return self._helpers.get(own) or self._helpers.setdefault(own, _Helpers(self.command, self.num_helpers))

    def helper_pids(self) -> list[int]:
        """List the process ids of this process's helpers that wait for a file."""
        return [helper.process.pid for helper in list(self._own_helpers().queue) if helper is not None]

    def close(self) -> None:
        """End the helper processes of this process; those at work end with the file at hand."""
        if (helpers := self._helpers.pop(os.getpid(), None)) is not None:
            helpers.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_helpers": {}}

    def __del__(self) -> None:
        # At the end of the interpreter modules may be gone already; helpers then end with their parent.
        with contextlib.suppress(Exception):
            self.close()


class _Helpers(queue.LifoQueue["_Helper | None"]):
    """The helpers of one process that wait for a file, above one None for each that may still be started."""

    def __init__(self, command: Sequence[str], num_helpers: int) -> None:
        super().__init__()
        self._command = command
        self._is_closed = False
        for _ in range(num_helpers):
            self.put(None)

    @contextlib.contextmanager
    def borrow(self) -> Iterator[_Helper]:
        """Wait until fewer than all helpers are at work, and lend one."""
        helper = self.get()
        try:
            if helper is not None and helper.process.poll() is not None:
                helper.kill()  # ended between two files, e.g. by the system
                helper = None
            helper = helper or _Helper(self._command)
            yield helper
        finally:
            if helper is not None and helper.is_mid_conversation:
                helper.kill()  # the next answer would be to this request
                helper = None
            self.put(helper)
            if self._is_closed:
                self.close()

    def close(self) -> None:
        """End those that wait now, and the others when they are put back."""
        self._is_closed = True
        with self.mutex:
            idle, self.queue[:] = list(self.queue), [None] * len(self.queue)
        for helper in idle:
            if helper is not None:
                helper.kill()


class _Killed(Exception):
    """A helper was ended by a signal from outside, which the message names."""


class _Helper:
    """One running helper process and the conversation with it."""

    def __init__(self, command: Sequence[str]) -> None:
        self._noise = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 (lives as long as the process)
        self._file = shared_file()
        self._shared = SharedFrames(self._file)
        self._pipe, other = multiprocessing.Pipe()
        try:
            with other:
                self.process = in_lasting_thread(lambda: self._start(command, (self._file, other.fileno())))
        except BaseException:
            self._close()
            raise
        self.is_mid_conversation = False
        """True while the last answer to a request has not been read."""
        try:
            self._receive(time.monotonic() + START_SECONDS)
        except (EOFError, ConnectionError, TimeoutError) as error:
            late = f" in {START_SECONDS:g} s" if isinstance(error, TimeoutError) else ""
            failure = f"the decoding helper {' '.join(command)} did not start{late}{self._last_words()}"
            try:
                if not late:
                    self._refuse_killed()
            finally:
                self.kill()
            raise RuntimeError(failure) from error

    def _start(self, command: Sequence[str], files: tuple[int, int]) -> subprocess.Popen[bytes]:
        # The folder the user stands in must not shadow numpy or av in the helper.
        environment = {**os.environ, "PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": "1"}
        noise, whole = self._noise, (*command, *map(str, files))
        return subprocess.Popen(
            whole, pass_fds=files, stdin=subprocess.DEVNULL, stdout=noise, stderr=noise, env=environment
        )

    def read(
        self, path: str, choose_indices: ChooseIndices, backend: str, damaged: str, timeout_seconds: float
    ) -> NDArray[np.uint8]:
        """Read frames of a file. `DecodeError`, also for a time-out or a crash; `_Killed`."""
        self._noise.seek(0)
        self._noise.truncate()
        deadline = time.monotonic() + timeout_seconds
        self.is_mid_conversation = True
        try:
            self._pipe.send((os.fspath(path), backend, damaged))
            while isinstance(answer := self._receive(deadline), VideoInfo):
                try:
                    wanted = checked(choose_indices(answer), answer)
                except Exception:
                    self._pipe.send(None)  # or it would take the next request for this answer
                    self.is_mid_conversation = False
                    raise
                self._pipe.send(wanted)
        except TimeoutError:
            reason = f"decoding took longer than {timeout_seconds:g} s and was given up"
            raise DecodeError(path, f"{reason} (data.loading.decode_timeout_seconds)") from None
        except (EOFError, ConnectionError):
            self._refuse_killed()
            raise DecodeError(path, f"decoding it crashed the decoder{self._last_words()}") from None
        self.is_mid_conversation = False
        if isinstance(answer, str):
            raise DecodeError(path, answer)
        return self._shared.view(answer).copy()

    def _receive(self, deadline: float) -> Any:
        if not self._pipe.poll(min(max(0.0, deadline - time.monotonic()), MOST_SECONDS)):
            raise TimeoutError
        return self._pipe.recv()

    def _last_words(self) -> str:
        """Return the last line the helper printed, to go behind a reason, or nothing."""
        self._noise.seek(0)
        lines = self._noise.read().decode(errors="replace").strip().splitlines()
        return f" ({lines[-1][:200]})" if lines else ""

    def _refuse_killed(self) -> None:
        """Wait for the end of a helper that has closed its pipe. `_Killed` if somebody else's signal ended it."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            if (signal := killed_from_outside(self.process.wait(END_SECONDS))) is not None:
                raise _Killed(signal) from None

    def kill(self) -> None:
        """End the process and close what it was spoken to by."""
        self.process.kill()
        self.process.wait()
        self._close()

    def _close(self) -> None:
        self._pipe.close()
        self._noise.close()
        os.close(self._file)
