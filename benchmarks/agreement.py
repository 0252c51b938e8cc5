"""Compare the inference engine's answers with the plain float32 model's, on the test files of a run that made its own data.

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
from harness import arguments_of, chosen, finish, held_out_files
from modalities import MODALITIES

from revit.common.modality.load import open_classifier
from revit.common.modality.modality import Classifier
from revit.common.serving.engine import Engine
from revit.common.serving.options import INT8, PRECISIONS
from revit.common.system.command_line import parse, tool

SAME, LOST = 99.5, 0.5
"""Percent of the files, and points of accuracy."""


@dataclass(frozen=True)
class Verdict:
    """The answer to one file."""

    number: int
    """Of the class."""
    grid: str


@torch.inference_mode()
def plainly(classifier: Classifier, paths: Sequence[str]) -> Iterator[Verdict]:
    """Answer each file alone with the networks as they were trained: no engine, no packed weights."""
    networks, reader = classifier.networks.eval(), classifier.inputs.open("1")
    try:
        for path in paths:
            output = networks(classifier.normalizer(reader.read(path).pixels))
            yield Verdict(int(output.prediction.argmax()), networks.grids[int(output.grid_index)].name)
    finally:
        reader.close()


def by_engine(classifier: Classifier, paths: Sequence[str], dtype: str) -> Iterator[Verdict]:
    """Answer a stream of files with the engine. RuntimeError for a file without an answer."""
    with Engine(classifier, dtype=dtype, compile="eager", device="cpu") as engine:
        for answer in engine.predict(paths):
            if answer.error is not None:
                raise RuntimeError(f"{answer.path}: {answer.error}")
            yield Verdict(answer.guesses[0].number, answer.grid)


def row_of(dtype: str, expected: Sequence[Verdict], found: Sequence[Verdict], labels: Sequence[int]) -> dict[str, Any]:
    """Return the row of one dtype: the share of equal classes, for int8 the accuracy lost."""

    def percent(hits: Iterator[bool]) -> float:
        return 100 * sum(hits) / len(labels)

    same = percent(one.number == other.number for one, other in zip(found, expected))
    lengths = percent(one.grid == other.grid for one, other in zip(found, expected))
    before, after = (
        percent(one.number == label for one, label in zip(answers, labels)) for answers in (expected, found)
    )
    work = f"the engine in {dtype} against the plain float32 model, test files of the demo"
    row = {
        "work": f"{work}: same class",
        "target": f"{SAME:g} %",
        "measured": f"{same:.2f} %",
        "spread": f"{lengths:.2f} % got the same token length; top-1 {after:.2f} against {before:.2f} %",
    }
    if dtype == INT8:
        row = {
            "work": f"{work}: top-1 lost",
            "target": f"at most {LOST:g} points",
            "measured": f"{before - after:.2f} points",
            "spread": f"{same:.2f} % got the same class, {lengths:.2f} % the same token length",
        }
    return row | {"runs": f"{len(labels):,} files"}


@tool
def main(argv: Sequence[str] | None = None) -> int:
    example = "python benchmarks/agreement.py --run runs/demo --dtypes bfloat16,int8"
    values = parse(arguments_of(__doc__, example, run=Path("runs/demo"), dtypes="bfloat16,int8"), argv)
    dtypes = chosen(values.dtypes, PRECISIONS)
    paths, labels = held_out_files(values.run)
    classifier = open_classifier(str(values.run), list(MODALITIES.values()))
    expected = list(plainly(classifier, paths))
    rows = [row_of(one, expected, list(by_engine(classifier, paths, one)), labels) for one in dtypes]
    return finish(__file__, argv, values, rows)


if __name__ == "__main__":
    sys.exit(main())
