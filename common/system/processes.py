"""How processes end: by a scheduler's SIGTERM or by Ctrl-C, or with the process that started them, however that one ends.

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
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from functools import cache
from typing import Any, TypeVar

from revit.common.system.errors import Stopped
from revit.common.system.log import say_at_once

Result = TypeVar("Result")
Calls = queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]]]

SET_PARENT_DEATH_SIGNAL = 1
"""Linux's number for prctl."""
FAULTS = ("SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL", "SIGABRT", "SIGTRAP", "SIGSYS")
"""Signals with which a process ends by its own fault; any other comes from outside."""


def in_lasting_thread(call: Callable[[], Result]) -> Result:
    """Run `call` in a thread that lasts as long as this process, and return or raise what it does. Start processes with it."""
    future: Future[Result] = Future()
    _lasting_thread().put((call, future))
    return future.result()


@cache  # where several threads come first at once, each gets a lasting one
def _lasting_thread() -> Calls:
    calls: Calls = queue.SimpleQueue()
    threading.Thread(target=_answer, args=(calls,), name="process starter", daemon=True).start()
    return calls


def _answer(calls: Calls) -> None:
    while True:
        call, future = calls.get()
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)
        del call, future  # or what was made would be kept until the next call


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_lasting_thread.cache_clear)  # threads do not survive a fork


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


SIGNALS = (signal.SIGTERM, signal.SIGINT)


PASSED_ON_S = 1.0
"""Seconds within which a second signal is the first one again: Ctrl-C reaches processes and their launcher, which passes it on."""


class StopRequest:
    """Whether the run was asked to end, by SIGTERM or by Ctrl-C.

    A request raises Stopped where it arrives, except inside `waiting`, whose owner looks at `asked` where it can go on. There
    it is answered at once by a line, and one that is made again raises Stopped after all.
    """

    def __init__(self) -> None:
        self.asked: str | None = None
        """Name of the signal that came."""
        self._waiting = False
        self._asked_at = 0.0

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take the signals inside as requests. Nothing changes outside of the main thread, where none arrive."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._ask) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def waiting(self, wait: bool = True) -> Iterator[None]:
        """Let a request inside only set `asked`; with `wait` false it raises again."""
        before, self._waiting = self._waiting, wait
        try:
            if not wait and self.asked is not None:
                raise self.stopped()
            yield
        finally:
            self._waiting = before

    def stopped(self, where: str = "finished stages and saved states are kept") -> Stopped:
        """Return what to raise."""
        return Stopped(f"stopped by {self.asked}: {where}; the same command goes on from there")

    def _ask(self, number: int, frame: Any) -> None:
        again, now = self.asked is not None, time.monotonic()
        if again and now - self._asked_at < PASSED_ON_S:
            return
        self.asked, self._asked_at = signal.Signals(number).name, now
        if again:
            raise self.stopped("at once; finished stages and the states saved so far are kept")
        if not self._waiting:
            raise self.stopped()
        say_at_once(f"{self.asked}: stopping after this update; again to stop now")
