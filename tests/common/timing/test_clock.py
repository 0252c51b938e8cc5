"""The timer: calls in turn, for as many rounds as there is time for, on a clock of the test's own."""

from __future__ import annotations

import time

import pytest
import torch

from revit.common.timing.clock import Stopwatch, quantile, time_rounds

CPU = torch.device("cpu")


class Calls:
    """Calls that only move the clock: 1 s, 2 s, ... each."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
        self.now, self.made = 0.0, []
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)
        self.calls = {seconds: lambda seconds=seconds: self.call(seconds) for seconds in range(1, number + 1)}

    def call(self, seconds: int) -> None:
        self.made.append(seconds)
        self.now += seconds


def test_calls_take_turns_and_those_that_warm_up_do_not_count(monkeypatch):
    calls = Calls(monkeypatch, 3)
    times = time_rounds(calls.calls, CPU, 2, warm_up=1)
    assert calls.made == [1, 2, 3, 2, 3, 1, 3, 1, 2]
    assert {name: one.clock for name, one in times.items()} == {1: [1, 1], 2: [2, 2], 3: [3, 3]}
    assert all(len(one.processor) == 2 for one in times.values())


def test_repeats_are_made_in_a_row(monkeypatch):
    calls = Calls(monkeypatch, 2)
    rounds: list[int] = []
    times = time_rounds(calls.calls, CPU, 2, repeats={1: 3, 2: 1}, before_round=rounds.append)
    assert calls.made == [1, 1, 1, 2, 2, 1, 1, 1]
    assert times[1].clock == [1.0] * 6
    assert rounds == [0, 1]


@pytest.mark.parametrize(
    ("seconds", "warm_up", "fewest", "made"),
    [(0, 0, 0, 1), (0, 1, 0, 1), (0, 1, 2, 3), (6, 0, 0, 2), (8.9, 1, 0, 2), (9, 1, 0, 3), (1e9, 1, 0, 11)],
)
def test_rounds_that_would_take_too_long_are_not_begun(monkeypatch, seconds, warm_up, fewest, made):
    calls = Calls(monkeypatch, 2)
    times = time_rounds(calls.calls, CPU, 10, warm_up=warm_up, seconds=seconds, fewest=fewest)
    assert len(calls.made) == 2 * made
    assert all(len(one.clock) == max(made - warm_up, 1) for one in times.values())


def test_a_stopwatch_adds_up(monkeypatch):
    calls, stopwatch = Calls(monkeypatch, 3), Stopwatch(CPU)
    with stopwatch:
        calls.call(2)
    calls.call(3)
    with stopwatch:
        calls.call(1)
    assert stopwatch.seconds == 3


def test_quantile_of_few_samples():
    samples = [float(number) for number in range(1, 21)]
    assert quantile(samples, 0.95) == 19
    assert quantile([3.0], 0.95) == 3.0
    assert quantile([2.0, 1.0], 0.5) == 1.0


def test_quantile_by_weights():
    samples = [1.0, 1.0, 1.0, *[10.0] * 50]
    weights = [0.9 / 3] * 3 + [0.1 / 50] * 50
    assert [quantile(samples, share, weights) for share in (0.5, 0.89, 0.95)] == [1.0, 1.0, 10.0]
