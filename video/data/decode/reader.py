"""`read_frames` in helper processes that are given up after a time-out, so that no file can hang or crash a run."""

from __future__ import annotations

import contextlib
import os
import queue
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from revit.video.data.decode import Backend, ChooseIndices, Damaged, DecodeError, read_frames, resolve_backend
from revit.video.data.decode.helper import Helper, Killed


class FrameReader:
    """Reads frames like `read_frames`, in helper processes of its own; any number of threads may use it at once.

    decord can hang while it holds the interpreter lock, where no signal, thread or alarm helps; a helper process can be
    killed. Helpers start when they are first needed, `num_helpers` of them at most in every process that reads (each loading
    worker has its own, also in daemonic workers and after a fork). One is replaced after a time-out or a crash, and all end
    with the process, not with the thread that read first. One that was killed from outside is started again and the file
    read once more. Output of the decoders is kept out of the user's sight.

    backend, damaged: see `read_frames`.  timeout_seconds: for one file, opening included, waiting for a helper left out; 0
    reads in this process without a time-out.  num_helpers: files read at once; more threads wait.  command: started instead of
    the usual helper (tests); the number of the shared file is added to it.
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
        self._helpers = _Helpers(self)

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
            except Killed as error:
                reason = f"the process that decoded it was killed twice ({error}); is memory short?"
        raise DecodeError(path, reason)

    def _own_helpers(self) -> _Helpers:
        """Return the helpers of this process: those inherited through a fork are the parent's."""
        with _FORKING:
            if self._helpers.owner != os.getpid():
                self._helpers = _Helpers(self)
            return self._helpers

    def helper_pids(self) -> list[int]:
        """List the process ids of this process's helpers that wait for a file."""
        return [helper.process.pid for helper in list(self._own_helpers().queue) if helper is not None]

    def close(self) -> None:
        """End the helper processes of this process; those at work end with the file at hand."""
        helpers = self._own_helpers()
        self._helpers = _Helpers(self)
        helpers.close()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_helpers"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._helpers = _Helpers(self)

    def __del__(self) -> None:
        # At the end of the interpreter modules may be gone already; helpers then end with their parent.
        with contextlib.suppress(Exception):
            self.close()


_FORKING = threading.Lock()  # held while a reader finds out whether it is in another process than before
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_FORKING.acquire, after_in_parent=_FORKING.release, after_in_child=_FORKING.release)


class _Helpers(queue.LifoQueue["Helper | None"]):
    """The helpers of one process that wait for a file, above one None for each that may still be started."""

    def __init__(self, reader: FrameReader) -> None:
        super().__init__()
        self.owner = os.getpid()
        self._command = reader.command
        self._is_closed = False
        for _ in range(reader.num_helpers):
            self.put(None)

    @contextlib.contextmanager
    def borrow(self) -> Iterator[Helper]:
        """Wait until fewer than all helpers are at work, and lend one."""
        helper = self.get()
        try:
            if helper is not None and helper.process.poll() is not None:
                helper.kill()  # ended between two files, e.g. by the system
                helper = None
            helper = helper or Helper(self._command)
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
