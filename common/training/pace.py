"""How long a training, and the whole recipe, will take: said once, as soon as the first batches show it."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta

from revit.common.training.meter import Meter

BATCHES, SECONDS = 5, 5.0
"""Batches, and seconds of them, that an estimate rests on."""
LATEST_S = 20.0
"""Seconds after which it is said in any case once there is a batch."""

Rest = Callable[[float, float], float]
"""Seconds of all that follows a training, from the seconds that a sample took to be waited for and to be trained on."""


class FirstEstimate:
    """Watches the batches of a training that has begun, or goes on, until it has said how long it takes.

    The first batch is left out where there are others: loading processes start in it, and kernels are chosen.
    """

    def __init__(self, name: str, say: Callable[[str], None], rest: Rest | None = None) -> None:
        self.name, self.say, self.rest = name, say, rest
        self.said = False
        self.began = time.perf_counter()
        self._meter, self._seen = Meter(), (0.0, 0.0)
        self._batches: list[tuple[float, float]] = []
        """Seconds of each batch, and those of them that were waiting for the loader."""

    def batch(self, meter: Meter, samples_at_once: int, batches_left: int) -> None:
        """Look at the sums after one more batch, of the epoch so far; say the estimate if it is time.

        samples_at_once: of a batch, over all processes.  batches_left: of this training and process.
        """
        if self.said:
            return
        before = self._seen if meter is self._meter else (0.0, 0.0)
        self._meter, self._seen = meter, (meter.seconds, meter.data_seconds)
        self._batches.append((meter.seconds - before[0], meter.data_seconds - before[1]))
        measured = self._batches[1:] or self._batches
        seconds, waited = (sum(column) for column in zip(*measured))
        enough = len(self._batches) > BATCHES and seconds > SECONDS
        if not enough and time.perf_counter() - self.began < LATEST_S:
            return
        self.said = True
        each, waited = seconds / len(measured), waited / len(measured)
        pace = "batch" if len(self._batches) == 1 else f"{len(self._batches)} batches"
        text = f"{self.name}: about {_shown(each * batches_left)} to go, by the pace of the first {pace}"
        if self.rest is not None:
            after = self.rest(waited / samples_at_once, (each - waited) / samples_at_once)
            text += f"; the whole recipe about {_shown(each * batches_left + after)}"
        self.say(text)


def _shown(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
