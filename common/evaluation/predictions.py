"""RUN_DIR/predictions.csv: what every file of the test was, and what was said of it."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

from revit.common.data.lists import SampleList
from revit.common.evaluation.evaluate import Evaluation
from revit.common.evaluation.record import ADAPTIVE
from revit.common.system.files import write_lines

IN_RUN = "predictions.csv"
"""Name of the file in a run's folder."""
COLUMNS = ("path", "label", "predicted", "probability", "grid", "correct", "error")
SEGMENT = ("start", "end")


def write_predictions(
    path: Path, evaluation: Evaluation, grids: Sequence[str], samples: SampleList, names: Sequence[str], merge: str
) -> None:
    """Write a row for every file of the test, in the order of its list, whole or not at all.

    Answers are the assigner's where there are any, else those of the longest grid. `correct` is 1 or 0; where a file may have
    several labels, 1 where all that is said is all that it has. Several labels are joined by `;` (by `|` if a name has one in
    it); `probability` is that of what is predicted, several likewise joined, and of the likeliest class where nothing is. A
    file that could not be read has no answer but the reason, in `error`. Where samples are segments of files, `start` and `end`
    follow, as the list has them.
    """
    write_lines(path, _lines(evaluation, grids, samples, names, merge))


def _lines(
    evaluation: Evaluation, grids: Sequence[str], samples: SampleList, names: Sequence[str], merge: str
) -> Iterator[str]:
    line = csv.writer(SimpleNamespace(write=str)).writerow  # answers with what `write` does: the line itself
    between = "|" if any(";" in name for name in names) else ";"

    def named(numbers: Iterable[int]) -> str:
        return between.join(names[number] for number in numbers)

    policy = ADAPTIVE if ADAPTIVE in evaluation.answers else grids[0]
    answers = evaluation.answers[policy]
    probabilities = evaluation.probabilities(policy, merge)
    if evaluation.several:
        all_said = [row.nonzero().flatten().tolist() for row in evaluation.said(evaluation.decided(policy))]
    else:
        all_said = probabilities.argmax(dim=1, keepdim=True).tolist()
    rows = {position: row for row, position in enumerate(evaluation.ids.tolist())}
    reasons = {failure.id: failure.reason for failure in evaluation.failures}
    segments = samples.segments
    yield line([*COLUMNS, *(() if segments is None else SEGMENT)])
    for position in sorted({*rows, *reasons}):
        path, own = samples.path(position), samples.label_set(position)
        part = [] if segments is None else segments[position].tolist()
        row = rows.get(position)
        if row is None:
            yield line([path, named(own), "", "", "", "", reasons[position], *part])
            continue
        said = all_said[row]
        shown = said or [int(probabilities[row].argmax())]
        sure = between.join(f"{float(probabilities[row, number]):.6f}" for number in shown)
        grid = _grids_text(
            [grids[place] for place in answers.grid_index[row].tolist()] if policy == ADAPTIVE else [policy]
        )
        yield line([path, named(own), named(said), sure, grid, int(said == list(own)), "", *part])


def _grids_text(grids: Sequence[str]) -> str:
    """Return the grid of all views, or, where they differ, each with its count ("14x14 x2, 7x7 x1"), as `predict` says it."""
    counts = Counter(grids)
    return grids[0] if len(counts) == 1 else ", ".join(f"{name} x{count}" for name, count in counts.items())
