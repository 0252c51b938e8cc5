"""Runs side by side: a row for every way each of them answers, and which of them were tested alike."""

from __future__ import annotations

import string
from collections.abc import Sequence
from typing import Any

from revit.common.report.runs import RunReport
from revit.common.report.tables import interval_text

COLUMNS = {
    "run": "run",
    "method": "method",
    "model": "model",
    "length": "grid",
    "top1": "top-1 %",
    "interval": "95 %",
    "map": "mAP %",
    "gmacs": "GMACs",
    "params": "parameters",
    "share": "share",
    "per_second": "samples/s",
    "seconds": "seconds",
    "evaluated": "samples",
    "failed": "failed",
}
"""Keys of `comparison_rows` and their headings. GMACs are of one view."""
SAME = ("data", "split", "num_views", "merge")
"""Entries of a protocol that must be equal for figures to be compared, beside the numbers of samples."""


def protocol_letters(runs: Sequence[RunReport]) -> list[str]:
    """Return each run's letter: a new one for every different protocol, in the order they come in."""
    protocols = [_protocol(run) for run in runs]
    different = list(dict.fromkeys(protocols))
    return [_letters(different.index(protocol)) for protocol in protocols]


def accuracy_name(runs: Sequence[RunReport]) -> str:
    """Return what `top1` of the runs is called."""
    return ", ".join(dict.fromkeys(run.accuracy_name for run in runs))


def comparison_columns(runs: Sequence[RunReport]) -> dict[str, str]:
    """Return the columns, one for the protocol among them where there are several."""
    columns = {**COLUMNS, "top1": accuracy_name(runs)}
    if not any(run.has_several_labels for run in runs):
        del columns["map"]
    return {**columns, "protocol": "protocol"} if len(set(protocol_letters(runs))) > 1 else columns


def comparison_rows(runs: Sequence[RunReport]) -> list[dict[str, Any]]:
    """Return every run's rows in turn; what is said of a run as a whole stands in its first."""
    rows = []
    for run, letter in zip(runs, protocol_letters(runs)):
        stages = run.content.get("seconds", {}).items()
        seconds = ", ".join(f"{stage} {value:.0f}" for stage, value in stages if stage != "data") or None
        for row in run.rows():
            row |= {"interval": interval_text(row), "protocol": letter}
            rows.append(row | {"method": run.method, "model": run.content.get("model"), "seconds": seconds})
            seconds = None
    return rows


def comparison_warnings(runs: Sequence[RunReport]) -> list[str]:
    """Return one line that says which runs cannot be compared, and in what they differ; none where all can."""
    protocols = dict(zip(protocol_letters(runs), map(_protocol, runs)))
    if len(protocols) < 2:
        return []
    names = ("samples", "failed", *SAME)
    different = [number for number, values in enumerate(zip(*protocols.values())) if len(set(values)) > 1]
    said = [
        f"{letter}: " + ", ".join(f"{names[number]} {protocol[number]}" for number in different)
        for letter, protocol in protocols.items()
    ]
    return [
        "NOT COMPARABLE: accuracies of different protocols, see the last column. "
        + "; ".join(said).replace("None", "not recorded")
    ]


def _protocol(run: RunReport) -> tuple[Any, ...]:
    """Return what the run was tested on, and how."""
    protocol = run.content.get("protocol", {})
    return (run.num_evaluated, run.num_failed, *(protocol.get(key) for key in SAME))


def _letters(number: int) -> str:
    """Return A to Z, then AA, AB, ..."""
    more, last = divmod(number, len(string.ascii_uppercase))
    return (_letters(more - 1) if more else "") + string.ascii_uppercase[last]
