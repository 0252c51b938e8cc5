"""Inputs read ahead by threads, handed on in the order in which they were asked for."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from revit.common.data.broken import BrokenSample
from revit.common.data.reader import Reader
from revit.common.models.base import Reduction


@dataclass
class InFlight:
    """An input under way: what was asked for, what was read of it, and what has been said of its V views so far."""

    item: Any
    views: Tensor | None = None
    """Pixels, uint8 (V, C, ...), once `was_read` is set."""
    error: str | None = None
    """Reason why there will be no answer of the model, whatever becomes of its other views."""
    warning: str | None = None
    """Remark on a file that is not whole."""
    read_ms: float = 0.0
    was_read: threading.Event = field(default_factory=threading.Event)
    grid_index: list[int] = field(default_factory=list)
    """Index of the grid of each view; 0 is the longest."""
    logits: list[Tensor | None] = field(default_factory=list)
    """Logits (K,) float32 on the CPU, of every view that was answered."""
    reductions: list[Reduction | None] = field(default_factory=list)
    seconds: float = 0.0
    """Time of computing."""

    @property
    def is_done(self) -> bool:
        """Everything that will be said of it has been."""
        return self.error is not None or all(logits is not None for logits in self.logits)

    def read(self, reader: Reader) -> None:
        """Read the file; whatever is wrong with it becomes its error."""
        start = time.perf_counter()
        try:
            read = reader.read(self.item)
            self.views, self.warning = read.pixels, read.remark
        except BrokenSample as error:
            self.error = " ".join(error.reason.split())
        except MemoryError:
            self.error = "not enough memory to read it"
        except Exception as error:  # a fault of the reading, which is not to cost the others their answers
            self.error = f"reading it failed: {type(error).__name__}: {error}"
        self.read_ms = 1000 * (time.perf_counter() - start)


class EndOfStream(Exception):
    """There are no more inputs. `error`: what the stream itself raised, where that ended it."""

    def __init__(self, error: BaseException | None = None) -> None:
        super().__init__()
        self.error = error


class ReadAhead:
    """Reads files in threads of its own; whatever is not a path goes through unread.

    At most `window` inputs are under way: being read, read, or handed on and not yet given back by `release`. So memory is
    bounded however long the stream is and however fast files are read. The stream itself is walked in a thread, so that it
    may be endless and slow. Decoding happens in processes of the readers' own, or outside the interpreter lock.
    """

    def __init__(self, items: Iterable[Any], open_reader: Callable[[], Reader], num_readers: int, window: int) -> None:
        self._items = items
        self._room = threading.Semaphore(window)
        self._work: queue.SimpleQueue[InFlight | None] = queue.SimpleQueue()
        self._line: queue.SimpleQueue[InFlight | EndOfStream] = queue.SimpleQueue()
        self._first: deque[InFlight | EndOfStream] = deque(maxlen=1)
        self._stopped = threading.Event()
        self._readers = [open_reader() for _ in range(num_readers)]
        self._threads = [threading.Thread(target=self._read, args=(reader,), daemon=True) for reader in self._readers]
        threads = torch.get_num_threads()
        self._started = threading.Barrier(num_readers + 1)
        for thread in self._threads:
            thread.start()
        self._started.wait()
        # What a thread sets is also what threads started later begin with; that is for the reading ones only.
        torch.set_num_threads(threads)
        threading.Thread(target=self._feed, daemon=True).start()

    def get(self, timeout: float | None) -> InFlight | None:
        """Return the next input in order, once it is read; None if it is not within `timeout` seconds (None: wait for it).

        Raises EndOfStream after the last one.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        if not self._first:
            try:
                self._first.append(self._line.get(timeout=timeout))
            except queue.Empty:
                return None
        first = self._first[0]
        if isinstance(first, EndOfStream):
            raise first
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        if not first.was_read.wait(left):
            return None
        self._first.clear()
        return first

    def release(self, count: int = 1) -> None:
        """Make room for so many more inputs."""
        self._room.release(count)

    def close(self) -> None:
        """End the threads, once each has finished the file it reads, and what their readers hold open."""
        self._stopped.set()
        self._room.release()  # one place: only the feeding thread waits, and it looks whether to stop before it goes on
        for _ in self._threads:
            self._work.put(None)
        for thread, reader in zip(self._threads, self._readers):
            thread.join()
            reader.close()

    def _feed(self) -> None:
        try:
            for item in self._items:
                self._room.acquire()
                if self._stopped.is_set():
                    return
                one = InFlight(item)
                self._line.put(one)
                if isinstance(item, str):
                    self._work.put(one)
                else:
                    one.was_read.set()
        except BaseException as error:
            self._line.put(EndOfStream(error))
        else:
            self._line.put(EndOfStream())

    def _read(self, reader: Reader) -> None:
        torch.set_num_threads(1)  # the readers are the parallelism
        self._started.wait()
        while (one := self._work.get()) is not None and not self._stopped.is_set():
            one.read(reader)
            one.was_read.set()
