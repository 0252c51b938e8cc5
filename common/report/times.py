"""Milliseconds of an input for every way to choose its token length: measured where that was timed, else derived from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from revit.common.report.runs import RunReport

DERIVED = "~ in front of a time: not measured itself, but the measured times of the lengths by their shares"


def times(run: RunReport, best: bool) -> dict[str, dict[str, Any]]:
    """Row of a run ("6x6", "adaptive", "random", ...) -> its time alone, or (`best`) in the batch with the most inputs a
    second.

    `ms` is the mean of an input and `per_second` one over it. Measured rows have what `speed` says of them, too; the others
    are marked `derived`. Rows of which nothing can be said are not there.
    """
    found = measured(run, best)
    return found | {name: row for name, row in derived(run, found).items() if name not in found}


def measured(run: RunReport, best: bool) -> dict[str, dict[str, Any]]:
    """What was timed: the fixed lengths and the assigner's mixture."""
    found: dict[str, dict[str, Any]] = {}
    for row in run.content.get("speed", {}).get("rows", []):
        better = row["per_second"] > found.get(row["grid"], row)["per_second"]
        if (best and (better or row["grid"] not in found)) or (not best and row["batch"] == 1):
            found[row["grid"]] = {**row, "ms": 1000 / row["per_second"]}
    return found


def derived(run: RunReport, took: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The baselines' times from those of the lengths (name -> a row with `ms`).

    Random lengths and the oracle ask no assigner: the mean of the lengths' times by their shares. The cascade runs the
    shortest length on every input, the next on those it leaves, and so on: an input pays for every length up to the one that
    answers. What sorting inputs into batches costs is in none of them, so for batches they are lower bounds.
    """
    grids = [row["grid"] for row in run.content["fixed"]]  # longest first
    if not set(grids) <= took.keys():
        return {}
    alone = {grid: float(took[grid]["ms"]) for grid in grids}
    cumulative = {grid: sum(alone[one] for one in grids[place:]) for place, grid in enumerate(grids)}
    shares = {
        "random": run.content.get("adaptive", {}).get("share"),
        "oracle": run.content.get("oracle", {}).get("share"),
        "cascade": run.content.get("cascade", {}).get("share"),
    }
    found = {}
    for name, share in shares.items():
        if name in run.content and share:
            each = cumulative if name == "cascade" else alone
            ms = sum(part * each[grid] for grid, part in share.items())
            found[name] = {"ms": ms, "per_second": 1000 / ms, "derived": True}
    return found
