"""Length-bucketed batching: nothing lost, nothing twice, in order, in time."""

from __future__ import annotations

import random

import pytest

from revit.common.serving.batches import GridBuckets
from revit.common.serving.runtime import padded_size


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("seed", range(20))
def test_every_item_leaves_once_and_in_order(seed: int) -> None:
    draw, clock = random.Random(seed), Clock()
    limits = [draw.randint(1, 6) for _ in range(draw.randint(1, 4))]
    buckets: GridBuckets[int] = GridBuckets(limits, max_wait_seconds=3.0, clock=clock)
    came: list[list[int]] = [[] for _ in limits]
    left: list[list[int]] = [[] for _ in limits]
    arrived: dict[int, float] = {}
    for number in range(300):
        clock.now += draw.random()
        bucket = draw.randrange(len(limits))
        came[bucket].append(number)
        arrived[number] = clock.now
        buckets.add(bucket, number)
        while (batch := buckets.due()) is not None:
            where, items = batch
            assert len(items) <= limits[where]
            assert len(items) == limits[where] or clock.now >= arrived[items[0]] + 3.0
            left[where] += items
        assert all(
            clock.now < arrived[number] + 3.0
            for all_came, all_left in zip(came, left)
            for number in all_came[len(all_left) :]
        )
    while (batch := buckets.take_oldest()) is not None:
        left[batch[0]] += batch[1]
    assert left == came
    assert buckets.seconds_left() is None


def test_waiting_is_counted_from_the_oldest() -> None:
    clock = Clock()
    buckets: GridBuckets[str] = GridBuckets([2, 2], max_wait_seconds=1.0, clock=clock)
    assert buckets.seconds_left() is None
    buckets.add(1, "first")
    clock.now = 0.4
    buckets.add(0, "second")
    assert buckets.seconds_left() == pytest.approx(0.6)
    assert buckets.due() is None
    clock.now = 1.0
    assert buckets.due() == (1, ["first"])
    assert buckets.seconds_left() == pytest.approx(0.4)
    assert buckets.take_oldest() == (0, ["second"])
    assert buckets.take_oldest() is None


def test_a_full_bucket_goes_before_an_old_one() -> None:
    clock = Clock()
    buckets: GridBuckets[int] = GridBuckets([5, 2], max_wait_seconds=1.0, clock=clock)
    buckets.add(0, 0)
    clock.now = 5.0
    buckets.add(1, 1)
    buckets.add(1, 2)
    assert buckets.due() == (1, [1, 2])
    assert buckets.due() == (0, [0])


def test_impossible_limits_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        GridBuckets([4, 0], 1.0)
    with pytest.raises(ValueError, match="1 to 4"):
        padded_size(5, 4)


def test_padding_is_to_powers_of_two_within_the_limit() -> None:
    assert [padded_size(count, 6) for count in range(1, 7)] == [1, 2, 4, 4, 6, 6]
    assert [padded_size(count, 8) for count in (3, 5, 8)] == [4, 8, 8]
