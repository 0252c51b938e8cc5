"""README's tables that come from commands: made again between their markers.

    python benchmarks/tables.py [--readme README.md] [--speed runs/speed.json]

A table stands between `<!-- table: NAME -->` and `<!-- end -->`. Costs are counted here (tools/flops.py); speed is read from
what `python tools/throughput.py --peers --json runs/speed.json` wrote, methods from finished runs of
benchmarks/compare_methods.py. A table whose measurements are not there stays as it is, and a line says what to run.
"""

from __future__ import annotations

import json
import os
import platform
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from revit.common.cli import parse, parser, tool
from revit.common.errors import UserError
from revit.common.report.adaptive import versions
from revit.common.report.compared import COMPARED_COLUMNS, compared_rows
from revit.common.report.runs import read_runs
from revit.common.report.tables import shown

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"(<!-- table: (\S+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
COSTS = {
    "config": "configuration",
    "grid": "grid",
    "gmacs": "GMACs a view",
    "gmacs_total": "all views",
    "params": "parameters",
    "published": "published GMACs",
}
PUBLISHED = {
    ("timesformer_8x224", "14x14"): "0.59 T, all views",
    ("timesformer_hr_16x448", "28x28"): "5.11 T, all views",
    ("timesformer_l_96x224", "14x14"): "7.14 T, all views",
    ("revit_timesformer_8x224", "14x14"): "0.39 T adaptive, all views",
    ("revit_timesformer_hr_16x448", "28x28"): "3.68 T adaptive, all views",
    ("deit_small", "14x14"): "4.6",
    ("lvvit_small", "14x14"): "6.6",
    ("asvit_small", "56x56"): "5.3",
    ("asvit_base", "56x56"): "8.9",
    ("asvit_large", "56x56"): "22.6",
}
"""What the papers say, in their own unit (1 T is 1000 GMACs)."""
SPEED = {
    "name": "model",
    "config": "configuration",
    "grid": "grid or input",
    "dtype": "dtype",
    "batch": "batch",
    "per_second": "inputs/s",
    "ms_p50": "ms p50",
    "ms_p95": "ms p95",
    "fraction_of_peak": "of matmul rate",
}


def refreshed(text: str, makers: Mapping[str, Callable[[], str | None]]) -> str:
    """`text` with every marked table made again; what a maker answers None for stays.

    Raises UserError for a marker that no maker knows, and for one without its end.
    """
    if text.count("<!-- table: ") != len(BLOCK.findall(text)):
        raise UserError("a table's marker has no <!-- end --> behind it, or a broken name")

    def replaced(found: re.Match[str]) -> str:
        start, name, old, end = found.groups()
        if "<!-- table: " in old:
            raise UserError(f"{name}: no <!-- end --> before the next table")
        if name not in makers:
            raise UserError(f"{name}: no such table; there are {', '.join(makers)}")
        made = makers[name]()
        return start + (old if made is None else made) + end

    return BLOCK.sub(replaced, text)


def table(columns: Mapping[str, str], rows: Sequence[Mapping[str, Any]], note: str) -> str:
    """Markdown, with a line below on where it is from."""
    lines = [list(columns.values()), ["---"] * len(columns)]
    lines += [[shown(row.get(key)) for key in columns] for row in rows]
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{text}\n\n{note}\n"


def here(*packages: str) -> str:
    """This machine, and the versions of what made a table."""
    known = versions()
    parts = [f"{name} {known[name]}" for name in ("python", "torch", *packages) if name in known]
    return f"{platform.machine()}, {os.cpu_count()} cores; {', '.join(parts)}"


def costs(kind: str) -> str:
    """Of all configurations of a kind."""
    sys.path.insert(0, str(ROOT / "tools"))
    from kinds import KINDS, load_run

    from revit.common.report.costs import cost_rows

    rows = []
    for path in sorted((ROOT / "configs" / kind).glob("*.yaml")):
        first = re.search(r"^kind: (\S+)", path.read_text(encoding="utf-8"), re.MULTILINE)
        if first and first[1] in KINDS:  # a search has no model yet
            options, found = load_run(path)
            rows += [row for row in cost_rows(path.stem, options, found.package) if "rule" not in row]
    for row in rows:
        row["published"] = PUBLISHED.get((row["config"], row["grid"]))
    return table(COSTS, rows, f"By `python tools/flops.py`, {here('fvcore')}.")


def speed(path: Path) -> str | None:
    """As throughput.py measured it on the device that its rows name."""
    if not path.is_file():
        print(f"speed stays: first python tools/throughput.py --cfg FILE.yaml --peers --json {path}")
        return None
    rows = json.loads(path.read_text(encoding="utf-8"))
    devices = ", ".join(dict.fromkeys(row["device"] for row in rows))
    return table(SPEED, rows, f"By `python tools/throughput.py --peers` on {devices}; {here('timm')}.")


def methods(folder: Path) -> str | None:
    """Finished runs of compare_methods.py."""
    if not any(folder.rglob("report.json")):
        print(f"{folder} has no finished runs, its table stays: first python benchmarks/compare_methods.py")
        return None
    runs = read_runs([folder])
    known = [run.content.get("versions", {}) for run in runs]
    said = dict.fromkeys(f"{one.get('machine', '?')}, torch {one.get('torch', '?')}" for one in known)
    rows = compared_rows(runs)
    return table(COMPARED_COLUMNS, rows, f"By `python benchmarks/compare_methods.py` on {'; '.join(said)}.")


@tool
def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser(__doc__ or "", "python benchmarks/tables.py")
    arguments.add_argument("--readme", type=Path, default=ROOT / "README.md")
    arguments.add_argument("--speed", type=Path, default=ROOT / "runs" / "speed.json")
    values = parse(arguments, argv)
    makers: dict[str, Callable[[], str | None]] = {"speed": partial(speed, values.speed)}
    for kind in ("image", "video"):
        makers[f"flops-{kind}"] = partial(costs, kind)
        makers[f"methods-{kind}"] = partial(methods, ROOT / "runs" / "methods" / kind)
    old = values.readme.read_text(encoding="utf-8")
    new = refreshed(old, makers)
    if new != old:
        values.readme.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
