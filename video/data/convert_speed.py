"""How fast clips are read before and after a conversion: both files of a clip in turn, in one process."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

from revit.video.data.clips import load_views
from revit.video.data.decode import DecodeError
from revit.video.data.decode.reader import FrameReader
from revit.video.data.options import ClipOptions, ViewOptions

ONE_CROP = ViewOptions(num_temporal_views=1, num_crops=1)
MOST_FILES = 32
FEWEST_ROUNDS, MOST_ROUNDS = 3, 9


@dataclass(frozen=True)
class ReadingSpeed:
    """8 frames of 224 pixels, one in 32, per second of one processor's time, from file to tensor."""

    before_per_second: float
    after_per_second: float
    speed_up: float
    files: int


def measure_reading(pairs: Sequence[tuple[str, str]], seconds: float = 10.0) -> ReadingSpeed | None:
    """Of (source, new file) pairs, `MOST_FILES` of them spread over the list; None where no pair can be read.

    Processor time of this process, so that neither other programs nor a cold disk are measured; the median of several
    rounds per file.
    """
    if not pairs:
        return None
    step = max(1, len(pairs) // MOST_FILES)
    chosen = pairs[::step][:MOST_FILES]
    options, reader = ClipOptions(), FrameReader("auto", 0)
    times: dict[int, tuple[list[float], list[float]]] = {}
    end = time.monotonic() + seconds
    for number in range(MOST_ROUNDS + 1):  # the first round fills the system's file cache
        if number > FEWEST_ROUNDS and time.monotonic() > end:
            break
        for place, pair in enumerate(chosen):
            for which, path in enumerate(pair):
                begin = time.process_time()
                try:
                    load_views(path, options, ONE_CROP, reader)
                except DecodeError:  # a source that was removed since
                    break
                if number:
                    times.setdefault(place, ([], []))[which].append(time.process_time() - begin)
    medians = [(statistics.median(old), statistics.median(new)) for old, new in times.values() if old and new]
    if not medians:
        return None
    before, after = (sum(column) for column in zip(*medians))
    return ReadingSpeed(len(medians) / before, len(medians) / after, before / after, len(medians))
