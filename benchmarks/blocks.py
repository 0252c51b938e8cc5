"""Where the time of a transformer block goes on a CPU, part by part, and which copies a profile sees in it.

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
from typing import Any

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler's own lines, two for every pass

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile, record_function

from revit.common.models.grid import TokenGrid
from revit.common.models.layers.attention import Attention
from revit.common.models.layers.block import Block, Mlp
from revit.common.models.layers.norm import LengthAwareLayerNorm
from revit.common.models.layout import TokenLayout
from revit.common.report.tables import print_table
from revit.common.serving.int8 import to_int8
from revit.common.serving.packed import pack
from revit.common.system.command_line import add_json, parse, parser, tool
from revit.common.system.device import DTYPES
from revit.common.system.errors import UserError
from revit.common.system.files import write_json
from revit.common.system.machine import device_name
from revit.common.timing.clock import Yardstick
from revit.video.models.blocks import DividedBlock

CPU = torch.device("cpu")
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


def part_of(name: str, module: nn.Module) -> str | None:
    """The part of a block that a module below it is, or None for one within another part."""
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
        for name, module in block.named_modules():
            part = part_of(name, module)
            if part is not None:
                self._mark(module, part)
            if isinstance(getattr(module, "out_features", None), int):
                owner = part or "MLP"  # fc1 and fc2 have no part of their own
                module.register_forward_pre_hook(
                    lambda layer, x, owner=owner: self._linear(layer, x[0], owner)
                )
            elif isinstance(module, Attention):
                module.register_forward_pre_hook(
                    lambda layer, x, owner=part: self._attention(layer, x[0], owner)
                )

    def _mark(self, module: nn.Module, part: str) -> None:
        opened: list[Any] = []

        def enter(*_: Any) -> None:
            opened.append(record_function(MARK + part))
            opened[-1].__enter__()

        module.register_forward_pre_hook(enter)
        module.register_forward_hook(lambda *_: opened.pop().__exit__(None, None, None))

    def _linear(self, layer: Any, x: Tensor, part: str) -> None:
        self.macs[part] += x.numel() * layer.out_features

    def _attention(self, layer: Any, x: Tensor, part: str) -> None:
        self.macs[part] += 2 * x[..., 0].numel() * x.shape[-2] * (layer.qkv.out_features // 3)

    def __call__(self, tokens: Tensor, layout: TokenLayout) -> tuple[Counter[str], Counter[str]]:
        """Microseconds by part, and the number of copies by operator, of one pass."""
        self.macs.clear()
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            self.block(tokens, layout)
        times: Counter[str] = Counter()
        copies: Counter[str] = Counter()
        for event in profiler.events():
            if event.name.startswith(MARK):
                continue
            holder = event
            while holder is not None and not holder.name.startswith(MARK):
                holder = holder.cpu_parent
            part = "copies" if event.name in COPIES else REST
            if part == REST and holder is not None:
                part = holder.name.removeprefix(MARK)
            times[part] += event.self_cpu_time_total
            if event.name in COPIES[:2]:
                copies[event.name.removeprefix("aten::")] += 1
        return times, copies


def ways(block: Block, dtype: str) -> dict[str, nn.Module]:
    """The block as it is and as it is served; of int8 only as it is served."""
    served = nn.ModuleList([block])
    if dtype == "int8":
        return {"packed": next(to_int8(served, torch.bfloat16).children())}
    return {
        "plain": deepcopy(block).to(DTYPES[dtype]),
        "packed": next(pack(served, DTYPES[dtype]).children()),
    }


@torch.inference_mode()
def measure_block(
    name: str, block: Block, width: int, num_frames: int, dtype: str, batch: int, rounds: int
) -> Any:
    """One row for each way and part, and one for the whole block, from `rounds` passes after two to warm up."""
    layout = TokenLayout(GRID, num_prefix=1, num_positions=GRID.num_positions, num_frames=num_frames)
    kind = torch.bfloat16 if dtype == "int8" else DTYPES[dtype]
    tokens = torch.randn(batch, 1 + GRID.num_positions * num_frames, width).to(kind)
    yardstick = Yardstick(CPU, kind)
    marked = {way: Marked(network) for way, network in ways(block, dtype).items()}
    passes: dict[str, list[Counter[str]]] = {way: [] for way in marked}
    copies = {}
    for number in range(2 + rounds):
        for way, one in marked.items():
            times, copies[way] = one(tokens, layout)
            if number >= 2:
                passes[way].append(times)
        yardstick.measure()
    rows = []
    for way, found in passes.items():
        macs = {**marked[way].macs, "block": sum(marked[way].macs.values())}
        parts = sorted(set().union(*found))
        medians = {part: statistics.median(times[part] for times in found) / 1e3 for part in parts}
        medians["block"] = statistics.median(times.total() for times in found) / 1e3
        for part, ms in medians.items():
            ideal = 2e3 * macs.get(part, 0) / yardstick.operations_per_second
            rows.append(
                {
                    **{"block": name, "way": way, "dtype": dtype, "batch": batch, "part": part, "ms": ms},
                    "of_block": ms / medians["block"],
                    "of_product_rate": ideal / ms if ideal else None,
                    **({"copies": dict(copies[way])} if part == "block" else {}),
                }
            )
    return rows


def chosen(given: str, known: Sequence[str]) -> list[str]:
    """The names between commas. Raises UserError for one that is not known."""
    names = given.split(",")
    if strangers := [name for name in names if name not in known]:
        raise UserError(f"{', '.join(strangers)}: not known; choose from {', '.join(known)}")
    return names


@tool
def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser(__doc__ or "", "python benchmarks/blocks.py --dtypes bfloat16 --batches 1")
    add_json(arguments)
    arguments.add_argument("--blocks", default="divided,deit")
    arguments.add_argument("--dtypes", default="float32,bfloat16,int8")
    arguments.add_argument("--batches", default="1,4")
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--threads", type=int, default=torch.get_num_threads())
    values = parse(arguments, argv)
    names = chosen(values.blocks, list(BLOCKS))
    dtypes = chosen(values.dtypes, ["float32", "bfloat16", "int8"])
    torch.set_num_threads(values.threads)
    machine = f"{device_name(CPU)}, torch {torch.__version__}"
    rows = []
    for name in names:
        make, width, heads, num_frames = BLOCKS[name]
        block = make(width, heads, (GRID,)).eval()
        for dtype in dtypes:
            for batch in map(int, values.batches.split(",")):
                found = measure_block(name, block, width, num_frames, dtype, batch, values.rounds)
                for way in dict.fromkeys(row["way"] for row in found):
                    those = [row for row in found if row["way"] == way]
                    print(f"{name}, {dtype}, batch {batch}, {way}; copies in one pass: {those[-1]['copies']}")
                    print_table("", COLUMNS, those)
                rows += [{**row, "machine": machine} for row in found]
    if values.json:
        write_json(values.json, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
