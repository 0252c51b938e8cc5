"""What Token Expansion saves of a training step, and what its choice of tokens costs.

    python benchmarks/toe.py [--model deit_small] [--first-rate 0.5] [--batch 4] [--rounds 7] [--device cpu] [--json OUT]

A step is forward, backward and update at 224 pixels. In every round all tokens and each stage take a turn, so that whatever
else the machine does falls on all alike; the choice is timed by itself on the tokens that block 1 puts out. To reach, at r1
0.5: 1.24 times faster than all tokens, averaged over the three stages, and less than 3 % of a step for the choice. On a CPU
processor seconds are given beside those of the clock: where others use the cores, only they say what a step costs.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from revit.common.methods.toe.method import ToE, ToEOptions
from revit.common.methods.toe.reducer import TokenExpansion
from revit.common.models.layout import TokenLayout
from revit.common.system.command_line import add_json, parse, parser, tool
from revit.common.system.device import DTYPES, autocast, pick_device
from revit.common.system.files import write_json
from revit.common.system.log import progress
from revit.common.system.machine import device_name
from revit.common.timing.clock import seconds_of
from revit.image.models.variants import VARIANTS

WARM_UP = 1
"""Untimed rounds."""


def steps(
    name: str, first_rate: float, batch: int, device: torch.device, dtype: str
) -> dict[str, Callable[[], Any]]:
    """Name -> what is timed: a step with all tokens, a step at each stage, and the choice of each stage."""
    torch.manual_seed(0)
    model = VARIANTS[name].build(img_size=224, num_classes=1000).to(device).train()
    ToE(ToEOptions(first_rate=first_rate)).attach(model)
    reducer = model.reducer
    assert isinstance(reducer, TokenExpansion)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    images, targets = torch.randn(batch, 3, 224, 224, device=device), torch.arange(batch, device=device)
    grid = model.grids[0]
    layout = TokenLayout(grid, num_prefix=1, num_positions=grid.num_positions)
    seen: list[torch.Tensor] = []
    handle = model.blocks[reducer.before_block - 1].register_forward_hook(
        lambda *facts: seen.append(facts[2])
    )
    with torch.no_grad():
        model(images)
    handle.remove()
    patches = seen[0][:, 1:].unsqueeze(2)  # (B, S, 1, D)

    def step(stage: int | None) -> None:
        model.reducer = None if stage is None else reducer
        reducer.stage = stage or 1
        with autocast(device, dtype):
            loss = F.cross_entropy(model(images).logits, targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def choose(stage: int) -> None:
        reducer.stage = stage
        reducer.plan(reducer.before_block, patches, layout)

    stages = range(1, reducer.growth.num_stages + 1)
    timed: dict[str, Callable[[], Any]] = {"all tokens": lambda: step(None)}
    timed |= {f"stage {stage}": lambda stage=stage: step(stage) for stage in stages}
    return timed | {f"choice {stage}": lambda stage=stage: choose(stage) for stage in stages}


def measure(
    timed: dict[str, Callable[[], Any]], device: torch.device, rounds: int
) -> dict[str, list[tuple[float, float]]]:
    """Name -> for every round, seconds and processor seconds."""
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in timed}
    with progress("toe", rounds + WARM_UP) as update_bar:
        for number in range(rounds + WARM_UP):
            for name, work in timed.items():
                worked = time.process_time()
                spent = seconds_of(work, device)
                if number >= WARM_UP:
                    seconds[name].append((spent, time.process_time() - worked))
            update_bar(advance=1)
    return seconds


def findings(seconds: dict[str, list[tuple[float, float]]], kind: int) -> dict[str, Any]:
    """By the clock (0) or by processor time (1): medians, the gain of every stage round by round, and the choice's share."""
    times = {name: [pair[kind] for pair in pairs] for name, pairs in seconds.items()}
    whole = times["all tokens"]
    stages = [times[name] for name in times if name.startswith("stage")]
    choices = [times[name] for name in times if name.startswith("choice")]
    # A training has as many steps of every stage, so it is their mean that counts.
    gains = [len(stages) * a / sum(each) for a, *each in zip(whole, *stages)]
    shares = [statistics.median(c) / statistics.median(s) for c, s in zip(choices, stages)]
    return {
        "milliseconds": {name: 1e3 * statistics.median(values) for name, values in times.items()},
        "spread": {name: [1e3 * min(values), 1e3 * max(values)] for name, values in times.items()},
        "gain_by_stage": [statistics.median(a / b for a, b in zip(whole, stage)) for stage in stages],
        "gain": statistics.median(gains),
        "gain_of_medians": len(stages) * statistics.median(whole) / sum(map(statistics.median, stages)),
        "gain_spread": [min(gains), max(gains)],
        "share_of_choice": shares,
    }


def say(what: str, found: dict[str, Any]) -> None:
    print(what)
    for name, value in found["milliseconds"].items():
        low, high = found["spread"][name]
        print(f"  {name:11} {value:9.1f} ms  ({low:.1f} to {high:.1f})")
    by_stage = ", ".join(f"{gain:.2f}" for gain in found["gain_by_stage"])
    low, high = found["gain_spread"]
    print(
        f"  {found['gain']:.2f} times faster over the stages (rounds {low:.2f} to {high:.2f}; each stage {by_stage}; of the "
        f"medians {found['gain_of_medians']:.2f}; to reach: 1.24)"
    )
    print(f"  the choice takes at most {max(found['share_of_choice']):.2%} of its step (to reach: under 3 %)")


@tool
def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser((__doc__ or "").split("\n")[0], "python benchmarks/toe.py --batch 8")
    arguments.add_argument("--model", choices=sorted(VARIANTS), default="deit_small")
    arguments.add_argument("--first-rate", type=float, default=0.5, help="r1 (0.5)")
    arguments.add_argument("--batch", type=int, default=4, help="pictures in a step (4)")
    arguments.add_argument("--rounds", type=int, default=7)
    arguments.add_argument("--device", default="auto")
    arguments.add_argument("--dtype", choices=tuple(DTYPES), default="float32")
    add_json(arguments)
    values = parse(arguments, argv)
    device = pick_device(values.device)
    threads = f", {torch.get_num_threads()} threads" if device.type == "cpu" else ""
    print(f"{values.model} at 224, r1 {values.first_rate:g}, batch {values.batch}, {values.dtype}")
    print(f"{device_name(device)}{threads}, torch {torch.__version__}")
    timed = steps(values.model, values.first_rate, values.batch, device, values.dtype)
    seconds = measure(timed, device, values.rounds)
    kinds = {"clock": 0, "processor time": 1} if device.type == "cpu" else {"clock": 0}
    found = {kind: findings(seconds, number) for kind, number in kinds.items()}
    for kind, result in found.items():
        say(kind, result)
    if values.json:
        write_json(
            values.json, {"device": device_name(device), "torch": torch.__version__, **vars(values), **found}
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
