"""Tables of measured speed, from what the commands wrote on the machine that measured."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from made_tables.markdown import listed, read_json, stays, table

from revit.common.errors import UserError
from revit.common.report.tables import shown

SPEED = {
    "name": "model",
    "config": "configuration",
    "grid": "grid or input",
    "dtype": "dtype",
    "compiled": "compiled",
    "batch": "batch",
    "per_second": "inputs/s",
    "of_fastest": "of the fastest",
    "ms_p50": "ms p50",
    "ms_p95": "ms p95",
    "spread": "spread of rounds",
    "peak_memory_mb": "peak MB",
    "fraction_of_peak": "of matmul rate",
}
SHARES = ("of_fastest", "spread", "fraction_of_peak")
TARGETS = {
    "work": "work",
    "target": "to reach",
    "measured": "measured (spread)",
    "reached": "reached",
    "command": "command",
    "machine": "machine",
}
TARGET_KEYS = ("work", "target", "measured", "spread", "runs", "command", "machine")


def speed(kind: str, folder: Path) -> str | None:
    """A table for each file that `tools/throughput.py --json` wrote, of its rows of one kind: only what was timed in one run
    can be compared."""
    written = [read_json(path) for path in sorted(folder.glob("*.json"))]
    chosen = [[row for row in rows if row.get("kind") == kind] for rows in written]
    if not any(chosen):
        stays(
            f"speed-{kind}",
            f"python tools/throughput.py --cfg configs/{kind}/FILE.yaml --peers --json {folder}/{kind}.json",
        )
        return None
    return "\n".join(table(SPEED, _in_words(rows), _note(rows)) for rows in chosen if rows)


def _in_words(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Fastest first within a configuration, grid and batch size; shares in percent."""
    fastest: dict[Any, float] = {}
    for row in rows:
        fastest[_same(row)] = max(fastest.get(_same(row), 0.0), row["per_second"])
    order = list(dict.fromkeys(map(_same, rows)))
    found = []
    for row in sorted(rows, key=lambda row: (order.index(_same(row)), -row["per_second"])):
        one = {**row, "of_fastest": row["per_second"] / fastest[_same(row)]}
        found.append(one | {key: _percent(one.get(key)) for key in SHARES})
    return found


def _same(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """What does the same work: of other architectures each for itself."""
    return (row["config"], row["grid"], row["batch"])


def _percent(share: float | None) -> str | None:
    return None if share is None else f"{share:.0%}"


def _note(rows: Sequence[Mapping[str, Any]]) -> str:
    first = rows[0]
    devices = ", ".join(dict.fromkeys(row["device"] for row in rows))
    instructions = "" if "cpu" not in devices else first.get("instructions", "")
    where = f"{devices}, {instructions}" if instructions else devices
    return (
        f"By `{first.get('command', 'python tools/throughput.py --peers')}` on {where}; median of "
        f"{first.get('rounds', '?')} rounds, their spread in percent of it; {listed(first.get('versions', {}))}. `ours` "
        "and its twins (`timm`, `huggingface`) hold the same weights and gave the same logits before they were timed."
    )


def targets(path: Path) -> str | None:
    """What was to be reached and what was, row by row as written (`TARGET_KEYS`). Reached is what measures no less than the
    target (no more, where that reads "at most ..."), by the first number of both, which are of one unit.

    Raises:
        UserError: a row lacks a key, or there is no number in it.
    """
    if not path.is_file():
        stays("targets", f"write {path}: rows of {', '.join(TARGET_KEYS)}")
        return None
    rows = []
    for number, row in enumerate(read_json(path), start=1):
        if missing := [key for key in TARGET_KEYS if key not in row]:
            raise UserError(
                f"{path}, row {number}: no {', '.join(missing)}; a row has {', '.join(TARGET_KEYS)}"
            )
        target, measured = (
            _number(row[key], f"{path}, row {number}, {key}") for key in ("target", "measured")
        )
        rows.append(
            {
                **row,
                "measured": f"{shown(row['measured'])} ({row['spread']} in {row['runs']} runs)",
                "reached": measured <= target if "at most" in str(row["target"]) else measured >= target,
                "command": f"`{row['command']}`",
            }
        )
    return table(TARGETS, rows, "Each row on the machine that it names, by its command.")


def _number(value: Any, where: str) -> float:
    found = re.search(r"-?\d+(\.\d+)?", str(value).replace(",", ""))
    if found is None:
        raise UserError(f"{where}: found {value!r}, which has no number in it")
    return float(found[0])


def dynamicvit_speed(path: Path) -> str | None:
    """How much faster DynamicViT is than its backbone, by benchmarks/methods.py."""
    if not path.is_file():
        stays("dynamicvit-speed", f"python benchmarks/methods.py --json {path}")
        return None
    content = read_json(path)
    rows: dict[int, dict[str, Any]] = {}
    for one in content["dynamicvit"]:
        low, high = one["speed_up_processor_range"]
        row = rows.setdefault(one["batch"], {"batch": f"batch {one['batch']}"})
        row[one["dtype"]] = f"{one['speed_up_processor']:.2f} ({low:.2f} to {high:.2f})"
    dtypes = dict.fromkeys(one["dtype"] for one in content["dynamicvit"])
    columns = {"batch": "", **{dtype: dtype for dtype in dtypes}}
    note = f"By `python benchmarks/methods.py` on {content['device']}, torch {content['torch']}."
    return table(columns, list(rows.values()), note)
