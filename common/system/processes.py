"""Processes that end with the one that started them, however it ends.

Linux ends a process with its parent if it asks for it, but by "parent" it means the thread that started it. A server answers
every request in a thread of its own, and such a thread must not take a process along that others go on using. So processes
are started in one thread that lasts as long as the process.
"""

from __future__ import annotations

import ctypes
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

Result = TypeVar("Result")

SET_PARENT_DEATH_SIGNAL = 1
"""Linux's number for prctl."""
FAULTS = ("SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL", "SIGABRT", "SIGTRAP", "SIGSYS")
"""Signals with which a process ends by its own fault; any other comes from outside."""


class _LastingThread:
    """Runs one call after the other in a thread that ends with the process."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        self._calls: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]]] = queue.SimpleQueue()
        threading.Thread(target=self._run, name="process starter", daemon=True).start()

    def submit(self, call: Callable[[], Any]) -> Future[Any]:
        future: Future[Any] = Future()
        self._calls.put((call, future))
        return future

    def _run(self) -> None:
        while True:
            call, future = self._calls.get()
            try:
                future.set_result(call())
            except BaseException as error:
                future.set_exception(error)
            del call, future  # or what was made would be kept until the next call


_making = threading.Lock()
_thread: _LastingThread | None = None


def _forget_thread() -> None:
    """Forget the parent's thread: threads do not survive a fork, and another one may have held the lock."""
    global _making, _thread
    _making, _thread = threading.Lock(), None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_thread)


def in_lasting_thread(call: Callable[[], Result]) -> Result:
    """Run `call` in the thread that lasts as long as this process, and return or raise what it does. Start processes with it."""
    global _thread
    with _making:
        if _thread is None:
            _thread = _LastingThread()
        future: Future[Result] = _thread.submit(call)
    return future.result()


def end_with_parent() -> None:
    """Ask Linux to end this process when the thread that started it does: one that hangs would not notice otherwise.

    Elsewhere the end of its input is the only sign, enough for every process that does not hang.
    """
    if sys.platform != "linux":
        return
    parent = os.getppid()
    ctypes.CDLL(None).prctl(SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def killed_from_outside(exit_code: int | None) -> str | None:
    """Return the signal that somebody else sent to a process that has ended; None if it ended by itself."""
    if exit_code is None or exit_code >= 0:
        return None
    try:
        name = signal.Signals(-exit_code).name
    except ValueError:
        name = f"signal {-exit_code}"
    return None if name in FAULTS else name
