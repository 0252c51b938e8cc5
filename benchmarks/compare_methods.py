"""All methods under one protocol: the same digits (or clips), the same epochs and seeds, one table.

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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from revit.common.config.load import load
from revit.common.data.made_data import MadeData
from revit.common.methods.run_options import RecipeOptions
from revit.common.modality.modality import Modality
from revit.common.report.compared import compared_columns, compared_rows, warnings
from revit.common.report.runs import read_runs
from revit.common.report.tables import print_table
from revit.common.system.command_line import add_json, parse, parser, tool
from revit.common.system.errors import UserError
from revit.common.system.files import write_json
from revit.common.training.recipe import Recipe
from revit.image.modality import ImageModality
from revit.image.options import ImageRun
from revit.video.modality import VideoModality
from revit.video.options import VideoRun

CONFIGS = Path(__file__).parents[1] / "configs"


@dataclass(frozen=True)
class Row:
    """A configuration below `configs/KIND`, and what makes it this row."""

    config: str = "demo.yaml"
    changes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Bench:
    """The protocol of one kind of inputs, and its rows."""

    run_options: type[RecipeOptions]
    modality: Callable[[], Modality[Any]]
    depth: int
    """Of all models that are told one."""
    epochs: int
    rows: Mapping[str, Row]


PLAIN = {
    "plain": Row(changes={"model.grids": ["6x6"]}),
    "plain_4x4": Row(changes={"model.grids": ["4x4"]}),
    "revit": Row(),
    "flexivit": Row("demos/flexivit.yaml"),
    "dynamicvit": Row("demos/dynamicvit.yaml"),
    "toe": Row("demos/toe.yaml"),
}
ASVIT = {"name": "asvit_seed", "genotype": "8,2,2,1|4,2,2,1|4,1,4,2|4,1,4,1|8,16", "linear_std": 0.15}
"""Of about the plain model's cost; `tools/search_asvit.py` finds better ones."""

BENCHES = {
    "image": Bench(ImageRun, ImageModality, 4, 6, {**PLAIN, "asvit": Row(changes={"model": ASVIT})}),
    "video": Bench(VideoRun, VideoModality, 3, 5, PLAIN),
}


class Protocol:
    """What all rows of a bench share: data, augmentation, length of training, depth, and `overrides`, which come last."""

    def __init__(self, kind: str, folder: Path, overrides: Sequence[str] = ()) -> None:
        """UserError for overrides that nothing knows."""
        self.bench, self.folder, self.overrides = BENCHES[kind], folder, overrides
        self.configs = CONFIGS / kind
        mine = [text for text in overrides if text.startswith("data.")]
        self.base = load(self.bench.run_options, self.configs / "demo.yaml", [*mine, f"run.dir={folder}"])
        made = MadeData.under(folder / "data")
        lists = {split: str(getattr(made, split)) for split in ("train", "val", "test")}
        source = {**lists, "label_names": str(made.classes), "prefix": str(made.root)}
        self.data = self.base.data.model_dump(mode="json", exclude_none=True)
        self.data |= {"demo": None, "source": self.data["source"] | source}

    def run_of(self, name: str, path: Path, changes: Mapping[str, Any], seed: int) -> Any:
        """A configuration under the protocol. UserError for what does not go together."""
        everything = {
            "data": self.data,
            "train.schedule.epochs": self.bench.epochs,
            **changes,
            "run.seed": seed,
            "run.dir": str(self.folder / f"{name}_seed{seed}"),
        }
        if not isinstance(changes.get("model"), Mapping):
            everything["model.depth"] = self.bench.depth
        written = [f"{key}={json.dumps(value)}" for key, value in everything.items()]
        others = [text for text in self.overrides if not text.startswith("data.")]
        return load(self.bench.run_options, path, [*written, *others])

    def make_data(self) -> None:
        """Once, for all rows; what is made already stays."""
        self.bench.modality().make_data(self.base)


@tool
def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser(
        __doc__ or "",
        "python benchmarks/compare_methods.py plain toe --seeds 1\n"
        "python benchmarks/compare_methods.py plain dynamicvit --kind video --cfg configs/video/demos/toe.yaml",
    )
    arguments.add_argument(
        "rows", nargs="*", metavar="ROW", help="rows, and settings of all as key.path=value"
    )
    arguments.add_argument("--kind", choices=list(BENCHES), default="image")
    arguments.add_argument(
        "--cfg", dest="own", type=Path, action="append", default=[], help="one configuration more"
    )
    arguments.add_argument("--seeds", type=int, default=1, help="seeds 0, 1, ...; default 1")
    arguments.add_argument("--runs", type=Path, default=Path("runs/methods"), help="folder of the runs")
    add_json(arguments)
    values = arguments_of(arguments, argv)
    protocol = Protocol(values.kind, values.runs / values.kind, values.overrides)
    rows = protocol.bench.rows
    plan = {name: (protocol.configs / rows[name].config, rows[name].changes) for name in values.rows}
    plan |= {path.stem: (path, {}) for path in values.own}
    # All are read before the first is trained: mistakes are told at once.
    runs = [
        protocol.run_of(name, path, changes, seed)
        for seed in range(values.seeds)
        for name, (path, changes) in plan.items()
    ]
    protocol.make_data()
    for options in runs:
        Recipe(options, protocol.bench.modality()).run()
    found = read_runs([options.run.dir for options in runs])
    compared = compared_rows(found)
    print_table(f"Methods under one protocol ({values.kind})", compared_columns(found), compared)
    for warning in warnings(found):
        print(warning)
    if values.json:
        write_json(values.json, compared)
    return 0


def arguments_of(arguments: Any, argv: Sequence[str] | None) -> Any:
    """With the settings apart from the rows, and every row where none is named. UserError for an unknown one."""
    values = parse(arguments, argv)
    values.overrides = [text for text in values.rows if "=" in text]
    values.rows = [text for text in values.rows if "=" not in text]
    known = BENCHES[values.kind].rows
    unknown = [row for row in values.rows if row not in known]
    if unknown:
        raise UserError(f"no such row: {', '.join(unknown)}; the rows are {', '.join(known)}")
    names = [*values.rows, *(path.stem for path in values.own)]
    if len(set(names)) < len(names):
        raise UserError(
            f"two rows of one name: {', '.join(names)}; leave one out, or rename the file of --cfg"
        )
    if not values.rows and not values.own:
        values.rows = list(known)
    return values


if __name__ == "__main__":
    sys.exit(main())
