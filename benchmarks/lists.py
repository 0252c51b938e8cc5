"""How soon an epoch over a long list starts, and what the list costs in memory; the files of the list do not exist.

    python benchmarks/lists.py                      a million clips, 2 workers: under a minute
    python benchmarks/lists.py --start spawn        as on macOS and Windows, where every worker gets a copy of the list
    python benchmarks/lists.py --runs 5 --json OUT  five times, also as rows of README's table of targets

The same training loader runs over the long list and over one of 1,000 clips, each in a process of its own; reading a clip
is replaced by looking up its path and label. The difference is what the list costs; the rest is Python and torch. Targets
for a million clips: 5 s from opening the list to the first batch, 300 MB per worker.

Memory is what Linux says in /proc/PID/smaps_rollup after some batches. RSS counts a page once in every process that has
it, and so counts what a forked worker shares with its parent again. PSS shares such pages out, so that the sum over
processes is what they really take; USS is what a process has for itself.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Generator

from revit.common.data.build import train_loader
from revit.common.data.dataset import Sample
from revit.common.data.lists import SampleList
from revit.common.data.options import LoadingOptions
from revit.common.data.read_lists import read_list
from revit.common.system.command_line import command_line
from revit.common.system.errors import UserError
from revit.common.system.files import check_writable, write_json
from revit.common.system.machine import machine_name

SHORT = 1000
NUM_BATCHES = 300
BATCH_SIZE = 16
MOST_SECONDS, MOST_MEGABYTES = 5, 300
"""To reach with a million clips: of the first batch, and of a worker."""

Found = dict[str, dict[str, float]]
"""Of one list: seconds, and memory of every process."""


@dataclass
class LookUp:
    """In place of reading a clip: its path and label."""

    samples: SampleList

    def __call__(self, index: int, generator: Generator) -> Sample:
        """A clip of 8 frames and 32 x 32 pixels, for the path's sake a little different each time."""
        value = len(self.samples.path(index)) % 256
        return Sample(torch.full((1, 3, 8, 32, 32), value, dtype=torch.uint8), self.samples.label(index))


def write_list(path: Path, num_samples: int) -> None:
    """A list like Kinetics-400's: paths of some 85 characters and class numbers."""
    with open(path, "w", encoding="utf-8") as file:
        for number in range(num_samples):
            label = number * 7919 % 400
            file.write(
                f"/data/kinetics400/train_256/class_{label:03d}_some_name/k7RtQ{number:07d}_000010_000020.mp4 {label}\n"
            )


def memory(pid: int) -> dict[str, float]:
    """Megabytes of a process: RSS, PSS and USS."""
    kilobytes = {
        line.split()[0].rstrip(":"): int(line.split()[1])
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text("ascii").splitlines()[1:]
    }
    unshared = kilobytes["Private_Clean"] + kilobytes["Private_Dirty"]
    return {"RSS": kilobytes["Rss"] / 1024, "PSS": kilobytes["Pss"] / 1024, "USS": unshared / 1024}


def peak() -> float:
    """Megabytes that were resident at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(path: Path, num_workers: int) -> Found:
    """Seconds to the first batch, and memory after some hundred, of one loader over the list at `path`."""
    before, begin, cpu = peak(), time.perf_counter(), time.process_time()
    samples = read_list(str(path), "clips")
    read, peak_reading = time.perf_counter() - begin, peak() - before
    loader = train_loader(
        LookUp(samples), samples, LoadingOptions(num_workers=num_workers), BATCH_SIZE, seed=0
    )
    batches = iter(loader)
    next(batches)
    seconds = {
        "list read": read,
        "first batch": time.perf_counter() - begin,
        "of it computing": time.process_time() - cpu,
    }
    for _ in islice(batches, NUM_BATCHES):
        pass
    rows = {"seconds": seconds, "main process": memory(os.getpid()) | {"peak while reading": peak_reading}}
    workers = sorted(child.pid or 0 for child in multiprocessing.active_children())
    return rows | {f"worker {number}": memory(pid) for number, pid in enumerate(workers)}


def in_own_process(path: Path, arguments: argparse.Namespace) -> Found:
    """`measure` in a fresh process."""
    command = [sys.executable, __file__, "--start", arguments.start, "--workers", str(arguments.workers)]
    done = subprocess.run([*command, "--measure", str(path)], check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def show(long: Found, short: Found) -> None:
    """The tables: seconds, then megabytes with the list's part in brackets."""
    for name, value in long["seconds"].items():
        print(f"{name:24}{value:10.2f} s")
    print(f"\n{'MB (the list)':24}" + "".join(f"{kind:>20}" for kind in ("RSS", "PSS", "USS")))
    for name in [name for name in long if name != "seconds"]:
        cells = [
            f"{long[name][kind]:.0f} ({long[name][kind] - short[name][kind]:+.0f})"
            for kind in ("RSS", "PSS", "USS")
        ]
        print(f"{name:24}" + "".join(f"{cell:>20}" for cell in cells))
    print(f"peak while reading the list: {long['main process']['peak while reading']:+.0f} MB")


def target_rows(runs: Sequence[Found], num_samples: int, command: str) -> list[dict[str, Any]]:
    """README's rows of what was to be reached, from the long list's figures of every run: the median, and the spread. Memory is
    the PSS of the worker that has most."""
    seconds = [run["seconds"]["first batch"] for run in runs]
    megabytes = [max(run[name]["PSS"] for name in run if name.startswith("worker")) for run in runs]
    rows = []
    for what, values, unit, digits, most in (
        ("first batch", seconds, "s", 1, MOST_SECONDS),
        ("memory of a worker (PSS)", megabytes, "MB", 0, MOST_MEGABYTES),
    ):
        rows.append(
            {
                "work": f"an epoch over a list of {num_samples:,} clips: {what}",
                "target": f"at most {most} {unit}",
                "measured": f"{statistics.median(values):.{digits}f} {unit}",
                "spread": f"{min(values):.{digits}f} to {max(values):.{digits}f}",
                "runs": len(values),
                "command": command,
                "machine": machine_name(),
            }
        )
    return rows


def main() -> None:
    """Measure a long and a short list and print both."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--samples", type=int, default=1_000_000, help="length of the list (default 1,000,000)"
    )
    parser.add_argument("--workers", type=int, default=2, help="loading processes (default 2)")
    parser.add_argument("--start", choices=["fork", "spawn"], default="fork", help="how workers are started")
    parser.add_argument("--runs", type=int, default=1, help="measurements of both lists (default 1)")
    parser.add_argument("--json", type=Path, help="write the rows for README's table of targets there")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.runs < 1 or (arguments.json is not None and arguments.workers < 1):
        parser.error("--runs must be at least 1, and with --json there must be a worker")
    if arguments.json is not None:
        try:  # said before the work, not after it
            check_writable(arguments.json)
        except UserError as error:
            parser.error(str(error))
    if arguments.measure is not None:
        multiprocessing.set_start_method(arguments.start)
        print(json.dumps(measure(arguments.measure, arguments.workers)))
        return
    with tempfile.TemporaryDirectory() as folder:
        paths = {number: Path(folder) / f"{number}.txt" for number in (arguments.samples, SHORT)}
        for number, path in paths.items():
            write_list(path, number)
        print(f"{arguments.samples:,} clips, {arguments.workers} workers ({arguments.start})\n")
        runs = []
        for _ in range(arguments.runs):
            runs.append(in_own_process(paths[arguments.samples], arguments))
            show(runs[-1], in_own_process(paths[SHORT], arguments))
    if arguments.json is not None:
        command = command_line("benchmarks/lists.py", None)
        write_json(arguments.json, target_rows(runs, arguments.samples, command))


if __name__ == "__main__":
    main()
