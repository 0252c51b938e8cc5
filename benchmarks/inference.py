"""Three promises about inference, measured: a batch of one is not slow, and saved multiply-accumulates are saved time.

    python benchmarks/inference.py [batch|adaptive|files] [--device cpu] [--dtype bfloat16] [--json OUT]

batch     TimeSformer-B 8x224: milliseconds a clip at batch 1 against batch 4, interleaved. To reach: at most 1.2 times.
adaptive  ReViT-TimeSformer-B (14x14, 10x10, 7x7), 256 clips with an even mix of lengths, the assigner's time included,
          against the same clips at the longest grid, in alternating slices. To reach: 90 % of the saving that the
          GMACs promise.
files     ReViT-TimeSformer-B from files to labels: 512 H.264 files of 10 s through the inference engine, decoding
          included, with a mix of lengths that costs what the paper's does (0.39 of 0.59 T), against the same files at the
          longest grid, in five alternating slices. To reach: 95 % of the saving that the GMACs promise.

Models are served as the inference engine serves them. Without a name, all: half an hour to an hour on two CPU cores
(--clips makes it shorter). Weights are random; speed does not depend on them. Give the machine nothing else to do.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))

from files_to_labels import lost, make_files, stream, together, untrained
from modalities import load_run

from revit.common.costs.flops import count
from revit.common.methods.revit.adaptive import AdaptiveClassifier
from revit.common.methods.revit.assigner import TokenLengthAssigner
from revit.common.serving.choices import PRECISIONS
from revit.common.serving.options import Serving
from revit.common.serving.runtime import Runtime
from revit.common.speed.served import served_cases
from revit.common.system.command_line import add_json, parse, parser, tool
from revit.common.system.device import pick_device
from revit.common.system.files import write_json
from revit.common.system.log import progress
from revit.common.system.machine import machine_name
from revit.common.timing.cases import noise
from revit.common.timing.throughput import measure, round_ratios, seconds_of
from revit.video.models.timesformer import TimeSformer

PARTS = ("batch", "adaptive", "files")
SHAPE = (1, 3, 8, 224, 224)
GRIDS = (14, 10, 7)
SLICE = 16
"""Clips that go through in one call: each slice is timed at the longest grid and adaptively, in turn."""
CLIPS = {"adaptive": 256, "files": 512}
CONFIG = Path(__file__).parents[1] / "configs" / "video" / "revit_timesformer_8x224.yaml"
PAPER = (0.39, 0.59)
"""Tera multiply-accumulates of a clip: ReViT-TimeSformer, and the same at its longest grid (ReViT, Table 1)."""
NUM_FILES = 12


def batch_sizes(device: torch.device, dtype: str, rounds: int) -> dict[str, Any]:
    """How many times as long a clip takes alone as in a batch of 4."""
    model = TimeSformer()
    cases = list(served_cases("timesformer_8x224", model, None, SHAPE, device, [dtype], [1, 4]))
    one, four = measure(cases, device, rounds)
    for row in (one, four):
        rate = (
            "" if row.fraction_of_peak is None else f", {row.fraction_of_peak:.0%} of the matrix-product rate"
        )
        print(f"batch {row.batch}: {row.ms_p50 / row.batch:.0f} ms a clip{rate}")
    ratios = round_ratios(one.as_json(), four.as_json())
    return {
        "work": f"TimeSformer-B 8x224, {dtype}: a clip at batch 1 against batch 4",
        "target": "at most 1.2 times",
        **_spread(ratios, "{:.2f}", " times"),
    }


@torch.inference_mode()
def adaptive(device: torch.device, dtype: str, num_clips: int) -> dict[str, Any]:
    """The share of the promised saving that the clock shows, of clips in memory."""
    # Pieces in which the longest grid is at its fastest, so that the saving is not one of batch size.
    max_batch = 4 if device.type == "cpu" else SLICE
    model = TimeSformer(grids=GRIDS)
    assigner = TokenLengthAssigner(len(model.grids))
    costs = torch.tensor([count(model, SHAPE, grid).gmacs for grid in model.grids])
    assigner_cost = count(assigner, SHAPE).gmacs
    runtime = Runtime(model, device, dtype, max_batch=max_batch)
    classifier = AdaptiveClassifier(model, assigner, max_batch).served_by(runtime).to(device)
    # An untrained assigner says the same for all, so its answer is replaced after it was waited for.
    lengths = torch.randint(len(model.grids), (num_clips,), generator=torch.Generator().manual_seed(0))
    clips = noise(SHAPE, SLICE, device, "float32")

    def at_longest(number: int) -> Callable[[], Any]:
        return lambda: classifier(clips[:number], torch.zeros(number, dtype=torch.long, device=device))

    def assigned(chosen: torch.Tensor) -> Callable[[], Any]:
        return lambda: (classifier.assign(clips[: len(chosen)]), classifier(clips[: len(chosen)], chosen))

    classifier.assign(clips[:2])  # warm-up, like the next ones
    for grid in model.grids:
        runtime(clips[:2], grid)
    slices: list[tuple[float, float, float]] = []  # seconds at the longest grid, adaptively; promised saving
    with progress("adaptive", -(-num_clips // SLICE)) as update_bar:
        for chosen in lengths.split(SLICE):
            longest = seconds_of(at_longest(len(chosen)), device)
            mixed = seconds_of(assigned(chosen.to(device)), device)
            promised = 1 - (float(costs[chosen].mean()) + assigner_cost) / float(costs[0])
            slices.append((longest, mixed, promised))
            update_bar(advance=1)
    totals = [sum(column) for column in zip(*slices)]
    promised = 1 - (float(costs[lengths].mean()) + assigner_cost) / float(costs[0])
    realised = 1 - totals[1] / totals[0]
    print(
        f"longest grid: {1e3 * totals[0] / num_clips:.0f} ms a clip; adaptive: {1e3 * totals[1] / num_clips:.0f} ms"
    )
    print(f"promised to save {promised:.1%}, saved {realised:.1%}: {realised / promised:.1%} of the promise")
    shares = [100 * (1 - mixed / longest) / saving for longest, mixed, saving in slices]
    return {
        "work": f"ReViT-TimeSformer-B 8x224, {dtype}: {num_clips} clips in memory with an even mix of lengths",
        "target": "90 % of the promised saving",
        **_spread(shares, "{:.0f}", " % of the promised saving"),
        "promised": promised,
        "realised": realised,
        "seconds": slices,
    }


def files(
    device: torch.device,
    dtype: str,
    num_clips: int,
    runs: int,
    changes: Sequence[str] = (),
    num_files: int = NUM_FILES,
    **size: int,
) -> dict[str, Any]:
    """The share of the promised saving that the clock shows, from files to labels. changes: of the configuration, as on the
    command line; size: of the files, see `make_clip`."""
    options, modality = load_run(CONFIG, changes)
    classifier, prices = untrained(options, modality)
    target = prices.grids[0] * PAPER[0] / PAPER[1]
    with tempfile.TemporaryDirectory() as folder:
        paths = make_files(Path(folder), num_files, **size)
        serving = Serving(device=str(device), dtype=dtype, compile="eager")
        slices = stream(classifier, prices, paths, target, num_clips, runs, serving)
    shares = [100 * one.saved() / one.promised for one in slices]
    every = together(slices)
    return {
        "work": f"ReViT-TimeSformer 8x224, {dtype}, at the paper's cost ({PAPER[0]} of {PAPER[1]}): {num_clips} clips from files "
        "to labels, decoding included",
        "target": "95 % of the promised saving",
        **_spread(
            shares,
            "{:.1f}",
            f" % of the promised saving, {100 * every.saved() / every.promised:.1f} % over all clips",
        ),
        "why": lost(every),
        "promised": every.promised,
        "realised": every.saved(),
        "by_processor_time": every.saved(1),
        "seconds": [(*one.longest, *one.adaptive) for one in slices],
    }


def _spread(figures: Sequence[float], number: str, unit: str) -> dict[str, Any]:
    """Their median in words, and the smallest and the largest."""
    low, middle, high = (
        number.format(one) for one in (min(figures), statistics.median(figures), max(figures))
    )
    return {"measured": middle + unit, "spread": f"{low} to {high}", "runs": len(figures)}


def _command(what: str, values: argparse.Namespace) -> str:
    """That makes this row again."""
    where = "" if values.device == "auto" else f" --device {values.device}"
    how = {
        "batch": f"--rounds {values.rounds}",
        "adaptive": f"--clips {values.clips or CLIPS['adaptive']}",
        "files": f"--clips {values.clips or CLIPS['files']} --runs {values.runs}",
    }[what]
    return f"python benchmarks/inference.py {what}{where} --dtype {values.dtype} {how}"


@tool
def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser(__doc__ or "", "python benchmarks/inference.py adaptive --clips 64 --dtype bfloat16")
    arguments.add_argument("what", nargs="?", choices=(*PARTS, "all"), default="all")
    arguments.add_argument("--device", default="auto")
    arguments.add_argument("--dtype", choices=PRECISIONS, default="bfloat16")
    arguments.add_argument("--rounds", type=int, default=7, help="of the batch part (7)")
    arguments.add_argument("--clips", type=int, help="of the adaptive part (256) and of the files part (512)")
    arguments.add_argument("--runs", type=int, default=5, help="slices of the files part (5)")
    add_json(arguments)
    values = parse(arguments, argv)
    if min(values.rounds, values.runs) < 1:
        arguments.error("--rounds and --runs must be at least 1")
    if values.clips is not None and values.clips < 2 * values.runs:
        arguments.error(f"--clips {values.clips}: at least two for each of {values.runs} --runs")
    device = pick_device(values.device)
    machine = machine_name(device)
    print(f"{machine}, {values.dtype}, torch {torch.__version__}")
    rows: list[dict[str, Any]] = []
    for what in PARTS if values.what == "all" else (values.what,):
        if what == "batch":
            row = batch_sizes(device, values.dtype, values.rounds)
        elif what == "adaptive":
            row = adaptive(device, values.dtype, values.clips or CLIPS[what])
        else:
            row = files(device, values.dtype, values.clips or CLIPS[what], values.runs)
        rows.append({**row, "command": _command(what, values), "machine": machine})
        print(
            f"{row['work']}: {row['measured']} ({row['spread']} in {row['runs']} runs); to reach: {row['target']}"
        )
        if values.json:
            write_json(values.json, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
