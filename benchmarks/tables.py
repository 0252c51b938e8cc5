"""Print what tools and benchmarks wrote with --json as Markdown tables.

    python benchmarks/tables.py flops.json runs/speed/video.json runs/demo/report.json > tables.md

Takes rows (flops.py, throughput.py, the benchmarks) and a run's report.json. What is the same in all rows of a file stands
below its table; what is no number or short text is left out. Rows of throughput.py also say how many times as fast the
fastest of ours with the same input was, round by round of that run.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from revit.common.system.command_line import parse, parser, tool
from revit.common.system.errors import UserError

Row = dict[str, Any]
REPORT = ("adaptive", "random", "oracle", "cascade")
"""Keys of a report beside `fixed`."""


def rows_in(path: Path) -> list[Row]:
    """Return the rows of a file. UserError for one without any."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: {error}") from None
    if isinstance(content, dict) and "fixed" in content:
        content = content["fixed"] + [{"grid": key, **content[key]} for key in REPORT if key in content]
    if not isinstance(content, list) or not content or not all(isinstance(row, dict) for row in content):
        raise UserError(f"{path}: no rows in it")
    return [row | ours_against(row, content) if "round_ms" in row else row for row in content]


def ours_against(peer: Row, rows: Sequence[Row]) -> Row:
    """Compare a row of throughput.py with the fastest of ours that did the same work in the same run."""
    work = ("config", "grid", "batch", "device")
    same = [row for row in rows if all(row[key] == peer[key] for key in work)]
    ours = [row for row in same if row["name"].startswith("ours")]
    if not ours or peer["name"].startswith("ours"):
        return {"ours is": None}
    best = max(ours, key=lambda row: float(row["per_second"]))
    ratios = [theirs / own for theirs, own in zip(peer["round_ms"], best["round_ms"])]
    low, middle, high = min(ratios), statistics.median(ratios), max(ratios)
    how = f"{best['dtype']}{', compiled' if best['compiled'] else ''}"
    return {"ours is": f"{middle:.2f} times as fast in {how} ({low:.2f} to {high:.2f})"}


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return a table of what differs between rows, and below it a line of what does not."""
    keys = dict.fromkeys(key for row in rows for key in row)
    shown = [key for key in keys if not any(isinstance(row.get(key), (list, dict)) for row in rows)]
    same = [key for key in shown if len(rows) > 1 and len({row.get(key) for row in rows}) == 1]
    columns = [key for key in shown if key not in same]
    lines = [columns, ["---"] * len(columns), *([cell(row.get(key)) for key in columns] for row in rows)]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    below = "; ".join(f"{key} {cell(rows[0][key])}" for key in same if rows[0].get(key) not in (None, ""))
    return f"{table}\n" + (f"\n{below}\n" if below else "")


def cell(value: Any) -> str:
    """Return a number with four digits that carry meaning, a text as it is."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return "" if value is None else str(value).replace("|", "\\|")


@tool
def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser(__doc__ or "", "python benchmarks/tables.py flops.json")
    arguments.add_argument("files", nargs="+", type=Path, metavar="FILE.json")
    for path in parse(arguments, argv).files:
        print(f"<!-- {path.name} -->\n{markdown(rows_in(path))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
