"""Measure how soon an epoch over a long list starts, and what the list costs in memory; its files do not exist.

    python benchmarks/lists.py                      a million clips, 2 workers: under a minute
    python benchmarks/lists.py --start spawn        as on macOS and Windows, where every worker gets a copy of the list
    python benchmarks/lists.py --runs 5 --json OUT  five times

The same training loader runs over the long list and over one of 1,000 clips, each in a process of its own; reading a clip
is replaced by looking up its path and label. The difference is what the list costs; the rest is Python and torch. To reach
with a million clips: 5 s from opening the list to the first batch, 300 MB per worker.

Memory is what Linux says in /proc/PID/smaps_rollup after some batches. RSS counts a page once in every process that has
it, and so counts what a forked worker shares with its parent again. PSS shares such pages out, so that the sum over
processes is what they really take; USS is what a process has for itself.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from harness import arguments_of, finish, goal
from torch import Generator

from revit.common.data.build import train_loader
from revit.common.data.dataset import Sample
from revit.common.data.formats.base import ListRequest
from revit.common.data.formats.path_label import PathLabel
from revit.common.data.lists import SampleList
from revit.common.data.options import LoadingOptions
from revit.common.report.tables import print_table
from revit.common.system.command_line import parse, tool

SHORT = 1000
NUM_BATCHES = 300
BATCH_SIZE = 16
KINDS = ("RSS", "PSS", "USS")
Found = dict[str, dict[str, float]]
"""Of one list: seconds, and megabytes of every process."""


@dataclass
class LookUp:
    """In place of reading a clip: its path and label."""

    samples: SampleList

    def __call__(self, index: int, generator: Generator) -> Sample:
        """Return a clip of 8 frames and 32 x 32 pixels, for the path's sake a little different each time."""
        value = len(self.samples.path(index)) % 256
        return Sample(torch.full((1, 3, 8, 32, 32), value, dtype=torch.uint8), self.samples.label(index))


def write_list(path: Path, num_samples: int) -> None:
    """Write a list like Kinetics-400's: paths of some 85 characters and class numbers."""
    with open(path, "w", encoding="utf-8") as file:
        for number in range(num_samples):
            label = number * 7919 % 400
            name = f"class_{label:03d}_some_name/k7RtQ{number:07d}_000010_000020.mp4"
            file.write(f"/data/kinetics400/train_256/{name} {label}\n")


def memory(pid: int) -> dict[str, float]:
    """Return megabytes of a process."""
    kilobytes = {
        line.split()[0].rstrip(":"): int(line.split()[1])
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text("ascii").splitlines()[1:]
    }
    unshared = kilobytes["Private_Clean"] + kilobytes["Private_Dirty"]
    return {"RSS": kilobytes["Rss"] / 1024, "PSS": kilobytes["Pss"] / 1024, "USS": unshared / 1024}


def measure(path: Path, num_workers: int, start: str) -> Found:
    """Return seconds to the first batch, and memory after some hundred, of one loader over the list at `path`."""
    multiprocessing.set_start_method(start, force=True)
    begin = time.perf_counter()
    samples = PathLabel().read(ListRequest(str(path), "clips"))
    seconds = {"list read": time.perf_counter() - begin}
    loading = LoadingOptions(num_workers=num_workers)
    loader = train_loader(LookUp(samples), samples, loading, BATCH_SIZE, seed=0)  # it holds the workers
    batches = iter(loader)
    next(batches)
    seconds["first batch"] = time.perf_counter() - begin
    for _ in islice(batches, NUM_BATCHES):
        pass
    workers = sorted(child.pid or 0 for child in multiprocessing.active_children())
    found = {f"worker {number}": memory(pid) for number, pid in enumerate(workers)}
    return {"seconds": seconds, "main process": memory(os.getpid()), **found}


def show(long: Found, short: Found) -> None:
    """Print seconds, then megabytes with the list's part in brackets."""
    print(", ".join(f"{name} {value:.2f} s" for name, value in long["seconds"].items()))
    rows = []
    for name in [name for name in long if name != "seconds"]:
        megabytes = {kind: f"{long[name][kind]:.0f} ({long[name][kind] - short[name][kind]:+.0f})" for kind in KINDS}
        rows.append({"process": name, **megabytes})
    print_table("MB (the list)", {name: name for name in ("process", *KINDS)}, rows)


@tool
def main(argv: Sequence[str] | None = None) -> int:
    example = "python benchmarks/lists.py --runs 5 --json lists.json"
    arguments = arguments_of(__doc__, example, samples=1_000_000, workers=2, runs=1)
    arguments.add_argument("--start", choices=["fork", "spawn"], default="fork", help="how workers are started")
    values = parse(arguments, argv)
    if min(values.runs, values.workers) < 1:
        arguments.error("--runs and --workers must be at least 1")
    runs: list[Found] = []
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{number}.txt" for number in (values.samples, SHORT)]
        for path, number in zip(paths, (values.samples, SHORT)):
            write_list(path, number)
        for _ in range(values.runs):
            both = []
            for path in paths:
                with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                    both.append(pool.submit(measure, path, values.workers, values.start).result())
            show(*both)
            runs.append(both[0])
    seconds = [run["seconds"]["first batch"] for run in runs]
    megabytes = [max(run[name]["PSS"] for name in run if name.startswith("worker")) for run in runs]
    work = f"an epoch over a list of {values.samples:,} clips"
    rows = [
        goal(f"{work}: first batch", "at most 5 s", seconds, "{:.1f}", " s"),
        goal(f"{work}: memory of a worker (PSS)", "at most 300 MB", megabytes, "{:.0f}", " MB"),
    ]
    return finish(__file__, argv, values, rows)


if __name__ == "__main__":
    sys.exit(main())
