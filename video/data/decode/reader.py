"""`read_frames` in helper processes that are given up after a time-out, so that no file can hang or crash a run."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from revit.common.system.processes import killed_from_outside
from revit.video.data.decode import (
    Backend,
    ChooseIndices,
    Damaged,
    DecodeError,
    read_frames,
    resolve_backend,
)
from revit.video.data.decode.helper import Helper, Killed


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
            except Killed:
                pass
            try:
                return self._read_once(helpers, path, choose_indices)
            except Killed as killed:
                reason = f"the process that decoded it was killed twice ({killed}); is memory short?"
        raise DecodeError(path, reason)

    def _own_helpers(self) -> _Helpers:
        """The helpers of this process: those inherited through a fork are the parent's."""
        with _FORKING:
            if self._helpers.owner != os.getpid():
                self._helpers = _Helpers(self.num_helpers)
            return self._helpers

    def _read_once(self, helpers: _Helpers, path: str, choose_indices: ChooseIndices) -> NDArray[np.uint8]:
        helper = helpers.take() or Helper(self.command)
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
                raise Killed(signal) from None
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


class _Helpers:
    """The helpers of one process that are waiting for a file, and places for as many as there may be."""

    def __init__(self, num: int) -> None:
        self.owner = os.getpid()
        self._places = threading.Semaphore(num)
        self._lock = threading.Lock()
        self._idle: list[Helper] = []
        self._closed = False

    @contextlib.contextmanager
    def place(self) -> Iterator[None]:
        """Wait until fewer than all helpers are at work."""
        with self._places:
            yield

    def take(self) -> Helper | None:
        """Take one that waits for a file; None if a new one is to be started."""
        with self._lock:
            while self._idle:
                helper = self._idle.pop()
                if helper.process.poll() is None:
                    return helper
                helper.kill()  # ended between two files, e.g. by the system
        return None

    def give_back(self, helper: Helper) -> None:
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
