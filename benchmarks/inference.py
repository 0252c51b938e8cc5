"""Measure two promises about inference: a batch of one is not slow, and saved multiply-accumulates are saved time.

    python benchmarks/inference.py [batch|adaptive|files] [--device cpu] [--dtype bfloat16] [--json OUT]

batch     TimeSformer-B 8x224: milliseconds a clip at batch 1 against batch 4, interleaved. To reach: at most 1.2 times.
adaptive  ReViT-TimeSformer-B (14x14, 10x10, 7x7), 256 clips with an even mix of lengths, the assigner's time included,
          against the same clips at the longest grid, in alternating slices. To reach: 90 % of the saving that the
          GMACs promise.
files     ReViT-TimeSformer-B from files to labels: 512 H.264 files of 10 s through the inference engine, decoding
          included, with a mix of lengths that costs what the paper's does (0.39 of 0.59 T), against the same files at the
          longest grid, in five alternating slices. To reach: 95 % of the saving that the GMACs promise.

Models are served as the inference engine serves them. An assigner that was not trained says the same of all clips, so its
answer is replaced after it was computed. Without a name, all: half an hour to an hour on two CPU cores (--clips makes it
shorter). Weights are random; speed does not depend on them. Give the machine nothing else to do.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
from harness import CONFIGS, arguments_of, finish, goal
from loading import make_clip
from modalities import load_run
from torch import Tensor, nn

from revit.common.costs.flops import count
from revit.common.methods.revit.adaptive import AdaptiveClassifier, TokenLengthAssigner
from revit.common.modality.classifier import Classifier
from revit.common.modality.costs import build
from revit.common.modality.modality import Modality
from revit.common.models.base import GridModel
from revit.common.serving.engine import Engine
from revit.common.serving.runtime import Runtime
from revit.common.speed.served import served_cases
from revit.common.system.command_line import parse, tool
from revit.common.system.device import pick_device
from revit.common.system.log import progress
from revit.common.timing.cases import noise
from revit.common.timing.clock import seconds_of
from revit.common.timing.measure import measure, round_ratios
from revit.video.models.timesformer import TimeSformer

SHAPE = (1, 3, 8, 224, 224)
GRIDS = (14, 10, 7)
SLICE = 16
"""Clips in memory that go through in one call: each slice is timed at the longest grid and adaptively, in turn."""
CONFIG = CONFIGS / "video" / "revit_timesformer_8x224.yaml"
PAPER = (0.39, 0.59)
"""Tera multiply-accumulates of a clip: ReViT-TimeSformer, and the same at its longest grid (ReViT, Table 1)."""
KEY_FRAMES = (30, 250)
"""Frames from one key frame to the next, of the files in turn: files made for seeking, and x264's default."""
WARM_UP = 2
"""Clips at every grid before anything is timed."""


class DealtLengths(nn.Module):
    """In the place of an assigner: runs it, and gives each input the next of `grid_index` instead of its answer;
    after the last one the first again."""

    def __init__(self, assigner: nn.Module, grid_index: Sequence[int]) -> None:
        super().__init__()
        self.assigner = assigner
        self.grid_index = cycle(grid_index)

    def forward(self, inputs: Tensor) -> Tensor:
        """Normalised inputs (B, C, ...) -> logits (B, k)"""
        logits = self.assigner(inputs)
        dealt = torch.tensor(list(islice(self.grid_index, len(inputs))), device=logits.device)
        return nn.functional.one_hot(dealt, logits.shape[1]).to(logits.dtype)


def shares_for(costs: Sequence[float], assigner: float, target: float) -> list[float]:
    """Return shares of the grids (longest first) with which an input costs `target` in the mean, the assigner included.

    The shorter grids are equally common: the paper does not say how its clips were spread. Raises ValueError for a target
    that no shares reach.
    """
    shorter = sum(costs[1:]) / (len(costs) - 1)
    longest = (target - assigner - shorter) / (costs[0] - shorter)
    if not 0 <= longest <= 1:
        raise ValueError(
            f"a mean cost of {target:g}: between {shorter + assigner:g} and {costs[0] + assigner:g} is possible"
        )
    return [longest, *[(1 - longest) / (len(costs) - 1)] * (len(costs) - 1)]


def deal(shares: Sequence[float], number: int, seed: int) -> list[int]:
    """Return grid positions of `number` inputs in shares as near as whole inputs come to them, shuffled."""
    exact = [number * share for share in shares]
    counts = [int(one) for one in exact]
    nearest = sorted(range(len(shares)), key=lambda one: counts[one] - exact[one])
    for position in nearest[: number - sum(counts)]:
        counts[position] += 1
    grid_index = torch.arange(len(shares)).repeat_interleave(torch.tensor(counts))
    return grid_index[torch.randperm(number, generator=torch.Generator().manual_seed(seed))].tolist()


@dataclass(frozen=True)
class Prices:
    """GMACs of an input."""

    grids: tuple[float, ...]
    """Longest first."""
    assigner: float

    @classmethod
    def of(cls, model: GridModel, assigner: nn.Module | None, shape: Sequence[int]) -> Prices:
        grids = tuple(count(model, shape, grid).gmacs for grid in model.grids)
        return cls(grids, 0.0 if assigner is None else count(assigner, shape).gmacs)

    def saving(self, grid_index: Sequence[int]) -> float:
        """Return what GMACs promise to save with these grid positions, as a share of all at the longest."""
        spent = sum(self.grids[index] + self.assigner for index in grid_index)
        return 1 - spent / (self.grids[0] * len(grid_index))


@dataclass(frozen=True)
class Slice:
    """Some clips, answered both ways one after the other."""

    num_clips: int
    promised: float
    """Share of the multiply-accumulates that is saved."""
    longest: tuple[float, ...]
    """Seconds by the clock, and of processor time of this process and its decoding helpers."""
    adaptive: tuple[float, ...]

    def saved(self, column: int = 0) -> float:
        """Return the share of the seconds that was saved; column 1: of processor time."""
        return 1 - self.adaptive[column] / self.longest[column]

    def line(self, name: str) -> str:
        """Say both times and what was saved."""
        longest, adaptive = (1000 * one[0] / self.num_clips for one in (self.longest, self.adaptive))
        by_processor = f", {self.saved(1):.1%} by processor time" if len(self.longest) > 1 else ""
        return (
            f"{name}, {self.num_clips} clips: {longest:.0f} ms a clip at the longest grid, {adaptive:.0f} ms adaptive; promised to "
            f"save {self.promised:.1%}, saved {self.saved():.1%} by the clock ({self.saved() / self.promised:.1%} of the promise)"
            f"{by_processor}"
        )


def together(slices: Sequence[Slice]) -> Slice:
    """Return all of them as one."""
    num_clips = sum(one.num_clips for one in slices)
    promised = sum(one.promised * one.num_clips for one in slices) / num_clips
    longest = tuple(map(sum, zip(*(one.longest for one in slices))))
    return Slice(num_clips, promised, longest, tuple(map(sum, zip(*(one.adaptive for one in slices)))))


def lost(every: Slice) -> str:
    """Say where the rest of the promise went."""
    longest, adaptive = (1000 * seconds[0] / every.num_clips for seconds in (every.longest, every.adaptive))
    same = longest - (longest - adaptive) / every.promised
    return (
        f"a clip took {longest:.0f} ms at the longest grid and {adaptive:.0f} ms adaptively, as if {same:.0f} ms were the same at every "
        "length: reading and decoding, and the assigner, which multiply-accumulates do not tell"
    )


def saving_row(work: str, target: float, slices: Sequence[Slice]) -> dict[str, Any]:
    """Return the row of how much of the promised saving the clock shows, slice by slice."""
    shares = [100 * one.saved() / one.promised for one in slices]
    every = together(slices)
    print(every.line("all clips"))
    facts = {"promised": every.promised, "realised": every.saved(), "why": lost(every)}
    seconds = [(*one.longest, *one.adaptive) for one in slices]
    wanted = f"{target:g} % of the promised saving"
    return goal(work, wanted, shares, "{:.1f}", " % of the promised saving", **facts, seconds=seconds)


def batch(values: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Measure how many times as long a clip takes alone as in a batch of 4."""
    cases = served_cases("timesformer_8x224", TimeSformer(), None, SHAPE, device, [values.dtype], [1, 4])
    one, four = measure(list(cases), device, values.rounds)
    for row in (one, four):
        share = row.fraction_of_peak
        rate = "" if share is None else f", {share:.0%} of the matrix-product rate"
        print(f"batch {row.batch}: {row.ms_p50 / row.batch:.0f} ms a clip{rate}")
    work = f"TimeSformer-B 8x224, {values.dtype}: a clip at batch 1 against batch 4"
    return goal(work, "at most 1.2 times", round_ratios(one.as_json(), four.as_json()), unit=" times")


@torch.inference_mode()
def adaptive(values: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Measure the share of the promised saving that the clock shows, of clips in memory."""
    # Pieces in which the longest grid is at its fastest, so that the saving is not one of batch size.
    max_batch = 4 if device.type == "cpu" else SLICE
    num_clips = values.clips or 256
    model = TimeSformer(grids=GRIDS)
    assigner = TokenLengthAssigner(len(model.grids))
    prices = Prices.of(model, assigner, SHAPE)
    runtime = Runtime(model, device, values.dtype, max_batch=max_batch)
    classifier = AdaptiveClassifier(model, assigner, max_batch).served_by(runtime).to(device)
    grid_index = torch.randint(len(model.grids), (num_clips,), generator=torch.Generator().manual_seed(0))
    clips = noise(SHAPE, SLICE, device, "float32")

    def at_longest(number: int) -> Callable[[], Any]:
        return lambda: classifier(clips[:number], torch.zeros(number, dtype=torch.long, device=device))

    def assigned(chosen: Tensor) -> Callable[[], Any]:
        return lambda: (classifier.assign(clips[: len(chosen)]), classifier(clips[: len(chosen)], chosen))

    classifier.assign(clips[:2])  # warm-up, like the next ones
    for grid in model.grids:
        runtime(clips[:2], grid)
    slices = []
    with progress("adaptive", -(-num_clips // SLICE)) as update_bar:
        for chosen in grid_index.split(SLICE):
            longest = seconds_of(at_longest(len(chosen)), device)
            mixed = seconds_of(assigned(chosen.to(device)), device)
            slices.append(Slice(len(chosen), prices.saving(chosen.tolist()), (longest,), (mixed,)))
            update_bar(advance=1)
    work = f"ReViT-TimeSformer-B 8x224, {values.dtype}: {num_clips} clips in memory with an even mix of lengths"
    return saving_row(work, 90, slices)


def files(
    values: argparse.Namespace, device: torch.device, changes: Sequence[str] = (), num_files: int = 12, **size: int
) -> dict[str, Any]:
    """Measure the share of the promised saving that the clock shows, from files to labels.

    changes: of the configuration, as on the command line.  size: of the files, see `make_clip`.
    """
    classifier, prices = untrained(*load_run(CONFIG, changes))
    num_clips, target = values.clips or 512, prices.grids[0] * PAPER[0] / PAPER[1]
    with tempfile.TemporaryDirectory() as folder:
        paths = [
            make_clip(Path(folder) / f"{seed}.mp4", seed, KEY_FRAMES[seed % 2], **size) for seed in range(num_files)
        ]
        serving = {"device": str(device), "dtype": values.dtype, "compile": "eager"}
        slices = stream(classifier, prices, paths, target, num_clips, values.runs, serving)
    work = (
        f"ReViT-TimeSformer 8x224, {values.dtype}, at the paper's cost ({PAPER[0]} of {PAPER[1]}): {num_clips} clips from "
        "files to labels, decoding included"
    )
    return saving_row(work, 95, slices)


def untrained(options: Any, modality: Modality[Any]) -> tuple[Classifier, Prices]:
    """Return a configuration's classifier with random weights, and what its grids cost."""
    model, assigner = build(options, modality)
    shape = modality.input_shape(options)
    networks = AdaptiveClassifier(model, assigner).eval()
    inputs, normalizer = modality.inputs(options), modality.normalizer(options)
    return Classifier(networks, inputs, normalizer, tuple(shape), ()), Prices.of(model, assigner, shape)


def stream(
    classifier: Classifier,
    prices: Prices,
    paths: Sequence[str],
    target: float,
    num_clips: int,
    num_slices: int,
    serving: Mapping[str, Any],
) -> list[Slice]:
    """Answer `num_clips` clips (the paths again and again) in slices, each at the longest grid and adaptively, in turns that
    change places. target: GMACs of a clip in the mean.

    Raises RuntimeError where a clip was not answered, or not at the grid that it was dealt.
    """
    grids, assigner = classifier.networks.grids, classifier.networks.assigner
    assert assigner is not None
    shares = shares_for(prices.grids, prices.assigner, target)
    sizes = [num_clips * (one + 1) // num_slices - num_clips * one // num_slices for one in range(num_slices)]
    warm_up = list(range(len(grids))) * WARM_UP
    dealt = [deal(shares, size, seed) for seed, size in enumerate(sizes)]
    mixed = DealtLengths(assigner, [*warm_up, *(length for one in dealt for length in one)])
    networks = AdaptiveClassifier(classifier.networks.model, mixed).eval()
    clips, slices = cycle(paths), []
    with Engine(classifier, grid=grids[0], **serving) as longest:
        same = {**serving, "max_batch": longest.plan.max_batch}
        with Engine(dataclasses.replace(classifier, networks=networks), **same) as adaptive:
            print(f"served: {adaptive.plan}", flush=True)
            _seconds(adaptive, list(islice(clips, len(warm_up))), [grids[one].name for one in warm_up])
            _seconds(longest, list(islice(clips, WARM_UP)), [grids[0].name] * WARM_UP)
            for number, grid_index in enumerate(dealt):
                chosen = list(islice(clips, len(grid_index)))
                both = {
                    "longest": (longest, [grids[0].name] * len(grid_index)),
                    "adaptive": (adaptive, [grids[index].name for index in grid_index]),
                }
                turns = list(both) if number % 2 == 0 else list(both)[::-1]
                took = {name: _seconds(both[name][0], chosen, both[name][1]) for name in turns}
                slices.append(Slice(len(grid_index), prices.saving(grid_index), **took))
                print(slices[-1].line(f"slice {number + 1}"), flush=True)
    return slices


def _seconds(engine: Engine, paths: Sequence[str], grids: Sequence[str]) -> tuple[float, float]:
    """Return seconds of the clock and of processors (the helpers' too, which end with the stream), from paths to answers."""
    begin = time.perf_counter(), sum(os.times()[:4])
    answers = list(engine.predict(paths))
    end = time.perf_counter(), sum(os.times()[:4])
    for answer, path, grid in zip(answers, paths, grids, strict=True):
        if answer.error is not None or (answer.path, answer.grid) != (path, grid):
            raise RuntimeError(f"{path} at {grid} became {answer}")
    return end[0] - begin[0], end[1] - begin[1]


PARTS = {"batch": batch, "adaptive": adaptive, "files": files}


@tool
def main(argv: Sequence[str] | None = None) -> int:
    example = "python benchmarks/inference.py adaptive --clips 64 --dtype bfloat16"
    settings = {"device": "auto", "dtype": "bfloat16", "rounds": 7, "runs": 5}
    arguments = arguments_of(__doc__, example, **settings)
    arguments.add_argument("what", nargs="?", choices=(*PARTS, "all"), default="all")
    arguments.add_argument("--clips", type=int, help="of the adaptive part (256) and of the files part (512)")
    values = parse(arguments, argv)
    if min(values.rounds, values.runs) < 1:
        arguments.error("--rounds and --runs must be at least 1")
    if values.clips is not None and values.clips < 2 * values.runs:
        arguments.error(f"--clips {values.clips}: at least two for each of {values.runs} --runs")
    device = pick_device(values.device)
    rows = [PARTS[what](values, device) for what in (PARTS if values.what == "all" else (values.what,))]
    return finish(__file__, argv, values, rows)


if __name__ == "__main__":
    sys.exit(main())
