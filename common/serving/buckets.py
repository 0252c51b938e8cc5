"""Length-bucketed batching over a whole stream: which inputs run together, and when."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")


class LengthBuckets(Generic[Item]):
    """One bucket for each token length. A bucket is due when it is full, or when its oldest item has waited too long.

    Items leave a bucket in the order in which they came; nothing is lost, and nothing leaves twice.
    """

    def __init__(
        self, limits: Sequence[int], max_wait_seconds: float = float("inf"), clock: Callable[[], float] = time.monotonic
    ) -> None:
        """limits: items that make each bucket full. Raises ValueError for one below 1."""
        if not limits or min(limits) < 1:
            raise ValueError(f"limits {list(limits)}: every bucket must hold at least 1 item")
        self.limits = list(limits)
        self.max_wait_seconds = max_wait_seconds
        self._clock = clock
        self._waiting: list[deque[tuple[float, Item]]] = [deque() for _ in limits]

    def __len__(self) -> int:
        """Items that wait in all buckets."""
        return sum(map(len, self._waiting))

    def add(self, bucket: int, item: Item) -> None:
        """Put an item into a bucket."""
        self._waiting[bucket].append((self._clock(), item))

    def due(self) -> tuple[int, list[Item]] | None:
        """A bucket that has to run now, and the items taken out of it: a full one, else one whose oldest item has waited
        too long. None: nothing has to run."""
        for bucket, waiting in enumerate(self._waiting):
            if len(waiting) >= self.limits[bucket]:
                return bucket, self._take(bucket)
        oldest = self._oldest()
        if oldest is not None and self._clock() >= self._waiting[oldest][0][0] + self.max_wait_seconds:
            return oldest, self._take(oldest)
        return None

    def seconds_left(self) -> float | None:
        """Until an item has waited too long; None where nothing waits."""
        oldest = self._oldest()
        if oldest is None:
            return None
        return max(0.0, self._waiting[oldest][0][0] + self.max_wait_seconds - self._clock())

    def take_oldest(self) -> tuple[int, list[Item]] | None:
        """The bucket with the item that has waited longest, as far as one batch goes; None where nothing waits."""
        oldest = self._oldest()
        return None if oldest is None else (oldest, self._take(oldest))

    def _oldest(self) -> int | None:
        filled = [bucket for bucket, waiting in enumerate(self._waiting) if waiting]
        return min(filled, key=lambda bucket: self._waiting[bucket][0][0], default=None)

    def _take(self, bucket: int) -> list[Item]:
        waiting = self._waiting[bucket]
        return [waiting.popleft()[1] for _ in range(min(len(waiting), self.limits[bucket]))]


def padded_size(count: int, limit: int) -> int:
    """Rows of the graph that `count` inputs run in: the next power of two, at most `limit`. ValueError for more than that."""
    if not 0 < count <= limit:
        raise ValueError(f"{count} inputs do not fit into a batch of 1 to {limit}")
    return min(1 << (count - 1).bit_length(), limit)
