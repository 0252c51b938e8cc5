"""Reading ahead: in order, bounded, and every input accounted for."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Iterator

import pytest
import torch

from revit.common.data.broken import BrokenSample
from revit.common.data.reader import Views
from revit.common.serving.reading import EndOfStream, ReadAhead


class SlowReader:
    """Takes a moment that depends on the file; some files are broken."""

    open_now = 0
    lock = threading.Lock()

    def __init__(self) -> None:
        with SlowReader.lock:
            SlowReader.open_now += 1

    def read(self, path: str) -> Views:
        time.sleep(random.Random(path).random() * 0.004)
        if path.endswith("3"):
            raise BrokenSample(path, "cut\n off")
        if path.endswith("7"):
            raise MemoryError
        if path.endswith("8"):
            raise ZeroDivisionError("what")
        return Views(torch.tensor([int(path)]))

    def close(self) -> None:
        with SlowReader.lock:
            SlowReader.open_now -= 1


def drained(reads: ReadAhead) -> Iterator[tuple[object, int | str | None]]:
    while True:
        try:
            reading = reads.get(None)
        except EndOfStream:
            return
        assert reading is not None
        said = reading.error if reading.views is None else int(reading.views[0])
        yield reading.item, said
        reads.release()


def test_answers_come_in_the_order_of_the_inputs_whatever_reading_takes() -> None:
    threads = torch.get_num_threads()
    reads = ReadAhead(map(str, range(60)), SlowReader, num_readers=4, window=7)
    for number, (item, said) in enumerate(drained(reads)):
        assert item == str(number)
        errors = {3: "cut off", 7: "not enough memory to read it", 8: "reading it failed: ZeroDivisionError: what"}
        assert said == errors.get(number % 10, number)
    assert number == 59
    reads.close()
    assert SlowReader.open_now == 0
    assert torch.get_num_threads() == threads


def test_what_is_not_a_path_goes_through_in_its_place() -> None:
    items = ["1", ("a", "pair"), "2"]
    reads = ReadAhead(items, SlowReader, num_readers=1, window=3)
    assert [item for item, _ in drained(reads)] == items
    reads.close()


def test_no_more_than_the_window_is_under_way() -> None:
    asked: list[int] = []

    def endless() -> Iterator[str]:
        for number in itertools.count():
            asked.append(number)
            yield str(number * 10)

    reads = ReadAhead(endless(), SlowReader, num_readers=3, window=5)
    for _ in range(5):
        assert reads.get(None) is not None
    assert reads.get(0.05) is None  # none was given back
    assert len(asked) == 6  # the sixth waits for room
    reads.release(2)
    assert reads.get(None) is not None
    assert reads.get(None) is not None
    assert reads.get(0.05) is None
    assert len(asked) == 8
    reads.close()
    assert SlowReader.open_now == 0


def test_a_stream_that_breaks_says_so_after_what_came_before() -> None:
    def broken() -> Iterator[str]:
        yield "1"
        raise RuntimeError("the list ends here")

    reads = ReadAhead(broken(), SlowReader, num_readers=2, window=4)
    first = reads.get(None)
    assert first is not None
    assert first.item == "1"
    for _ in range(2):  # it stays broken
        with pytest.raises(EndOfStream) as end:
            reads.get(None)
        assert str(end.value.error) == "the list ends here"
    reads.close()


def test_a_slow_stream_is_waited_for_as_long_as_asked() -> None:
    gate = threading.Event()

    def slow() -> Iterator[str]:
        gate.wait(10)
        yield "5"

    reads = ReadAhead(slow(), SlowReader, num_readers=1, window=2)
    assert reads.get(0.02) is None
    gate.set()
    reading = reads.get(5)
    assert reading is not None
    assert reading.item == "5"
    reads.close()


def test_closing_wakes_the_thread_that_waits_for_room_and_costs_one_place(monkeypatch: pytest.MonkeyPatch) -> None:
    before = threading.active_count()
    reads = ReadAhead(map(str, itertools.count()), SlowReader, num_readers=1, window=2)
    assert reads.get(None) is not None
    given: list[int] = []
    release = threading.Semaphore.release

    def counted(self: threading.Semaphore, n: int = 1) -> None:
        given.append(n)
        release(self, n)

    # Releasing many places takes a semaphore as many steps: a tenth of a second and more for a million.
    monkeypatch.setattr(threading.Semaphore, "release", counted)
    reads.close()
    assert given == [1]
    for _ in range(500):
        if threading.active_count() == before:
            break
        time.sleep(0.01)
    assert threading.active_count() == before
