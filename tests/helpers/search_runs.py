"""A search small enough for tests, and the same as a program of its own that can be killed."""

from __future__ import annotations

import itertools
import json
import os
import signal
import sys
from pathlib import Path

import torch

from revit.image.models.genotype import Genotype
from revit.image.search.grow import GrowthStep, by_rank, grow
from revit.image.search.measure import Evaluations, Measured, Measurer
from revit.image.search.options import GrowOptions, MeasureOptions, SearchOptions
from revit.image.search.search import Step, search

STEPS = 12
GROWTH = GrowOptions(start_width=8, times=2, stop_params=700e3, max_params=3e6, num_classes=3)
SEARCH = SearchOptions(steps=STEPS, width=8, lr=0.5)
START = Genotype.parse("4,2,2|2,1,2|2,1,2|2,1,2|8,8")


def measurer(**changes: object) -> Measurer:
    options = MeasureOptions.model_validate({"repeats": 2, "thetas": 2, "pictures": 3, **changes})
    return Measurer(options, torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1)))


def made_up(genotypes: list[Genotype], seed: int) -> list[Measured]:
    """Measures without a network: more of everything is more complex, and fewer heads are easier to train."""
    return [
        Measured(
            (float(sum(one.kernel + one.expansion + one.depth for one in genotype.stages)) * genotype.width,),
            (float(genotype.heads + genotype.stages[0].splits + 10 * sum(genotype.depths)),),
        )
        for genotype in genotypes
    ]


def all_of_it(file: Path, workers: int = 0) -> tuple[list[str], dict[str, object]]:
    """Search, then growth; every step as text."""
    lines: list[str] = []

    def heard(step: Step | GrowthStep) -> None:
        lines.append(json.dumps(step.record()))

    with Evaluations(measurer(), file, workers) as evaluations:
        found = search(SEARCH, 8, evaluations, heard)
        seed = found.genotype.grown(width=8)
        growth = grow(GROWTH, seed, (32, 32), by_rank(GROWTH, evaluations), heard)
    return lines, {"found": str(found.genotype), **growth.record()}


def die_at(measurement: int, share: float) -> None:
    """Ends this process by SIGKILL when that many measurements were taken and `share` of the last one is written."""
    append, count = Evaluations._append, itertools.count(1)

    def append_or_die(self: Evaluations, line: dict[str, object]) -> None:
        if next(count) == measurement:
            before = self.file.read_bytes()
            append(self, line)
            after = self.file.read_bytes()
            self.file.write_bytes(after[: len(before) + int(share * (len(after) - len(before)))])
            os.kill(os.getpid(), signal.SIGKILL)
        append(self, line)

    Evaluations._append = append_or_die  # type: ignore[method-assign]


if __name__ == "__main__":
    file, workers, out, *death = sys.argv[1:]
    if death:
        die_at(int(death[0]), float(death[1]))
    Path(out).write_text(json.dumps(all_of_it(Path(file), int(workers))))
