"""Whether the inference engine answers as the plain float32 model does, on the test files of a run that made its own data.

    python benchmarks/agreement.py [--run runs/demo] [--dtypes bfloat16,int8] [--json OUT]

The model and its assigner answer every file alone, eagerly and in float32; the engine answers the same files as a stream in
every dtype. To reach: the same class for at least 99.5 % of the files; in int8 an accuracy at most 0.5 points lower.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))

from modalities import MODALITIES

from revit.common.data.made_data import MadeData
from revit.common.data.read_lists import read_list
from revit.common.modality.classifier import Classifier
from revit.common.modality.load import open_classifier
from revit.common.serving.choices import INT8, PRECISIONS
from revit.common.serving.load import engine_of
from revit.common.system.command_line import add_json, command_line, parse, parser, tool
from revit.common.system.errors import UserError
from revit.common.system.files import write_json
from revit.common.system.machine import machine_name

SAME, LOST = 99.5, 0.5
"""Percent of the files, and points of accuracy."""


@dataclass(frozen=True)
class Said:
    """Of one file."""

    number: int
    """Of the class."""
    grid: str


@torch.inference_mode()
def plainly(classifier: Classifier, paths: Sequence[str]) -> Iterator[Said]:
    """What the networks say of each file alone, as they were trained: no engine, no packed weights."""
    networks, reader = classifier.networks.eval(), classifier.inputs.open("1")
    try:
        for path in paths:
            inputs = classifier.normalizer(reader.read(path).pixels)
            output = networks(inputs)
            yield Said(int(output.prediction.argmax()), networks.grids[int(output.lengths)].name)
    finally:
        reader.close()


def by_engine(classifier: Classifier, paths: Sequence[str], dtype: str) -> Iterator[Said]:
    """What the engine says of a stream of them. RuntimeError for a file without an answer."""
    with engine_of(classifier, dtype=dtype, compile="eager", device="cpu") as engine:
        for answer in engine.predict(paths):
            if answer.error is not None:
                raise RuntimeError(f"{answer.path}: {answer.error}")
            yield Said(answer.guesses[0].number, answer.grid)


def rows_of(
    dtype: str, expected: Sequence[Said], found: Sequence[Said], labels: Sequence[int]
) -> list[dict[str, Any]]:
    """Rows of README's table of targets."""
    total = len(labels)
    same, lengths = (
        100 * sum(getattr(one, name) == getattr(other, name) for one, other in zip(found, expected)) / total
        for name in ("number", "grid")
    )
    first, second = (
        100 * sum(one.number == label for one, label in zip(said, labels)) / total
        for said in (expected, found)
    )
    rows = [
        {
            "work": f"the engine in {dtype} against the plain float32 model, files of the demo's test: same class",
            "target": f"{SAME:g} %",
            "measured": f"{same:.2f} %",
            "spread": f"{lengths:.2f} % got the same token length; top-1 {second:.2f} against {first:.2f} %",
            "runs": f"{total:,} files",
        }
    ]
    if dtype == INT8:
        rows[0] |= {
            "work": f"the engine in {dtype} against the plain float32 model, files of the demo's test: top-1 lost",
            "target": f"at most {LOST:g} points",
            "measured": f"{first - second:.2f} points",
            "spread": f"{same:.2f} % got the same class, {lengths:.2f} % the same token length",
        }
    return rows


@tool
def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser(__doc__ or "", "python benchmarks/agreement.py --run runs/demo --dtypes bfloat16,int8")
    arguments.add_argument(
        "--run", type=Path, default=Path("runs/demo"), help="folder of the run (runs/demo)"
    )
    arguments.add_argument("--dtypes", default="bfloat16,int8", help="default: %(default)s")
    add_json(arguments)
    values = parse(arguments, argv)
    dtypes = values.dtypes.split(",")
    if strangers := [dtype for dtype in dtypes if dtype not in PRECISIONS]:
        raise UserError(f"--dtypes {', '.join(strangers)}: choose from {', '.join(PRECISIONS)}")
    if not (values.run / "data" / "test").is_dir():
        raise UserError(f"{values.run}: no data/test in it; give the folder of a run that made its own data")
    made = MadeData.under(values.run / "data")
    listed = read_list(str(made.test), "files", prefix=str(made.root))
    paths, labels = zip(*((listed.path(number), listed.label(number)) for number in range(len(listed))))
    classifier = open_classifier(str(values.run), list(MODALITIES.values()))
    expected = list(plainly(classifier, paths))
    rows = []
    for dtype in dtypes:
        rows += rows_of(dtype, expected, list(by_engine(classifier, paths, dtype)), labels)
        print(f"{rows[-1]['work']}: {rows[-1]['measured']} of {rows[-1]['runs']}; {rows[-1]['spread']}")
    where = {"command": command_line("benchmarks/agreement.py", argv), "machine": machine_name()}
    if values.json:
        write_json(values.json, [row | where for row in rows])
    return 0


if __name__ == "__main__":
    sys.exit(main())
