"""Two promises about inference, measured: a batch of one is not slow, and saved multiply-accumulates are saved time.

    python benchmarks/inference.py [batch|adaptive] [--device cpu] [--dtype bfloat16] [--json OUT]

batch     TimeSformer-B 8x224: milliseconds a clip at batch 1 against batch 4, interleaved. To reach: at most 1.2 times.
adaptive  ReViT-TimeSformer-B (14x14, 10x10, 7x7), 256 clips with a mixed assignment, the assigner's time included,
          against the same clips at the longest grid, in alternating slices. To reach: 90 % of the saving that the
          GMACs promise.

Without a name, both: minutes to half an hour on two CPU cores (--clips makes it shorter). Weights are random; speed does
not depend on them.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch

from revit.common.cli import add_json, parse, parser, tool
from revit.common.engine.backend import DTYPES, pick_device
from revit.common.engine.log import progress
from revit.common.files import write_json
from revit.common.report.cases import noise
from revit.common.report.flops import count
from revit.common.report.throughput import Case, device_name, measure, seconds_of
from revit.common.tokens.adaptive import AdaptiveClassifier
from revit.common.tokens.assigner import TokenLengthAssigner
from revit.video.models.timesformer import TimeSformer

SHAPE = (1, 3, 8, 224, 224)
SLICE = 16
"""Clips that go through in one call: each slice is timed at the longest grid and adaptively, in turn."""


def batch_sizes(device: torch.device, dtype: str, rounds: int) -> dict[str, Any]:
    """Milliseconds of a clip at batch 1 and 4."""
    model = TimeSformer().to(device, DTYPES[dtype]).eval()
    cost = count(model, SHAPE).gmacs
    cases = []
    for batch in (1, 4):
        clips = noise(SHAPE, batch, device, dtype)
        cases.append(
            Case("ours", "timesformer_8x224", "14x14", dtype, False, batch, cost, _call(model, clips))
        )
    one, four = measure(cases, device, rounds)
    ratio = one.ms_p50 / (four.ms_p50 / 4)
    print(f"batch 1: {one.ms_p50:.0f} ms a clip, {one.fraction_of_peak:.0%} of the matrix-product rate")
    print(f"batch 4: {four.ms_p50 / 4:.0f} ms a clip, {four.fraction_of_peak:.0%} of the matrix-product rate")
    print(f"batch 1 takes {ratio:.2f} times as long a clip (to reach: at most 1.2)")
    return {"ms_batch_1": one.ms_p50, "ms_a_clip_batch_4": four.ms_p50 / 4, "ratio": ratio}


@torch.inference_mode()
def adaptive(device: torch.device, dtype: str, num_clips: int) -> dict[str, Any]:
    """The share of the promised saving that the clock shows."""
    model = TimeSformer(grids=(14, 10, 7)).to(device, DTYPES[dtype]).eval()
    assigner = TokenLengthAssigner(len(model.grids)).to(device, DTYPES[dtype]).eval()
    # Pieces in which the longest grid is at its fastest, so that the saving is not one of batch size.
    classifier = AdaptiveClassifier(model, assigner, max_batch=4 if device.type == "cpu" else SLICE)
    costs = torch.tensor([count(model, SHAPE, grid).gmacs for grid in model.grids])
    # An untrained assigner says the same for all, so its answer is replaced after it was waited for.
    lengths = torch.randint(len(model.grids), (num_clips,), generator=torch.Generator().manual_seed(0)).to(
        device
    )
    adaptive_cost = float(costs[lengths.cpu()].mean()) + count(assigner, SHAPE).gmacs
    promised = 1 - adaptive_cost / float(costs[0])

    clips = noise(SHAPE, SLICE, device, dtype)

    def at_longest(number: int) -> Callable[[], Any]:
        return lambda: classifier(clips[:number], torch.zeros(number, dtype=torch.long, device=device))

    def assigned(chosen: torch.Tensor) -> Callable[[], Any]:
        return lambda: (classifier.assign(clips[: len(chosen)]), classifier(clips[: len(chosen)], chosen))

    seconds: dict[str, list[float]] = {"longest": [], "adaptive": []}
    for grid in model.grids:  # warm-up
        model(clips[:2], grid)
    with progress("adaptive", -(-num_clips // SLICE)) as update_bar:
        for chosen in lengths.split(SLICE):
            seconds["longest"].append(seconds_of(at_longest(len(chosen)), device))
            seconds["adaptive"].append(seconds_of(assigned(chosen), device))
            update_bar(advance=1)
    realised = 1 - sum(seconds["adaptive"]) / sum(seconds["longest"])
    slices = [1 - a / b for a, b in zip(seconds["adaptive"], seconds["longest"])]
    print(f"longest grid: {1e3 * sum(seconds['longest']) / num_clips:.0f} ms a clip")
    print(f"adaptive:     {1e3 * sum(seconds['adaptive']) / num_clips:.0f} ms a clip")
    print(
        f"GMACs promise to save {promised:.1%}, the clock saved {realised:.1%} "
        f"(slices {min(slices):.1%} to {max(slices):.1%}, median {statistics.median(slices):.1%}): "
        f"{realised / promised:.0%} of the promise (to reach: 90 %)"
    )
    return {
        "promised": promised,
        "realised": realised,
        "share_of_promise": realised / promised,
        "seconds": seconds,
    }


def _call(model: torch.nn.Module, clips: torch.Tensor) -> Callable[[], Any]:
    return lambda: model(clips)


@tool
def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser(
        (__doc__ or "").split("\n")[0], "python benchmarks/inference.py adaptive --dtype bfloat16"
    )
    arguments.add_argument("what", nargs="?", choices=("batch", "adaptive", "all"), default="all")
    arguments.add_argument("--device", default="auto")
    arguments.add_argument("--dtype", choices=tuple(DTYPES), default="bfloat16")
    arguments.add_argument("--rounds", type=int, default=7, help="of the batch part (7)")
    arguments.add_argument("--clips", type=int, default=256, help="of the adaptive part (256)")
    add_json(arguments)
    values = parse(arguments, argv)
    device = pick_device(values.device)
    print(f"{device_name(device)}, {values.dtype}, torch {torch.__version__}")
    found: dict[str, Any] = {"device": device_name(device), "dtype": values.dtype, "torch": torch.__version__}
    if values.what in ("batch", "all"):
        found["batch"] = batch_sizes(device, values.dtype, values.rounds)
    if values.what in ("adaptive", "all"):
        found["adaptive"] = adaptive(device, values.dtype, values.clips)
    if values.json:
        write_json(values.json, found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
