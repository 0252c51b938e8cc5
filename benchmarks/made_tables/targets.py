"""The table of what was to be reached, and below it why the rest was not."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from made_tables.markdown import read_json, stays, table

from revit.common.report.tables import shown
from revit.common.system.errors import UserError

Row = Mapping[str, Any]
TARGETS = {
    "work": "work",
    "target": "to reach",
    "measured": "measured (spread)",
    "reached": "reached",
    "by": "by",
}
TARGET_KEYS = ("work", "target", "measured", "spread", "runs", "command", "machine")
NOT_MEASURED = "not measured"


def targets(path: Path) -> str | None:
    """What was to be reached and what was, row by row as written (`TARGET_KEYS`). Reached is what measures no less than the
    target (no more, where that reads "at most ..."), by the first number of both, which are of one unit.

    `measured` and the ends of `spread` are numbers, or texts with their unit; a spread is a text or the two ends, `runs` a
    number, the list of their figures, or what else the spread is over. A row whose `measured` is null or reads "not measured" was not reached nor missed;
    `why` says the reason. Below the table stand the commands with their machines, and the `why` of every row that missed its
    target.

    Raises:
        UserError: a row lacks a key, or there is no number in it.
    """
    if not path.is_file():
        stays("targets", "python benchmarks/targets.py, whose --help says what it reads")
        return None
    rows, reasons = [], []
    measurements: dict[str, int] = {}
    for number, row in enumerate(read_json(path), start=1):
        where = f"{path}, row {number}"
        if missing := [key for key in TARGET_KEYS if key not in row]:
            raise UserError(f"{where}: no {', '.join(missing)}; a row has {', '.join(TARGET_KEYS)}")
        reached = _reached(row, where)
        by = _by(row)
        number_of = None if by is None else measurements.setdefault(by, len(measurements) + 1)
        rows.append({**row, "measured": _measured(row), "reached": reached, "by": number_of})
        if reached is False and row.get("why"):
            reasons.append(f"- {row['work']}: {_without(row['work'], row['why'])}")
    below = [f"{number}. {by}" for by, number in measurements.items()]
    if reasons:
        below += ["", "What was missed, and why:", "", *reasons]
    return table(TARGETS, rows, "\n".join(below))


def _by(row: Row) -> str | None:
    """The command, and the machine that it ran on: for a list below the table, as both are long and many rows share them."""
    if not row["command"]:
        return f"on {row['machine']}" if row["machine"] else None
    said = f"`{row['command']}`" + (f" on {row['machine']}" if row["machine"] else "")
    return f"to be measured by {said}" if _is_unmeasured(row) else said


def _measured(row: Row) -> str:
    """`1.02 (0.98 to 1.11 in 5 runs)`, or why there is no figure."""
    if _is_unmeasured(row):
        reason = row.get("why") or str(row["measured"] or "").removeprefix(NOT_MEASURED).lstrip(" :,;")
        return f"{NOT_MEASURED}: {reason}" if reason else NOT_MEASURED
    runs = len(row["runs"]) if isinstance(row["runs"], list) else row["runs"]
    spread, in_runs = (
        row["spread"],
        runs if isinstance(runs, str) else f"{runs} run{'' if runs == 1 else 's'}",
    )
    if spread is None:
        return f"{shown(row['measured'])} ({in_runs})"
    if not isinstance(spread, str):
        low, high = spread
        spread = f"{shown(low)} to {shown(high)}"
    return f"{shown(row['measured'])} ({spread} in {in_runs})"


def _is_unmeasured(row: Row) -> bool:
    return row["measured"] is None or str(row["measured"]).startswith(NOT_MEASURED)


def _reached(row: Row, where: str) -> bool | None:
    """None of what was not measured."""
    if _is_unmeasured(row):
        return None
    target, measured = (_number(row[key], f"{where}, {key}") for key in ("target", "measured"))
    return measured <= target if "at most" in str(row["target"]) else measured >= target


def _number(value: Any, where: str) -> float:
    found = re.search(r"-?\d+(\.\d+)?", str(value).replace(",", ""))
    if found is None:
        raise UserError(f"{where}: found {value!r}, which has no number in it")
    return float(found[0])


def _without(work: str, why: str) -> str:
    """A reason that begins with the work, or the start of it, does not name it twice."""
    head, _, rest = why.partition(": ")
    return rest if rest and work.startswith(head) else why
