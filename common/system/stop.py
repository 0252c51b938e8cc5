"""Being asked to end: by a scheduler's SIGTERM, or by Ctrl-C."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from revit.common.system.errors import Stopped

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopRequest:
    """Whether the run was asked to end, by SIGTERM or by Ctrl-C once; the second Ctrl-C is an ordinary one.

    A request raises Stopped where it arrives, except inside `waiting`, whose owner looks at `asked` where it can go on.
    """

    def __init__(self) -> None:
        self.asked: str | None = None
        """Name of the signal that came."""
        self._waiting = False

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
        if number == signal.SIGINT and self.asked is not None:
            raise KeyboardInterrupt
        self.asked = signal.Signals(number).name
        if not self._waiting:
            raise self.stopped()
