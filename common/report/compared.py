"""Runs side by side: one row for every way each of them answers, and which of them were tested alike."""

from __future__ import annotations

import string
from collections.abc import Sequence
from typing import Any

from revit.common.evaluation.intervals import wilson
from revit.common.report.runs import RunReport

COMPARED_COLUMNS = {
    "run": "run",
    "method": "method",
    "model": "model",
    "length": "grid",
    "top1": "top-1 %",
    "interval": "95 %",
    "gmacs": "GMACs",
    "params": "parameters",
    "share": "share",
    "per_second": "samples/s",
    "seconds": "seconds",
    "evaluated": "samples",
    "failed": "failed",
}
"""Keys of `compared_rows` and their headings. GMACs are of one view."""
PROTOCOL = "protocol"
SAME = ("data", "split", "num_views", "merge")
"""What of a run's protocol has to be the same for its figures to be compared, beside the number of samples."""
Protocol = tuple[Any, ...]


def protocol_of(run: RunReport) -> Protocol:
    """What the run was tested on and how."""
    said = run.content.get("protocol", {})
    return (run.num_evaluated, run.num_failed, *(said.get(key) for key in SAME))


def protocols(runs: Sequence[RunReport]) -> dict[Protocol, str]:
    """A letter for every different one, in the order they come in."""
    found = list(dict.fromkeys(map(protocol_of, runs)))
    return {protocol: _letters(number) for number, protocol in enumerate(found)}


def compared_columns(runs: Sequence[RunReport]) -> dict[str, str]:
    """With a column for the protocol where there are several."""
    return {**COMPARED_COLUMNS, PROTOCOL: "protocol"} if len(protocols(runs)) > 1 else COMPARED_COLUMNS


def compared_rows(runs: Sequence[RunReport]) -> list[dict[str, Any]]:
    """Every run's rows in turn; what is said of a run as a whole stands in its first."""
    letters, rows = protocols(runs), []
    for run in runs:
        for number, row in enumerate(run.rows()):
            low, high = (100 * limit for limit in wilson(row["top1"] / 100, run.num_evaluated))
            row |= {"interval": f"{low:.1f} to {high:.1f}", PROTOCOL: letters[protocol_of(run)]}
            row |= {"method": run.method, "model": run.content.get("model")}
            row["seconds"] = _seconds(run) if number == 0 else None
            rows.append(row)
    return rows


def warnings(runs: Sequence[RunReport]) -> list[str]:
    """One line that says which runs cannot be compared, and in what they differ; none where all can."""
    letters = protocols(runs)
    if len(letters) < 2:
        return []
    names = ("samples", "failed", *SAME)
    different = [name for name, values in zip(names, zip(*letters)) if len(set(values)) > 1]
    facts = [
        f"{letter}: " + ", ".join(f"{name} {dict(zip(names, protocol))[name]}" for name in different)
        for protocol, letter in letters.items()
    ]
    return [
        "NOT COMPARABLE: accuracies of different protocols, see the last column. "
        + "; ".join(facts).replace("None", "not recorded")
    ]


def _seconds(run: RunReport) -> str | None:
    """Of every stage that trains or retrieves, as written by the run."""
    seconds = run.content.get("seconds", {})
    return ", ".join(f"{stage} {value:.0f}" for stage, value in seconds.items() if stage != "data") or None


def _letters(number: int) -> str:
    """A to Z, then AA, AB, ..."""
    more, last = divmod(number, len(string.ascii_uppercase))
    return (_letters(more - 1) if more else "") + string.ascii_uppercase[last]
