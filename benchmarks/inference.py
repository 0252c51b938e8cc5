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
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
from harness import CONFIGS, arguments_of, finish, goal
from loading import make_clip
from modalities import load_run
from torch import Tensor, nn

from revit.common.costs.flops import Costs, count_costs
from revit.common.methods.revit.adaptive import AdaptiveClassifier, TokenLengthAssigner
from revit.common.modality.costs import build
from revit.common.modality.modality import Classifier, Modality
from revit.common.serving.engine import Engine
from revit.common.serving.runtime import Runtime
from revit.common.speed.served import served_cases
from revit.common.system.command_line import parse, tool
from revit.common.system.device import pick_device
from revit.common.system.log import progress
from revit.common.timing.cases import deal_grids, noise
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


def shares_for(costs: Costs, target: float) -> list[float]:
    """Return shares of the grids (longest first) with which an input costs `target` GMACs in the mean, the assigner included.

    The shorter grids are equally common: the paper does not say how its clips were spread. Raises ValueError for a target
    that no shares reach.
    """
    dearest, *others = costs.grids.values()
    shorter = sum(others) / len(others)
    longest = (target - costs.assigner - shorter) / (dearest - shorter)
    if not 0 <= longest <= 1:
        low, high = shorter + costs.assigner, dearest + costs.assigner
        raise ValueError(f"a mean cost of {target:g}: between {low:g} and {high:g} is possible")
    return [longest, *[(1 - longest) / len(others)] * len(others)]


def promised(costs: Costs, lengths: Sequence[int]) -> float:
    """Return what GMACs promise to save with these grid positions, as a share of all at the longest."""
    grids = list(costs.grids.values())
    return 1 - sum(grids[length] + costs.assigner for length in lengths) / (grids[0] * len(lengths))


@dataclass(frozen=True)
class Slice:
    """Some clips, answered both ways one after the other."""

    num_clips: int
    promised: float
    """Share of the multiply-accumulates that is saved."""
    longest: float
    """Seconds by the clock, with all clips at the longest grid."""
    adaptive: float
    """Seconds by the clock."""

    @property
    def saved(self) -> float:
        """Share of the seconds."""
        return 1 - self.adaptive / self.longest

    @property
    def line(self) -> str:
        """Both times and what was saved."""
        longest, adaptive = (1000 * seconds / self.num_clips for seconds in (self.longest, self.adaptive))
        return (
            f"{self.num_clips} clips: {longest:.0f} ms a clip at the longest grid, {adaptive:.0f} ms adaptive; promised to save "
            f"{self.promised:.1%}, saved {self.saved:.1%} by the clock ({self.saved / self.promised:.1%} of the promise)"
        )

    @property
    def lost(self) -> str:
        """Where the rest of the promise went."""
        longest, adaptive = (1000 * seconds / self.num_clips for seconds in (self.longest, self.adaptive))
        same = longest - (longest - adaptive) / self.promised
        return (
            f"a clip took {longest:.0f} ms at the longest grid and {adaptive:.0f} ms adaptively, as if {same:.0f} ms were the same at "
            "every length: reading and decoding, and the assigner, which multiply-accumulates do not tell"
        )


def together(slices: Sequence[Slice]) -> Slice:
    """Return all of them as one."""
    num_clips = sum(one.num_clips for one in slices)
    promised = sum(one.promised * one.num_clips for one in slices) / num_clips
    return Slice(num_clips, promised, sum(one.longest for one in slices), sum(one.adaptive for one in slices))


def saving_row(work: str, target: float, slices: Sequence[Slice]) -> dict[str, Any]:
    """Return the row of how much of the promised saving the clock shows, slice by slice."""
    shares, every = [100 * one.saved / one.promised for one in slices], together(slices)
    print(f"all clips, {every.line}")
    facts = {"promised": every.promised, "realised": every.saved, "why": every.lost}
    facts["seconds"] = [(one.longest, one.adaptive) for one in slices]
    unit = "% of the promised saving"
    return goal(work, f"{target:g} {unit}", shares, "{:.1f}", f" {unit}", **facts)


def batch(values: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Measure how many times as long a clip takes alone as in a batch of 4."""
    cases = served_cases("timesformer_8x224", TimeSformer(), None, SHAPE, device, [values.dtype], [1, 4])
    one, four = measure(list(cases), device, values.rounds)
    for row in (one, four):
        share = row["fraction_of_peak"]
        rate = "" if share is None else f", {share:.0%} of the matrix-product rate"
        print(f"batch {row['batch']}: {row['ms_p50'] / row['batch']:.0f} ms a clip{rate}")
    work = f"TimeSformer-B 8x224, {values.dtype}: a clip at batch 1 against batch 4"
    return goal(work, "at most 1.2 times", round_ratios(one, four), unit=" times")


@torch.inference_mode()
def adaptive(values: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Measure the share of the promised saving that the clock shows, of clips in memory."""
    # Pieces in which the longest grid is at its fastest, so that the saving is not one of batch size.
    max_batch = 4 if device.type == "cpu" else SLICE
    num_clips = values.clips or 256
    model = TimeSformer(grids=GRIDS)
    assigner = TokenLengthAssigner(len(model.grids))
    costs = count_costs(model, assigner, SHAPE)
    runtime = Runtime(model, device, values.dtype, max_batch=max_batch)
    classifier = AdaptiveClassifier(model, assigner, max_batch).served_by(runtime).to(device)
    grid_index = torch.randint(len(model.grids), (num_clips,), generator=torch.Generator().manual_seed(0))
    clips = noise(SHAPE, SLICE, device, "float32")

    def assigned(chosen: Tensor) -> None:
        classifier.assign(clips[: len(chosen)])
        classifier(clips[: len(chosen)], chosen)

    classifier.assign(clips[:2])  # warm-up, like the next ones
    for grid in model.grids:
        runtime(clips[:2], grid)
    slices = []
    with progress("adaptive", -(-num_clips // SLICE)) as update_bar:
        for chosen in grid_index.split(SLICE):
            all_longest = torch.zeros_like(chosen, device=device)
            longest = seconds_of(partial(classifier, clips[: len(chosen)], all_longest), device)
            mixed = seconds_of(partial(assigned, chosen.to(device)), device)
            slices.append(Slice(len(chosen), promised(costs, chosen.tolist()), longest, mixed))
            update_bar(advance=1)
    work = f"ReViT-TimeSformer-B 8x224, {values.dtype}: {num_clips} clips in memory with an even mix of lengths"
    return saving_row(work, 90, slices)


def files(
    values: argparse.Namespace, device: torch.device, changes: Sequence[str] = (), num_files: int = 12, **size: int
) -> dict[str, Any]:
    """Measure the share of the promised saving that the clock shows, from files to labels.

    changes: of the configuration, as on the command line.  size: of the files, see `make_clip`.
    """
    classifier, costs = untrained(*load_run(CONFIG, changes))
    num_clips, target = values.clips or 512, next(iter(costs.grids.values())) * PAPER[0] / PAPER[1]
    with tempfile.TemporaryDirectory() as folder:
        paths = [
            make_clip(Path(folder) / f"{seed}.mp4", seed, KEY_FRAMES[seed % 2], **size) for seed in range(num_files)
        ]
        serving = {"device": str(device), "dtype": values.dtype, "compile": "eager"}
        slices = stream(classifier, costs, paths, target, num_clips, values.runs, serving)
    work = (
        f"ReViT-TimeSformer 8x224, {values.dtype}, at the paper's cost ({PAPER[0]} of {PAPER[1]}): {num_clips} clips from "
        "files to labels, decoding included"
    )
    return saving_row(work, 95, slices)


def untrained(options: Any, modality: Modality[Any]) -> tuple[Classifier, Costs]:
    """Return a configuration's classifier with random weights, and what its grids cost."""
    model, assigner = build(options, modality)
    shape = tuple(modality.input_shape(options))
    networks = AdaptiveClassifier(model, assigner).eval()
    classifier = Classifier(networks, modality.inputs(options), modality.normalizer(options), shape, ())
    return classifier, count_costs(model, assigner, shape)


def stream(
    classifier: Classifier,
    costs: Costs,
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
    shares = shares_for(costs, target)
    sizes = [num_clips * (one + 1) // num_slices - num_clips * one // num_slices for one in range(num_slices)]
    warm_up = list(range(len(grids))) * WARM_UP
    dealt = [deal_grids(shares, size, seed).tolist() for seed, size in enumerate(sizes)]
    mixed = DealtLengths(assigner, [*warm_up, *(length for one in dealt for length in one)])
    networks = AdaptiveClassifier(classifier.networks.model, mixed).eval()
    clips, slices = cycle(paths), []
    with Engine(classifier, grid=grids[0], **serving) as longest:
        same = {**serving, "max_batch": longest.plan.max_batch}
        with Engine(dataclasses.replace(classifier, networks=networks), **same) as adaptive:
            print(f"served: {adaptive.plan}", flush=True)
            _seconds(adaptive, list(islice(clips, len(warm_up))), [grids[one].name for one in warm_up])
            _seconds(longest, list(islice(clips, WARM_UP)), [grids[0].name] * WARM_UP)
            for number, lengths in enumerate(dealt):
                chosen = list(islice(clips, len(lengths)))
                turns = [("longest", longest, [0] * len(lengths)), ("adaptive", adaptive, lengths)]
                took = {
                    name: _seconds(engine, chosen, [grids[length].name for length in wanted])
                    for name, engine, wanted in (turns if number % 2 == 0 else turns[::-1])
                }
                slices.append(Slice(len(lengths), promised(costs, lengths), **took))
                print(f"slice {number + 1}, {slices[-1].line}", flush=True)
    return slices


def _seconds(engine: Engine, paths: Sequence[str], grids: Sequence[str]) -> float:
    """Return the seconds from paths to answers."""
    begin = time.perf_counter()
    answers = list(engine.predict(paths))
    seconds = time.perf_counter() - begin
    for answer, path, grid in zip(answers, paths, grids, strict=True):
        if answer.error is not None or (answer.path, answer.grid) != (path, grid):
            raise RuntimeError(f"{path} at {grid} became {answer}")
    return seconds


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
