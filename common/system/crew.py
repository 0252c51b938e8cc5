"""Processes that work on many items side by side; one that crashes or hangs costs its item and nothing else. No torch here."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, TypeVar

from revit.common.system.errors import reason_of
from revit.common.system.processes import end_with_parent, killed_from_outside

Item = TypeVar("Item", bound=Hashable)
Answer = TypeVar("Answer")

Alive = Callable[[], object]
"""Function that a piece of work calls now and then: each call gives it the time limit anew."""

AHEAD = 4
"""Items that a process has before it asks for more: it never waits for the next one."""


@dataclass(frozen=True)
class Died:
    """No answer: the process that worked on an item ended, or the work raised what it should not."""

    reason: str
    """Signal, exit status or error."""
    late: bool = False
    """True where it made no progress for the time limit."""


class _Member(Generic[Item]):
    """One process, the pipe to it, and the items it has."""

    def __init__(self, work: Callable[[Item, Alive], Any], limit: float) -> None:
        # Not fork: the caller may have started threads, which a forked child cannot survive.
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=_serve, args=(other, work, limit), daemon=True)
        self.process.start()
        other.close()
        self.items: deque[Item] = deque()

    def give(self, item: Item) -> None:
        self.items.append(item)
        with contextlib.suppress(OSError):  # it has ended, which `wait` tells next
            self.pipe.send(item)

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


def side_by_side(
    items: Iterable[Item], work: Callable[[Item, Alive], Answer], num_workers: int, limit: float
) -> Iterator[tuple[Item, Answer | Died]]:
    """Yield every item with `work(item, alive)`, in the order in which they are done.

    Items are taken as they are needed.  limit: seconds without a call of `alive` after which a process is ended.  An item
    whose process was ended from outside, as the system does where memory is short, is tried once more.
    """
    left, again = iter(items), deque[Item]()
    twice: set[Item] = set()
    crew: list[_Member[Item]] = []
    try:
        while True:
            for _ in range(AHEAD):  # dealt out in turns, so that the last ones are shared
                for place in range(num_workers):
                    if place < len(crew) and len(crew[place].items) >= AHEAD:
                        continue
                    item = again.popleft() if again else next(left, None)
                    if item is None:
                        break
                    if place == len(crew):
                        crew.append(_Member(work, limit))
                    crew[place].give(item)
            busy = {member.pipe: place for place, member in enumerate(crew) if member.items}
            if not busy:
                return
            for pipe in wait(list(busy)):
                assert isinstance(pipe, Connection)
                place = busy[pipe]
                member = crew[place]
                try:
                    answer: Answer | Died = pipe.recv()
                    item = member.items.popleft()
                except (EOFError, OSError):
                    member.process.join()
                    answer, item = _death(member.process.exitcode, limit), member.items.popleft()
                    again.extend(member.items)
                    member.end()
                    crew[place] = _Member(work, limit)
                    outside = not answer.late and killed_from_outside(member.process.exitcode)
                    if outside and item not in twice:
                        twice.add(item)
                        again.append(item)
                        continue
                yield item, answer
    finally:
        for member in crew:
            member.end()


def _death(status: int | None, limit: float) -> Died:
    if status == -signal.SIGALRM:
        return Died(f"no progress for {limit:g} s", late=True)
    if status is not None and status < 0:
        return Died(signal.Signals(-status).name)
    return Died(f"exit status {status}")


def _serve(pipe: Connection, work: Callable[[Any, Alive], Any], limit: float) -> None:
    """Answer items until there are no more; the system's alarm ends this process where it hangs."""
    end_with_parent()
    for number in (signal.SIGINT, signal.SIGTERM):  # they are for the caller, who ends this process
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    silence = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):  # what libraries print of a file, its reason says
        os.dup2(silence, stream)
    alive = partial(signal.setitimer, signal.ITIMER_REAL, limit)
    while True:
        try:
            item = pipe.recv()
        except EOFError:
            return
        alive()
        try:
            answer = work(item, alive)
        except Exception as error:  # of whatever kind: the other items are to be done all the same
            answer = Died(f"{type(error).__name__}: {reason_of(error)}")
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        pipe.send(answer)
