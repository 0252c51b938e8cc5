"""Processes side by side: every item is answered once, whatever becomes of the process that has it."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from revit.common.system.crew import Died, side_by_side

TROUBLE = {3: "crash", 5: "hang", 7: "error", 9: "killed once"}


def work(item: tuple[int, str], alive) -> int:
    number, folder = item
    what = TROUBLE.get(number)
    if what == "crash":
        os.abort()
    if what == "hang":
        time.sleep(60)
    if what == "error":
        raise ValueError("seven")
    if what == "killed once" and not (Path(folder) / "killed").exists():
        (Path(folder) / "killed").touch()
        os.kill(os.getpid(), signal.SIGKILL)  # as the system does where memory is short
    if number == 11:  # longer than the limit, but alive
        for _ in range(5):
            time.sleep(0.2)
            alive()
    return number**2


def test_one_that_ends_costs_its_item_alone(tmp_path):
    items = ((number, str(tmp_path)) for number in range(20))
    answers = list(side_by_side(items, work, num_workers=2, limit=0.7))
    assert sorted(item[0] for item, _ in answers) == list(range(20))
    found = {item[0]: answer for item, answer in answers}
    assert found.pop(3) == Died("SIGABRT")
    assert found.pop(5) == Died("no progress for 0.7 s", late=True)
    assert found.pop(7) == Died("ValueError: seven")
    assert found == {number: number**2 for number in found}


def test_items_are_taken_as_they_are_needed(tmp_path):
    taken = []

    def items():
        for number in range(1_000):
            taken.append(number)
            yield (100 + number, str(tmp_path))

    running = side_by_side(items(), work, num_workers=1, limit=5)
    next(running)
    running.close()  # ends the processes
    assert len(taken) < 10
