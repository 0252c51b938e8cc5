"""Rates at which clips are read before and after a conversion: both files of a clip in turn, in one process."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Sequence

from revit.video.data.clips import load_views
from revit.video.data.decode import DecodeError
from revit.video.data.decode.reader import FrameReader
from revit.video.data.options import ONE_VIEW, ClipOptions

MOST_FILES = 32
FEWEST_ROUNDS, MOST_ROUNDS = 3, 9


def measure_reading(pairs: Sequence[tuple[str, str]], seconds: float = 10.0) -> dict[str, float] | None:
    """Return clips per second before and after of (source, new file) pairs; None where no pair can be read.

    One clip is 8 frames of 224 pixels, one in 32, from file to tensor, in processor time of this process, so that neither other
    programs nor a cold disk are measured. Up to `MOST_FILES` pairs spread over the list; the median of several rounds per file.
    """
    chosen = pairs[:: max(1, len(pairs) // MOST_FILES)][:MOST_FILES]
    options, reader = ClipOptions(), FrameReader("auto", 0)
    times: dict[int, tuple[list[float], list[float]]] = defaultdict(lambda: ([], []))
    end = time.monotonic() + seconds
    for number in range(MOST_ROUNDS + 1):  # the first round fills the system's file cache
        if number > FEWEST_ROUNDS and time.monotonic() > end:
            break
        for place, pair in enumerate(chosen):
            for which, path in enumerate(pair):
                begin = time.process_time()
                try:
                    load_views(path, options, ONE_VIEW, reader)
                except DecodeError:  # a source that was removed since
                    break
                if number:
                    times[place][which].append(time.process_time() - begin)
    medians = [(statistics.median(old), statistics.median(new)) for old, new in times.values() if old and new]
    if not medians:
        return None
    before, after = (sum(column) for column in zip(*medians))
    return {
        "before_per_second": len(medians) / before,
        "after_per_second": len(medians) / after,
        "speed_up": before / after,
        "files": len(medians),
    }
