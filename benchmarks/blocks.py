"""Show where the time of a transformer block goes on a CPU, part by part, and which copies a profile sees in it.

    python benchmarks/blocks.py [--blocks divided,deit] [--dtypes float32,bfloat16,int8] [--batches 1,4] [--rounds 5] [--json OUT]

divided  a block of TimeSformer-B 8x224: attention over time, attention over space, MLP
deit     a block of DeiT-S 224

Each as it is written ("plain") and as it is served ("packed", and int8 around bfloat16), in turns, under torch's profiler.
A part's time is that of its operators by themselves, without what they call; copies, joins and casts (most of them in
int8) count as "copies" wherever they stand. "of product rate" is the time that the part's multiply-accumulates would take
at the rate of a large matrix product of the same dtype, measured between the passes, over the part's time (int8: over the
rate of bfloat16, so more than 1 is possible). Weights are random; times are by the clock, of the median pass.
"""

from __future__ import annotations

import os
import statistics
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from copy import deepcopy
from itertools import product
from typing import Any

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler's own lines, two for every pass

import torch
from harness import CPU, arguments_of, chosen, finish
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile, record_function

from revit.common.models.grid import TokenGrid
from revit.common.models.layers.attention import Attention
from revit.common.models.layers.block import Block, LengthAwareLayerNorm, Mlp
from revit.common.models.reducer import TokenLayout
from revit.common.report.tables import print_table
from revit.common.serving.packed import pack, to_int8
from revit.common.system.command_line import parse, tool
from revit.common.system.device import DTYPES
from revit.common.timing.clock import Yardstick
from revit.video.models.timesformer import DividedBlock

GRID = TokenGrid(14, 14)
BLOCKS: dict[str, tuple[Callable[..., Block], int, int, int]] = {
    "divided": (DividedBlock, 768, 12, 8),
    "deit": (Block, 384, 6, 1),
}
"""Class, width, heads, frames."""
COPIES = ("aten::copy_", "aten::cat", "aten::clone", "aten::_to_copy")
"""Operators that only move numbers; contiguous() and to() end in them. Counted is `copy_` and `cat`, which do the work."""
REST = "additions"
MARK = "part: "
COLUMNS = {"part": "part", "ms": "ms", "of_block": "of the block", "of_product_rate": "of product rate"}
WARM_UP = 2


def part_of(name: str, module: nn.Module) -> str | None:
    """Return the part of a block that a module below it is, or None for one within another part."""
    if isinstance(module, LengthAwareLayerNorm):
        return "norms"
    if isinstance(module, Mlp):
        return "MLP"
    if isinstance(module, Attention):
        return "attention over time" if name.startswith("temporal") else "attention over space"
    last = name.split(".")[-1]
    return "qkv" if last == "qkv" else "projections" if last in ("proj", "temporal_fc") else None


class Marked:
    """A block whose parts show in a profile, and that counts the multiply-accumulates of each."""

    def __init__(self, block: nn.Module) -> None:
        self.block = block
        self.macs: Counter[str] = Counter()
        self.opened: list[Any] = []
        for name, module in block.named_modules():
            part = part_of(name, module)
            is_linear = isinstance(getattr(module, "out_features", None), int)
            if part is not None or is_linear:
                self._watch(module, part, is_linear)

    def _watch(self, module: nn.Module, part: str | None, is_linear: bool) -> None:
        def enter(layer: Any, inputs: tuple[Tensor, ...]) -> None:
            x = inputs[0]
            if is_linear:
                self.macs[part or "MLP"] += x.numel() * layer.out_features  # fc1, fc2: no part of their own
            elif isinstance(layer, Attention):
                self.macs[part or ""] += 2 * x[..., 0].numel() * x.shape[-2] * (layer.qkv.out_features // 3)
            if part is not None:
                self.opened.append(record_function(MARK + part))
                self.opened[-1].__enter__()

        module.register_forward_pre_hook(enter)
        if part is not None:
            module.register_forward_hook(lambda *_: self.opened.pop().__exit__(None, None, None))

    def __call__(self, tokens: Tensor, layout: TokenLayout) -> tuple[Counter[str], Counter[str]]:
        """Return microseconds by part, and the number of copies by operator, of one pass."""
        self.macs.clear()
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            self.block(tokens, layout)
        times: Counter[str] = Counter()
        copies: Counter[str] = Counter()
        for event in profiler.events():
            holder = event.cpu_parent
            while holder is not None and not holder.name.startswith(MARK):
                holder = holder.cpu_parent
            if event.name.startswith(MARK):
                continue
            part = REST if holder is None else holder.name.removeprefix(MARK)
            times["copies" if event.name in COPIES else part] += event.self_cpu_time_total
            if event.name in COPIES[:2]:
                copies[event.name.removeprefix("aten::")] += 1
        return times, copies


def ways(block: Block, dtype: str) -> dict[str, nn.Module]:
    """Return the block as it is and as it is served; of int8 only as it is served."""
    served = nn.ModuleList([block])
    if dtype == "int8":
        return {"packed": next(to_int8(served, torch.bfloat16).children())}
    packed = next(pack(served, DTYPES[dtype]).children())
    return {"plain": deepcopy(block).to(DTYPES[dtype]), "packed": packed}


@torch.inference_mode()
def measure_block(name: str, dtype: str, batch: int, rounds: int) -> list[dict[str, Any]]:
    """Return one row for each way and part, and one for the whole block, from `rounds` passes after two to warm up."""
    make, width, heads, num_frames = BLOCKS[name]
    layout = TokenLayout(GRID, num_prefix=1, num_positions=GRID.num_positions, num_frames=num_frames)
    kind = DTYPES.get(dtype, torch.bfloat16)
    tokens = torch.randn(batch, 1 + GRID.num_positions * num_frames, width).to(kind)
    yardstick = Yardstick(CPU, kind)
    marked = {way: Marked(network) for way, network in ways(make(width, heads, (GRID,)).eval(), dtype).items()}
    passes: dict[str, list[tuple[Counter[str], Counter[str]]]] = {way: [] for way in marked}
    for _ in range(WARM_UP + rounds):
        for way, one in marked.items():
            passes[way].append(one(tokens, layout))
        yardstick.measure()
    rows = []
    for way, found in passes.items():
        times = [{**of_pass, "block": of_pass.total()} for of_pass, _ in found[WARM_UP:]]
        macs = {**marked[way].macs, "block": marked[way].macs.total()}
        parts = [*sorted({part for one in times for part in one} - {"block"}), "block"]
        medians = {part: statistics.median(one.get(part, 0) for one in times) / 1e3 for part in parts}
        for part, ms in medians.items():
            ideal = 2e3 * macs.get(part, 0) / yardstick.operations_per_second
            row = {"block": name, "way": way, "dtype": dtype, "batch": batch, "part": part, "ms": ms}
            row |= {"of_block": ms / medians["block"], "of_product_rate": ideal / ms if ideal else None}
            rows.append(row | ({"copies": dict(found[-1][1])} if part == "block" else {}))
        those = rows[-len(parts) :]
        print(f"{name}, {dtype}, batch {batch}, {way}; copies in one pass: {those[-1]['copies']}")
        print_table("", COLUMNS, those)
    return rows


@tool
def main(argv: Sequence[str] | None = None) -> int:
    lists = {"blocks": "divided,deit", "dtypes": "float32,bfloat16,int8", "batches": "1,4"}
    example = "python benchmarks/blocks.py --dtypes bfloat16 --batches 1"
    arguments = arguments_of(__doc__, example, rounds=5, threads=torch.get_num_threads(), **lists)
    values = parse(arguments, argv)
    names, dtypes = chosen(values.blocks, BLOCKS), chosen(values.dtypes, ("float32", "bfloat16", "int8"))
    torch.set_num_threads(values.threads)
    cases = product(names, dtypes, map(int, values.batches.split(",")))
    rows = [row for case in cases for row in measure_block(*case, values.rounds)]
    return finish(__file__, argv, values, rows)


if __name__ == "__main__":
    sys.exit(main())
