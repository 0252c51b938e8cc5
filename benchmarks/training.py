"""What Algorithm 1 of ReViT costs beyond its passes: a step at k token grids against the k plain models.

    python benchmarks/training.py [--runs 5] [--rounds 3] [--batch 4] [--threads 1] [--device cpu] [--json OUT]

A whole step (forward and backward passes at all grids, clipping, optimiser) over the sum of the forward and backward
passes of a plain model for each grid alone, without any update, in interleaved rounds. To reach: at most 1.05. Each run is
a process of its own; its figure is the median of its rounds, by processor time on a CPU, which others who use the cores
disturb less than the clock. Given are the median of the runs, the smallest and the largest. Weights are random.

    DeiT-S 224      configs/image/revit_deit_small.yaml at 14x14, 10x10 and 7x7
    TimeSformer     configs/video/revit_timesformer_8x224.yaml at the same grids, of ViT-S's width, 1 block and 4 frames
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))

from modalities import load_run

from revit.common.speed.training_rows import over_plain
from revit.common.speed.training_speed import measure_training, training_cases
from revit.common.system.command_line import add_json, parse, parser, tool
from revit.common.system.device import pick_device
from revit.common.system.files import write_json

CONFIGS = Path(__file__).parents[1] / "configs"
TARGET = 1.05
WORKS = {
    "DeiT-S 224": ("image/revit_deit_small.yaml", []),
    "TimeSformer, width 384, 1 block, 4x224": (
        "video/revit_timesformer_8x224.yaml",
        ["model.embed_dim=384", "model.num_heads=6", "model.depth=1", "data.frames.num_frames=4"],
    ),
}


def measure_work(
    work: str, device: torch.device, dtype: str, batch: int, runs: int, rounds: int
) -> tuple[list[float], str, list[str]]:
    """The figure of every run, the machine, and the token grids."""
    file, changes = WORKS[work]
    # One rank has all grids: replicas are not measured.
    options, modality = load_run(CONFIGS / file, [*changes, "parallel.replicas.ranks_per_group=1"])
    (case,) = training_cases(options, modality, device, [len(options.grids)], [dtype], [batch])
    figures = []
    for _ in range(runs):
        measured = measure_training(case, rounds)
        figures.append(statistics.median(over_plain(measured, device.type == "cpu")))
        print(f"{work}: {figures[-1]:.3f} times the sum of the plain models", flush=True)
    return figures, measured.device, [str(grid) for grid in case.grids]


@tool
def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser(__doc__ or "", "python benchmarks/training.py --runs 5 --json training.json")
    add_json(arguments)
    arguments.add_argument("--device", default="cpu")
    arguments.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    arguments.add_argument("--batch", type=int, default=4)
    arguments.add_argument("--runs", type=int, default=5)
    arguments.add_argument("--rounds", type=int, default=3, help="of each run, after two to warm up")
    arguments.add_argument("--threads", type=int, default=1)
    arguments.add_argument("--only", choices=list(WORKS), action="append", help="this work alone")
    values = parse(arguments, argv)
    torch.set_num_threads(values.threads)
    device = pick_device(values.device)
    given = f"--runs {values.runs} --rounds {values.rounds} --batch {values.batch} --dtype {values.dtype}"
    rows: list[dict[str, Any]] = []
    for work in values.only or WORKS:
        figures, machine, grids = measure_work(
            work, device, values.dtype, values.batch, values.runs, values.rounds
        )
        rows.append(
            {
                "work": f"{work}, a step at {', '.join(grids)}, batch {values.batch}, {values.dtype}",
                "target": f"at most {TARGET} times the plain models' passes",
                "measured": statistics.median(figures),
                "spread": [min(figures), max(figures)],
                "runs": figures,
                "command": f"python benchmarks/training.py {given} --threads {values.threads} --device {values.device}",
                "machine": machine,
            }
        )
    for row in rows:
        low, high = row["spread"]
        print(f"{row['work']}: {row['measured']:.3f} ({low:.3f} to {high:.3f}); to reach: {row['target']}")
    if values.json:
        write_json(values.json, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
