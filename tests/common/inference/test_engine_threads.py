"""One engine asked from several threads at once, as a server does."""

from __future__ import annotations

import dataclasses
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from made_engine import PLAIN, ByBrightness, Made, made_classifier
from torch import Tensor

from revit.common.inference.load import engine_of


def test_single_files_from_several_threads_are_read_one_after_the_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    inside, together = threading.Lock(), []
    read = Made.read

    def talking(self: Made, path: str) -> Tensor:
        together.append(not inside.acquire(blocking=False))
        time.sleep(0.002)  # time for the others to come in
        if not together[-1]:
            inside.release()
        return read(self, path)

    monkeypatch.setattr(Made, "read", talking)
    with engine_of(made_classifier(ByBrightness()), **PLAIN) as engine:
        paths = [str(number) for number in range(24)]
        with ThreadPoolExecutor(6) as threads:
            answers = list(threads.map(engine, paths))
        one_by_one = [engine(path) for path in paths]
    assert not any(together)

    def timeless(answer: object) -> object:
        return dataclasses.replace(answer, read_ms=0.0, compute_ms=0.0)  # type: ignore[type-var]

    assert [timeless(one) for one in answers] == [timeless(one) for one in one_by_one]
