"""What dropping tokens saves in time: DynamicViT against its own backbone, in the same run.

    python benchmarks/methods.py [--device cpu] [--dtypes float32 bfloat16] [--batches 1 32] [--rounds 7] [--json OUT]

DeiT-S and DynamicViT-DeiT-S at a keeping ratio of 0.7, whose GMACs are 35 % fewer: pictures a second at each batch size and
dtype, in interleaved rounds, the ratio of every round, its median and spread. Then where the rest of those 35 % goes, by
timing four steps from one model to the other in interleaved rounds as well:

    blocks      the same blocks over 196, 137, 96 and 67 tokens, nothing decided: what fewer GMACs could save at best here
    scores      the predictors on top
    gather      and sorting and gathering the tokens that go on: DynamicViT itself

On a CPU the shares are of processor seconds, which others who use the cores disturb less than the clock; both speed-ups are
given. Weights are random; speed does not depend on them.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from revit.common.costs.flops import count
from revit.common.methods.dynamicvit.method import DynamicViT, DynamicViTOptions
from revit.common.methods.dynamicvit.reducer import DynamicViTReducer
from revit.common.models.decision import Decision, Shorter
from revit.common.models.layout import TokenLayout
from revit.common.models.reducer import Reducer
from revit.common.models.vit import ResizableTransformer
from revit.common.system.command_line import add_json, parse, parser, tool
from revit.common.system.device import DTYPES, pick_device
from revit.common.system.files import write_json
from revit.common.system.log import progress
from revit.common.system.machine import device_name
from revit.common.timing.cases import noise
from revit.common.timing.clock import seconds_of
from revit.image.models.variants import VARIANTS

SHAPE = (1, 3, 224, 224)


class FirstOnes(Reducer):
    """Drops as many tokens as the reducer inside, always the last ones; with `scored` it asks the predictors first."""

    def __init__(self, inside: DynamicViTReducer, scored: bool) -> None:
        super().__init__()
        self.inside = inside
        self.scored = scored

    def plan(self, number: int, patches: Tensor, layout: TokenLayout) -> Decision | None:
        if number not in self.inside.before_blocks:
            return None
        stage = self.inside.before_blocks.index(number)
        tokens = patches.squeeze(2)
        if self.scored:
            self.inside.score_predictor[stage](tokens, tokens.new_ones(tokens.shape[:2]))
        first = layout.decisions[0] if layout.decisions else None
        original = first.num_positions if isinstance(first, Shorter) else tokens.shape[1]
        return _Slice(int(original * self.inside.rates[stage]), tokens.shape[1])


class _Slice(Shorter):
    """The first `count` positions, which are taken without an index."""

    def __init__(self, count: int, num_positions: int) -> None:
        super().__init__(torch.empty(0, count, dtype=torch.long), num_positions)

    def apply(self, x: Tensor) -> Tensor:
        return x[:, : self.kept.shape[1]]


def models(keep_rate: float) -> dict[str, ResizableTransformer]:
    """The backbone, the steps between, and DynamicViT, all with the same weights."""
    found: dict[str, ResizableTransformer] = {}
    for name in ("deit_small", "blocks", "scores", "gather"):
        torch.manual_seed(0)
        model = VARIANTS["deit_small"].build()
        if name != "deit_small":
            DynamicViT(DynamicViTOptions(keep_rate=keep_rate)).attach(model)
            if name != "gather":
                assert isinstance(model.reducer, DynamicViTReducer)
                model.reducer = FirstOnes(model.reducer, scored=name == "scores")
        found[name] = model.eval()
    return found


@dataclass
class Times:
    """Of one call, round by round."""

    clock: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)
    """Seconds of all cores; on a GPU those of the clock."""


def rounds_of(
    calls: Mapping[str, Callable[[], Any]], device: torch.device, num_rounds: int, min_seconds: float = 0.3
) -> dict[str, Times]:
    """Seconds of one call of each. Every round begins with another one, and calls each often enough."""
    for call in calls.values():
        call()
    repeats = {name: max(1, round(min_seconds / seconds_of(call, device))) for name, call in calls.items()}
    times: dict[str, Times] = {name: Times() for name in calls}
    names = list(calls)
    for number in range(num_rounds):
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            start = time.process_time()
            clock = [seconds_of(calls[name], device) for _ in range(repeats[name])]
            spent = (time.process_time() - start) / repeats[name]
            times[name].clock.append(statistics.median(clock))
            times[name].processor.append(spent if device.type == "cpu" else times[name].clock[-1])
    return times


@torch.inference_mode()
def compare(
    device: torch.device, dtype: str, batch: int, num_rounds: int, keep_rate: float
) -> dict[str, Any]:
    """One dtype and batch size: pictures a second, the ratio, and what each step costs."""
    own = {name: model.to(device, DTYPES[dtype]) for name, model in models(keep_rate).items()}
    costs = {name: count(own[name], SHAPE).gmacs for name in ("deit_small", "gather")}
    promised = 1 - costs["gather"] / costs["deit_small"]
    pictures = noise(SHAPE, batch, device, dtype)
    calls = {name: (lambda model=model: model(pictures)) for name, model in own.items()}
    times = rounds_of(calls, device, num_rounds)
    typical = {name: statistics.median(own.clock) for name, own in times.items()}
    ratios = [a / b for a, b in zip(times["deit_small"].clock, times["gather"].clock)]
    spent = {name: own.processor for name, own in times.items()}
    by_processor = [a / b for a, b in zip(spent["deit_small"], spent["gather"])]

    def share(more: str, less: str) -> float:
        """Of the backbone's time, the difference between two models, within each round."""
        rounds = zip(spent[more], spent[less], spent["deit_small"])
        return statistics.median((a - b) / whole for a, b, whole in rounds)

    return {
        "dtype": dtype,
        "batch": batch,
        "gmacs": costs,
        "promised": promised,
        "per_second": {name: batch / typical[name] for name in ("deit_small", "gather")},
        "speed_up": statistics.median(ratios),
        "speed_up_range": [min(ratios), max(ratios)],
        "speed_up_processor": statistics.median(by_processor),
        "speed_up_processor_range": [min(by_processor), max(by_processor)],
        "saved": share("deit_small", "gather"),
        "saved_by_shorter_blocks": share("deit_small", "blocks"),
        "cost_of_predictors": share("scores", "blocks"),
        "cost_of_sorting_and_gathering": share("gather", "scores"),
        "seconds": {name: asdict(own) for name, own in times.items()},
    }


def show(found: Mapping[str, Any]) -> None:
    def ratio(key: str) -> str:
        low, high = found[f"{key}_range"]
        return f"{found[key]:.2f} ({low:.2f} to {high:.2f})"

    print(
        f"{found['dtype']}, batch {found['batch']}: DeiT-S {found['per_second']['deit_small']:.1f}/s, DynamicViT "
        f"{found['per_second']['gather']:.1f}/s; times as fast by the clock {ratio('speed_up')}, by the processor "
        f"{ratio('speed_up_processor')}\n"
        f"  GMACs promise to save {found['promised']:.1%}, saved {found['saved']:.1%}: shorter blocks save "
        f"{found['saved_by_shorter_blocks']:.1%}, predictors cost {found['cost_of_predictors']:.1%}, sorting and gathering "
        f"{found['cost_of_sorting_and_gathering']:.1%}"
    )


@tool
def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser(
        (__doc__ or "").split("\n")[0], "python benchmarks/methods.py --dtypes float32 --batches 1"
    )
    arguments.add_argument("--device", default="auto")
    arguments.add_argument("--dtypes", nargs="+", choices=tuple(DTYPES), default=["float32", "bfloat16"])
    arguments.add_argument("--batches", nargs="+", type=int, default=[1, 32])
    arguments.add_argument("--rounds", type=int, default=7)
    arguments.add_argument("--keep-rate", type=float, default=0.7)
    add_json(arguments)
    values = parse(arguments, argv)
    device = pick_device(values.device)
    print(f"{device_name(device)}, torch {torch.__version__}, keeping ratio {values.keep_rate:g}")
    found: list[dict[str, Any]] = []
    pairs = [(dtype, batch) for dtype in values.dtypes for batch in values.batches]
    with progress("methods", len(pairs)) as update_bar:
        for dtype, batch in pairs:
            found.append(compare(device, dtype, batch, values.rounds, values.keep_rate))
            update_bar(advance=1)
    for one in found:
        show(one)
    if values.json:
        write_json(
            values.json, {"device": device_name(device), "torch": torch.__version__, "dynamicvit": found}
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
