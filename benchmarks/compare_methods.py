"""Train all methods under one protocol: the same digits (or clips), the same epochs and seeds, one table.

    python benchmarks/compare_methods.py [ROW ...] [--kind video] [--seeds 2] [--cfg FILE.yaml] [key.path=value ...]

Every row is a demo's configuration. Data and augmentation are those of the kind's `demo.yaml`, the depth and the number of
epochs are the same for all, and what is left of a configuration (its method, its patch embedding) is its own. The seed is
that of weights and batches; the pictures are the same for all seeds. --cfg adds configurations of your own.

Each run is a whole recipe under --runs: finished ones are not done again, interrupted ones go on. In the end all of them
stand in one table, as by `python tools/report.py`. Without a name, all rows: two to four minutes a row on two CPU cores.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness import CONFIGS, arguments_of, check_rows, finish
from modalities import load_run

from revit.common.data.made_data import MadeData
from revit.common.modality.modality import Modality
from revit.common.report.comparison import comparison_columns, comparison_rows, comparison_warnings
from revit.common.report.runs import read_runs
from revit.common.report.tables import print_table
from revit.common.system.command_line import parse, tool
from revit.common.system.errors import UserError
from revit.common.training.recipe import Recipe

ASVIT = {"name": "asvit_seed", "genotype": "8,2,2,1|4,2,2,1|4,1,4,2|4,1,4,1|8,16", "linear_std": 0.15}
"""Of about the plain model's cost; `tools/search_asvit.py` finds better ones."""
PLAIN: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("demo.yaml", {"model.grids": ["6x6"]}),
    "plain_4x4": ("demo.yaml", {"model.grids": ["4x4"]}),
    "revit": ("demo.yaml", {}),
    "flexivit": ("demos/flexivit.yaml", {}),
    "dynamicvit": ("demos/dynamicvit.yaml", {}),
    "toe": ("demos/toe.yaml", {}),
}


ROWS = {"image": {**PLAIN, "asvit": ("demo.yaml", {"model": ASVIT})}, "video": PLAIN}
"""Kind -> name -> a configuration below `configs/KIND`, and what makes it this row."""
DEPTHS, EPOCHS = {"image": 4, "video": 3}, {"image": 6, "video": 5}
"""Of all models that are told a depth, and of all trainings."""


class Protocol:
    """Data, augmentation, length of training and depth, which all rows of a kind share, and `overrides`, which come last."""

    def __init__(self, kind: str, folder: Path, overrides: Sequence[str] = ()) -> None:
        """UserError for overrides that nothing knows."""
        self.kind, self.folder = kind, folder
        of_data = [text for text in overrides if text.startswith("data.")]
        self.others = [text for text in overrides if text not in of_data]
        self.base, self.modality = load_run(CONFIGS / kind / "demo.yaml", [*of_data, f"run.dir={folder}"])
        made = MadeData.under(folder / "data")
        lists = {split: str(getattr(made, split)) for split in ("train", "val", "test")}
        source = {**lists, "label_names": str(made.classes), "prefix": str(made.root)}
        data = self.base.data.model_dump(mode="json", exclude_none=True)
        self.data = data | {"demo": None, "source": data["source"] | source}

    def run_of(self, name: str, path: Path, changes: Mapping[str, Any], seed: int) -> tuple[Any, Modality[Any]]:
        """Return a configuration under the protocol. UserError for what does not go together."""
        everything = {
            "data": self.data,
            "train.schedule.epochs": EPOCHS[self.kind],
            **({} if "model" in changes else {"model.depth": DEPTHS[self.kind]}),
            **changes,
            "run.seed": seed,
            "run.dir": str(self.folder / f"{name}_seed{seed}"),
        }
        return load_run(path, [*(f"{key}={json.dumps(value)}" for key, value in everything.items()), *self.others])


def plan(kind: str, names: Sequence[str], own: Sequence[Path]) -> list[tuple[str, Path, Mapping[str, Any]]]:
    """Return name, configuration and changes of the rows asked for. UserError for one that is not known, or two of one name."""
    rows = {name: (name, CONFIGS / kind / file, changes) for name, (file, changes) in ROWS[kind].items()}
    check_rows(names, rows)
    asked = [rows[name] for name in names or ([] if own else rows)] + [(path.stem, path, {}) for path in own]
    every = [name for name, _, _ in asked]
    if len(set(every)) < len(every):
        raise UserError(f"two rows of one name: {', '.join(every)}; leave one out, or rename the file of --cfg")
    return asked


@tool
def main(argv: Sequence[str] | None = None) -> int:
    example = (
        "python benchmarks/compare_methods.py plain toe --seeds 1\n"
        "python benchmarks/compare_methods.py plain dynamicvit --kind video --cfg configs/video/demos/toe.yaml"
    )
    arguments = arguments_of(__doc__, example, seeds=1, runs=Path("runs/methods"))
    arguments.add_argument("rows", nargs="*", metavar="ROW", help="rows, and settings of all as key.path=value")
    arguments.add_argument("--kind", choices=list(ROWS), default="image")
    arguments.add_argument("--cfg", dest="own", type=Path, action="append", default=[], help="one configuration more")
    values = parse(arguments, argv)
    overrides = [text for text in values.rows if "=" in text]
    rows = plan(values.kind, [text for text in values.rows if "=" not in text], values.own)
    protocol = Protocol(values.kind, values.runs / values.kind, overrides)
    # All are read before the first is trained: mistakes are told at once.
    runs = [protocol.run_of(*row, seed) for seed in range(values.seeds) for row in rows]
    protocol.modality.make_data(protocol.base)
    for options, modality in runs:
        Recipe(options, modality).run()
    found = read_runs([options.run.dir for options, _ in runs])
    table = comparison_rows(found)
    print_table(f"Methods under one protocol ({values.kind})", comparison_columns(found), table)
    for warning in comparison_warnings(found):
        print(warning)
    return finish(__file__, argv, values, table)


if __name__ == "__main__":
    sys.exit(main())
