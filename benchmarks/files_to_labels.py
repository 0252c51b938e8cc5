"""Clips from files to labels by the inference engine, at the longest token grid and adaptively: the part `files` of inference.py.

An assigner that was not trained says the same of all clips, so its answer is replaced after it was computed: lengths are dealt
out so that a clip costs what it does in the paper, in the mean and with the assigner.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
from loading import make_clip
from torch import Tensor, nn

from revit.common.costs.flops import count
from revit.common.methods.revit.adaptive import AdaptiveClassifier
from revit.common.modality.classifier import Classifier
from revit.common.modality.costs import build
from revit.common.modality.modality import Modality
from revit.common.serving.engine import Engine
from revit.common.serving.options import Serving

KEY_FRAMES = (30, 250)
"""Frames from one key frame to the next, of the files in turn: files made for seeking, and x264's default."""
WARM_UP = 2
"""Clips at every grid before anything is timed."""


class DealtLengths(nn.Module):
    """In the place of an assigner: runs it, and gives each input the next of `lengths` (grid positions) instead of its answer;
    after the last one the first again."""

    def __init__(self, assigner: nn.Module, lengths: Sequence[int]) -> None:
        super().__init__()
        self.assigner = assigner
        self.lengths = tuple(lengths)
        self.num_seen = 0

    def forward(self, inputs: Tensor) -> Tensor:
        """Normalised inputs (B, C, ...) -> logits (B, k)"""
        logits = self.assigner(inputs)
        places = range(self.num_seen, self.num_seen + len(inputs))
        self.num_seen += len(inputs)
        dealt = torch.tensor([self.lengths[place % len(self.lengths)] for place in places])
        return nn.functional.one_hot(dealt.to(logits.device), logits.shape[1]).to(logits.dtype)


def shares_for(costs: Sequence[float], assigner: float, target: float) -> list[float]:
    """Shares of the grids (their costs, longest first) with which an input costs `target` in the mean, the assigner included. The
    shorter grids are equally common: the paper does not say how its clips were spread.

    Raises ValueError for a target that no shares reach.
    """
    shorter = sum(costs[1:]) / (len(costs) - 1)
    longest = (target - assigner - shorter) / (costs[0] - shorter)
    if not 0 <= longest <= 1:
        raise ValueError(
            f"a mean cost of {target:g}: between {shorter + assigner:g} and {costs[0] + assigner:g} is possible"
        )
    return [longest, *[(1 - longest) / (len(costs) - 1)] * (len(costs) - 1)]


def deal(shares: Sequence[float], number: int, seed: int) -> list[int]:
    """Grid positions of `number` inputs in shares as near as whole inputs come to them, shuffled."""
    exact = [number * share for share in shares]
    counts = [int(one) for one in exact]
    for position in sorted(range(len(shares)), key=lambda one: counts[one] - exact[one])[
        : number - sum(counts)
    ]:
        counts[position] += 1
    lengths = [position for position, one in enumerate(counts) for _ in range(one)]
    order = torch.randperm(number, generator=torch.Generator().manual_seed(seed)).tolist()
    return [lengths[place] for place in order]


@dataclass(frozen=True)
class Prices:
    """GMACs of an input."""

    grids: tuple[float, ...]
    """Longest first."""
    assigner: float

    def saving(self, lengths: Sequence[int]) -> float:
        """What GMACs promise to save with these grid positions, as a share of all at the longest."""
        spent = sum(self.grids[length] + self.assigner for length in lengths)
        return 1 - spent / (self.grids[0] * len(lengths))


@dataclass(frozen=True)
class Slice:
    """Some clips, streamed both ways one after the other."""

    num_clips: int
    promised: float
    """Share of the multiply-accumulates that is saved."""
    longest: tuple[float, float]
    """Seconds by the clock, and of processor time of this process and its decoding helpers."""
    adaptive: tuple[float, float]

    def saved(self, column: int = 0) -> float:
        """Share of the seconds that was saved; column 1: of processor time."""
        return 1 - self.adaptive[column] / self.longest[column]


def together(slices: Sequence[Slice]) -> Slice:
    """All of them as one."""
    num_clips = sum(one.num_clips for one in slices)
    promised = sum(one.promised * one.num_clips for one in slices) / num_clips
    clock, processor = (
        (sum(one.longest[column] for one in slices), sum(one.adaptive[column] for one in slices))
        for column in (0, 1)
    )
    return Slice(num_clips, promised, (clock[0], processor[0]), (clock[1], processor[1]))


def lost(every: Slice) -> str:
    """Where the rest of the promise went, in words."""
    longest, adaptive = (1000 * seconds[0] / every.num_clips for seconds in (every.longest, every.adaptive))
    same = longest - (longest - adaptive) / every.promised
    return (
        f"a clip took {longest:.0f} ms at the longest grid and {adaptive:.0f} ms adaptively, as if {same:.0f} ms were the same at every "
        "length: reading and decoding, and the assigner, which multiply-accumulates do not tell"
    )


def make_files(folder: Path, number: int, **size: int) -> list[str]:
    """Different H.264 files of 10 s, 340x256 pixels; `size`: other arguments of `make_clip`."""
    return [
        make_clip(folder / f"{seed}.mp4", seed, KEY_FRAMES[seed % len(KEY_FRAMES)], **size)
        for seed in range(number)
    ]


def untrained(options: Any, modality: Modality[Any]) -> tuple[Classifier, Prices]:
    """A configuration's classifier with random weights, and what its grids cost."""
    model, assigner = build(options, modality)
    shape = modality.input_shape(options)
    prices = Prices(
        tuple(count(model, shape, grid).gmacs for grid in model.grids),
        count(assigner, shape).gmacs if assigner is not None else 0.0,
    )
    networks = AdaptiveClassifier(model, assigner).eval()
    return Classifier(
        networks, modality.inputs(options), modality.normalizer(options), tuple(shape), ()
    ), prices


def stream(
    classifier: Classifier,
    prices: Prices,
    paths: Sequence[str],
    target: float,
    num_clips: int,
    num_slices: int,
    serving: Serving,
) -> list[Slice]:
    """`num_clips` clips (the paths again and again) in slices, each at the longest grid and adaptively, in turns that change
    places. target: what a clip costs in the mean.

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
    with Engine(classifier, serving, grid=grids[0]) as longest:
        same = dataclasses.replace(serving, max_batch=longest.plan.max_batch)
        with Engine(dataclasses.replace(classifier, networks=networks), same) as adaptive:
            print(f"served: {adaptive.plan}", flush=True)
            _seconds(adaptive, list(islice(clips, len(warm_up))), [grids[one].name for one in warm_up])
            _seconds(longest, list(islice(clips, WARM_UP)), [grids[0].name] * WARM_UP)
            for number, lengths in enumerate(dealt):
                chosen = list(islice(clips, len(lengths)))
                both = {
                    "longest": (longest, [grids[0].name] * len(lengths)),
                    "adaptive": (adaptive, [grids[length].name for length in lengths]),
                }
                turns = list(both) if number % 2 == 0 else list(both)[::-1]
                took = {name: _seconds(both[name][0], chosen, both[name][1]) for name in turns}
                slices.append(Slice(len(lengths), prices.saving(lengths), took["longest"], took["adaptive"]))
                print(_line(f"slice {number + 1}", slices[-1]), flush=True)
    print(_line("all clips", together(slices)))
    return slices


def _line(name: str, one: Slice) -> str:
    milliseconds = [1000 * seconds / one.num_clips for seconds in (one.longest[0], one.adaptive[0])]
    return (
        f"{name}, {one.num_clips} clips: {milliseconds[0]:.0f} ms a clip at the longest grid, {milliseconds[1]:.0f} ms adaptive; "
        f"promised to save {one.promised:.1%}, saved {one.saved():.1%} by the clock ({one.saved() / one.promised:.1%} of the "
        f"promise), {one.saved(1):.1%} by processor time ({one.saved(1) / one.promised:.1%})"
    )


def _seconds(engine: Engine, paths: Sequence[str], grids: Sequence[str]) -> tuple[float, float]:
    """Of the clock and of processors, from paths to answers."""
    begin = time.perf_counter(), _processor_seconds()
    answers = list(engine.predict(paths))
    end = time.perf_counter(), _processor_seconds()
    for answer, path, grid in zip(answers, paths, grids, strict=True):
        if answer.error is not None or (answer.path, answer.grid) != (path, grid):
            raise RuntimeError(f"{path} at {grid} became {answer}")
    return end[0] - begin[0], end[1] - begin[1]


def _processor_seconds() -> float:
    """Of this process and of those it waited for: the helpers of a stream end with it."""
    return sum(os.times()[:4])
