"""The rows of ReViT's Tables 2 and 3, run on the demo's digits, beside the paper's ImageNet numbers.

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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from revit.common.config.load import load
from revit.common.evaluation.evaluate import grid_runners
from revit.common.system.command_line import add_json, command_line, parser, tool
from revit.common.system.errors import UserError
from revit.common.system.files import write_json
from revit.common.system.machine import machine_name, package_versions
from revit.common.training.recipe import Recipe
from revit.image.modality import ImageModality
from revit.image.options import ImageRun

CONFIGS = Path(__file__).parents[1] / "configs" / "image"
GRIDS = {"14x14": "6x6", "10x10": "4x4", "7x7": "3x3"}


@dataclass(frozen=True)
class Row:
    """One row of the paper's tables."""

    method: str
    config: str
    """Below `configs/image`."""
    paper: Mapping[str, float]
    """Grid -> top-1 on ImageNet."""


def _paper(*accuracies: float) -> dict[str, float]:
    return dict(zip(GRIDS, accuracies))


ROWS = {
    "deit_small": Row("one grid alone: 14x14", "deit_small.yaml", {"14x14": 79.85}),
    "deit_small_10x10": Row("one grid alone: 10x10", "ablations/deit_small_10x10.yaml", {"10x10": 74.68}),
    "deit_small_7x7": Row("one grid alone: 7x7", "ablations/deit_small_7x7.yaml", {"7x7": 72.41}),
    "no_distillation": Row(
        "without self-distillation", "ablations/no_distillation.yaml", _paper(80.12, 74.24, 70.15)
    ),
    "lambda_0.5": Row("lambda 0.5", "ablations/lambda_0.5.yaml", _paper(79.92, 76.16, 71.33)),
    "revit_deit_small": Row("lambda 0.9: the method", "revit_deit_small.yaml", _paper(79.83, 76.86, 74.21)),
    "shared_patch": Row("shared patch embedding", "ablations/shared_patch.yaml", _paper(65.14, 61.30, 58.35)),
    "shared_positions": Row(
        "shared positions", "ablations/shared_positions.yaml", _paper(75.24, 71.32, 69.73)
    ),
}


def on_digits(row: str, seed: int, runs: Path) -> ImageRun:
    """The configuration of a row, run on the demo's digits."""
    wanted = load(ImageRun, CONFIGS / ROWS[row].config)
    model, distill = wanted.model, wanted.distill
    overrides = {
        "model.grids": [GRIDS[str(grid)] for grid in model.grids],
        "model.patch_embed": model.patch_embed,
        "model.positions": model.positions,
        "model.distillation": model.distillation,
        "distill.weight": distill.weight,
        "data.demo.train_pictures": 4000,
        "train.schedule.epochs": 4,
        "data.demo.seed": seed,
        "run.seed": seed,
        "run.dir": str(runs / f"{row}_seed{seed}"),
    }
    if model.patch_embed != "stem":
        overrides["model.stem_widths"] = None
    return load(
        ImageRun, CONFIGS / "demo.yaml", [f"{key}={json.dumps(value)}" for key, value in overrides.items()]
    )


class Training(Recipe):
    """A recipe that ends with the trained model: the tables are of fixed grids."""

    def stages(self) -> dict[str, Callable[[], None]]:
        return {name: work for name, work in super().stages().items() if name in ("data", "model")}


def measure(options: ImageRun) -> dict[str, float]:
    """Trains a model, or takes the trained one, and tests it: grid of the paper -> top-1 in percent."""
    recipe = Training(options, ImageModality())
    recipe.run()
    classifier = recipe.evaluator.load(recipe.model_file)
    evaluation = recipe.evaluator.evaluate(grid_runners(classifier), options.test.split, "test")
    accuracy = {
        name: 100 * evaluation.correct(answers.logits, options.test.merge).float().mean().item()
        for name, answers in evaluation.answers.items()
    }
    return {ours: accuracy[theirs] for ours, theirs in GRIDS.items() if theirs in accuracy}


def table(results: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """Markdown: mean over the seeds, in brackets the smallest and the largest, and the paper's number."""
    lines = [
        "| row | " + " | ".join(f"digits {GRIDS[grid]} | ImageNet {grid} (paper)" for grid in GRIDS) + " |",
        "|---|" + "---|" * (2 * len(GRIDS)),
    ]
    for name, seeds in results.items():
        cells: list[str] = [ROWS[name].method]
        for grid in GRIDS:
            found = [seed[grid] for seed in seeds if grid in seed]
            spread = f" ({min(found):.1f} to {max(found):.1f})" if len(found) > 1 else ""
            cells.append(f"{statistics.mean(found):.1f}{spread}" if found else "")
            paper = ROWS[name].paper.get(grid)
            cells.append("" if paper is None else f"{paper:.2f}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


@tool
def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser(
        __doc__ or "", "python benchmarks/ablations.py no_distillation revit_deit_small --seeds 1"
    )
    arguments.add_argument("rows", nargs="*", metavar="ROW", help=f"of {', '.join(ROWS)}; default all")
    arguments.add_argument(
        "--seeds", type=int, default=2, help="seeds of data and training: 0, 1, ...; default 2"
    )
    arguments.add_argument("--runs", type=Path, default=Path("runs/digits"), help="folder of the runs")
    add_json(arguments)
    values = arguments.parse_args(argv)
    unknown = [row for row in values.rows if row not in ROWS]
    if unknown:
        raise UserError(f"no such row: {', '.join(unknown)}; the rows are {', '.join(ROWS)}")
    results: dict[str, Any] = {
        row: [measure(on_digits(row, seed, values.runs)) for seed in range(values.seeds)]
        for row in values.rows or ROWS
    }
    print(table(results))
    if values.json:
        command = command_line("benchmarks/ablations.py", argv)
        about = {"command": command, "machine": machine_name(), "versions": package_versions("torch")}
        write_json(values.json, {**about, "rows": results})
    return 0


if __name__ == "__main__":
    sys.exit(main())
