"""Rates at which clips are read before and after a conversion."""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from revit.common.timing.clock import time_rounds
from revit.video.data.clips import load_views
from revit.video.data.decode import DecodeError
from revit.video.data.decode.reader import FrameReader
from revit.video.data.options import ONE_VIEW, ClipOptions

MOST_FILES = 32


def measure_reading(pairs: Sequence[tuple[str, str]], seconds: float = 10.0) -> dict[str, float] | None:
    """Return clips per second before and after of (source, new file) pairs; None where no pair can be read.

    One clip is 8 frames of 224 pixels, one in 32, from file to tensor, in processor time of this process, so that neither other
    programs nor a cold disk are measured. Up to `MOST_FILES` pairs spread over the list; the median of several rounds per file.
    """
    options, reader = ClipOptions(), FrameReader("auto", 0)
    calls: dict[tuple[str, bool], Callable[[], Tensor]] = {}
    for pair in pairs[:: max(1, len(pairs) // MOST_FILES)][:MOST_FILES]:
        both = [partial(load_views, path, options, ONE_VIEW, reader) for path in pair]
        with contextlib.suppress(DecodeError):  # a source that was removed since
            for load in both:  # fills the system's file cache
                load()
            calls |= {(pair[0], False): both[0], (pair[0], True): both[1]}
    if not calls:
        return None
    times = time_rounds(calls, torch.device("cpu"), rounds=9, seconds=seconds, fewest=3)
    medians = {key: statistics.median(found.processor) for key, found in times.items()}
    before, after = (sum(medians[key] for key in calls if key[1] is is_new) for is_new in (False, True))
    num_files = len(calls) // 2
    return {
        "before_per_second": num_files / before,
        "after_per_second": num_files / after,
        "speed_up": before / after,
        "files": num_files,
    }
