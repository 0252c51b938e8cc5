"""The table of FlexiViT's accuracy at the sizes it was trained at, and between them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from made_tables.markdown import read_json, stays, table
from made_tables.recipes import is_recipe, where

CONFIG = "demos/flexivit.yaml"
OTHER = "other_sizes.json"
"""In the folder of a run: what test_net.py wrote of the sizes it was not trained at."""
DEMOS = {"image": ("digits", "[7,5]"), "video": ("clips", "[5]")}
"""Kind -> its data, and the sizes."""


def flexivit(folder: Path) -> str | None:
    """A row for every demo that was trained as it is configured now, and tested at other sizes since."""
    rows, machines = [], {}
    for kind, (data, sizes) in DEMOS.items():
        run = folder / f"{kind}_flexivit"
        report, other = run / "report.json", run / OTHER
        if is_recipe(run, kind, CONFIG) and _newer(other, report):
            rows.append({"demo": data, "trained": _top1(report), "never": _top1(other)})
            machines[where(read_json(report).get("versions", {}))] = None
        else:
            train, test = commands(kind, f"{folder.name}/{run.name}", sizes)
            stays("flexivit-accuracy", f"{train}; {test}")
    if len(rows) < len(DEMOS):
        return None
    train, test = commands("KIND", f"{folder.name}/KIND_flexivit", "[...]")
    columns = {"demo": "demo", "trained": "trained at", "never": "never trained at"}
    note = (
        f"Top-1 in percent, by `{train}`, then `{test}`, for KIND image and video, on {'; '.join(machines)}."
    )
    return table(columns, rows, note)


def commands(kind: str, run: str, sizes: str) -> tuple[str, str]:
    """What trains a demo, and what tests it at other sizes."""
    config = f"configs/{kind}/{CONFIG}"
    test = f"python tools/test_net.py --cfg {config} --checkpoint {run} --json {run}/{OTHER}"
    return f"python tools/train_net.py --cfg {config}", f"{test} methods.flexivit.evaluate_at={sizes}"


def _newer(path: Path, than: Path) -> bool:
    return path.is_file() and path.stat().st_mtime >= than.stat().st_mtime


def _top1(report: Path) -> str:
    content: Mapping[str, Any] = read_json(report)
    return ", ".join(f"{one['grid']} {one['top1']:.1f}" for one in content["fixed"])
