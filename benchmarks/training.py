"""Compare a training step at k token grids (Algorithm 1 of ReViT) with the passes of the k plain models.

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

import torch
from harness import CONFIGS, arguments_of, finish, goal
from modalities import load_run

from revit.common.speed.training_speed import measure_training, training_cases
from revit.common.system.command_line import parse, tool
from revit.common.system.device import pick_device

TARGET = "at most 1.05 times the plain models' passes"
WORKS = {
    "DeiT-S 224": ("image/revit_deit_small.yaml", []),
    "TimeSformer, width 384, 1 block, 4x224": (
        "video/revit_timesformer_8x224.yaml",
        ["model.embed_dim=384", "model.num_heads=6", "model.depth=1", "data.frames.num_frames=4"],
    ),
}


@tool
def main(argv: Sequence[str] | None = None) -> int:
    example = "python benchmarks/training.py --runs 5 --json training.json"
    settings = {"device": "cpu", "dtype": "float32", "batch": 4, "runs": 5, "rounds": 3, "threads": 1}
    arguments = arguments_of(__doc__, example, **settings)
    arguments.add_argument("--only", choices=list(WORKS), action="append", help="this work alone")
    values = parse(arguments, argv)
    torch.set_num_threads(values.threads)
    device, rows = pick_device(values.device), []
    for work in values.only or WORKS:
        file, changes = WORKS[work]
        # One rank has all grids: replicas are not measured.
        options, modality = load_run(CONFIGS / file, [*changes, "parallel.replicas.ranks_per_group=1"])
        (case,) = training_cases(options, modality, device, [len(options.grids)], [values.dtype], [values.batch])
        measured = [measure_training(case, values.rounds) for _ in range(values.runs)]
        figures = [statistics.median(one.over_plain()) for one in measured]
        grids = ", ".join(map(str, options.grids))
        what = f"{work}, a step at {grids}, batch {values.batch}, {values.dtype}"
        rows.append(goal(what, TARGET, figures, "{:.3f}", " times"))
    return finish(__file__, argv, values, rows)


if __name__ == "__main__":
    sys.exit(main())
