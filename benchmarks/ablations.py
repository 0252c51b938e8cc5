"""Run the rows of ReViT's Tables 2 and 3 on the demo's digits, beside the paper's ImageNet numbers.

    python benchmarks/ablations.py [ROW ...] [--seeds 2] [--runs runs/digits] [--json OUT]

A row is a configuration of `configs/image`. What it changes of the method (grids, patch embedding, positions,
distillation) is laid over `configs/image/demo.yaml`, which brings data, sizes and training; token grids are translated by
their rank: 14x14, 10x10, 7x7 are the digits' 6x6, 4x4, 3x3, with half the patch sizes. So the columns of the two tasks
correspond, and their numbers do not: one is ten digits on small pictures, the other a thousand classes.
Training is about two fifths of the demo's, so that eight rows fit into half an hour.

Without a name, all rows, minutes a row and seed on one CPU core. Finished trainings are not done again, interrupted ones
go on.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness import CONFIGS, arguments_of, check_rows, finish
from modalities import load_run
from tables import markdown

from revit.common.modality.modality import Modality
from revit.common.system.command_line import parse, tool
from revit.common.training.recipe import Recipe

GRIDS = {"14x14": "6x6", "10x10": "4x4", "7x7": "3x3"}
"""Of the paper -> of the digits."""
ROWS = {
    "deit_small": ("one grid alone: 14x14", "deit_small.yaml", (79.85, None, None)),
    "deit_small_10x10": ("one grid alone: 10x10", "ablations/deit_small_10x10.yaml", (None, 74.68, None)),
    "deit_small_7x7": ("one grid alone: 7x7", "ablations/deit_small_7x7.yaml", (None, None, 72.41)),
    "no_distillation": ("without self-distillation", "ablations/no_distillation.yaml", (80.12, 74.24, 70.15)),
    "lambda_0.5": ("lambda 0.5", "ablations/lambda_0.5.yaml", (79.92, 76.16, 71.33)),
    "revit_deit_small": ("lambda 0.9: the method", "revit_deit_small.yaml", (79.83, 76.86, 74.21)),
    "shared_patch": ("shared patch embedding", "ablations/shared_patch.yaml", (65.14, 61.30, 58.35)),
    "shared_positions": ("shared positions", "ablations/shared_positions.yaml", (75.24, 71.32, 69.73)),
}
"""Row -> what it is, its file below `configs/image`, and the paper's top-1 at each of `GRIDS`."""


def on_digits(row: str, seed: int, runs: Path) -> tuple[Any, Modality[Any]]:
    """Return the run of a row on the demo's digits."""
    wanted, _ = load_run(CONFIGS / "image" / ROWS[row][1])
    model = wanted.model
    changes = {
        "model.grids": [GRIDS[str(grid)] for grid in model.grids],
        "model.patch_embed": model.patch_embed,
        "model.positions": model.positions,
        "model.distillation": model.distillation,
        "distill.weight": wanted.distill.weight,
        "data.demo.train_pictures": 4000,
        "train.schedule.epochs": 4,
        "assigner.train.schedule.epochs": 1,  # the tables are of fixed grids
        "data.demo.seed": seed,
        "run.seed": seed,
        "run.dir": str(runs / f"{row}_seed{seed}"),
        "run.speed_seconds": 0,
        **({} if model.patch_embed == "stem" else {"model.stem_widths": None}),
    }
    overrides = [f"{key}={json.dumps(value)}" for key, value in changes.items()]
    return load_run(CONFIGS / "image" / "demo.yaml", overrides)


def measure(row: str, seed: int, runs: Path) -> dict[str, float]:
    """Train and test a row, or take what was found: grid of the paper -> top-1 in percent."""
    options, modality = on_digits(row, seed, runs)
    Recipe(options, modality).run()
    report = json.loads((Path(options.run.dir) / "report.json").read_text(encoding="utf-8"))
    accuracy = {fixed["grid"]: fixed["top1"] for fixed in report["fixed"]}
    return {paper: accuracy[digits] for paper, digits in GRIDS.items() if digits in accuracy}


def table(results: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """Return Markdown: mean over the seeds, in brackets the smallest and the largest, and the paper's number."""
    rows = []
    for name, seeds in results.items():
        row: dict[str, str | None] = {"row": ROWS[name][0]}
        for grid, paper in zip(GRIDS, ROWS[name][2]):
            found = [seed[grid] for seed in seeds if grid in seed]
            spread = f" ({min(found):.1f} to {max(found):.1f})" if len(found) > 1 else ""
            row[f"digits {GRIDS[grid]}"] = f"{statistics.mean(found):.1f}{spread}" if found else None
            row[f"ImageNet {grid} (paper)"] = None if paper is None else f"{paper:.2f}"
        rows.append(row)
    return markdown(rows)


@tool
def main(argv: Sequence[str] | None = None) -> int:
    example = "python benchmarks/ablations.py no_distillation revit_deit_small --seeds 1"
    arguments = arguments_of(__doc__, example, seeds=2, runs=Path("runs/digits"))
    arguments.add_argument("rows", nargs="*", metavar="ROW", help=f"of {', '.join(ROWS)}; default all")
    values = parse(arguments, argv)
    check_rows(values.rows, ROWS)
    results = {row: [measure(row, seed, values.runs) for seed in range(values.seeds)] for row in values.rows or ROWS}
    print(table(results))
    return finish(__file__, argv, values, [{"row": row, "seeds": found} for row, found in results.items()])


if __name__ == "__main__":
    sys.exit(main())
