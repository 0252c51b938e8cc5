"""One engine asked from several threads at once, as a server does."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from made_engine import PLAIN, ByBrightness, Made, made_classifier
from torch import Tensor

from revit.common.data.reader import Views
from revit.common.serving.batches import Launched, Transfer
from revit.common.serving.engine import Engine


def test_single_files_from_several_threads_are_read_side_by_side_and_computed_in_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reading, together, most_read = 0, [], 0
    inside, counting = threading.Lock(), threading.Lock()
    read, launch = Made.read, Transfer.launch

    def slow_read(self: Made, path: str) -> Views:
        nonlocal reading, most_read
        with counting:
            reading += 1
            most_read = max(most_read, reading)
        time.sleep(0.002)  # time for the others to come in
        with counting:
            reading -= 1
        return read(self, path)

    def slow_launch(self: Transfer, run: Callable[[], Tensor]) -> Launched:
        together.append(not inside.acquire(blocking=False))
        time.sleep(0.001)
        if not together[-1]:
            inside.release()
        return launch(self, run)

    monkeypatch.setattr(Made, "read", slow_read)
    monkeypatch.setattr(Transfer, "launch", slow_launch)
    with Engine(made_classifier(ByBrightness()), **PLAIN) as engine:
        paths = [str(number) for number in range(24)]
        with ThreadPoolExecutor(6) as threads:
            answers = list(threads.map(engine, paths))
        one_by_one = [engine(path) for path in paths]
    assert together
    assert not any(together)
    assert most_read > 1

    def timeless(answer: object) -> object:
        return dataclasses.replace(answer, read_ms=0.0, compute_ms=0.0)  # type: ignore[type-var]

    assert [timeless(one) for one in answers] == [timeless(one) for one in one_by_one]
