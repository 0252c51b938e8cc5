"""The table of budgets: what was asked for, predicted and achieved, by benchmarks/budgets.py."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from made_tables.markdown import read_json, stays, table
from made_tables.recipes import where

RUNS = {"image": "image_demo", "video": "demo"}
COLUMNS = {
    "asked": "asked",
    "predicted_top1": "predicted top-1 (95 %)",
    "predicted_gmacs": "predicted GMACs",
    "test_gmacs": "test_net: GMACs",
    "test_top1": "top-1",
    "predict_gmacs": "predict: GMACs",
    "predict_top1": "top-1",
}


def budgets(kind: str, path: Path) -> str | None:
    """Behind an achieved cost stands how far it is from the predicted one."""
    if not path.is_file():
        runs = path.parent.parent.name
        command = f"python benchmarks/budgets.py --run {runs}/{RUNS[kind]} --json {runs}/{path.parent.name}/{path.name}"
        stays(f"budgets-{kind}", f"python tools/train_net.py --cfg configs/{kind}/demo.yaml; {command}")
        return None
    content = read_json(path)
    rows = [_in_words(row) for row in content["rows"]]
    samples = content["rows"][0]["samples"]
    note = f"By `{content['command']}` on {where(content['versions'])}; {samples:,} test {'clips' if kind == 'video' else 'pictures'}."
    return table(COLUMNS, rows, note)


def _in_words(row: Mapping[str, Any]) -> dict[str, str]:
    low_high = row["predicted_interval"]
    interval = "" if low_high is None else " ({:.1f} to {:.1f})".format(*low_high)

    def cost(key: str) -> str:
        return f"{row[key]:.4g} ({100 * (row[key] / row['predicted_gmacs'] - 1):+.1f} %)"

    return {
        "asked": f"`{row['asked']}`",
        "predicted_top1": f"{row['predicted_top1']:.1f}{interval}",
        "predicted_gmacs": f"{row['predicted_gmacs']:.4g}",
        "test_gmacs": cost("test_gmacs"),
        "test_top1": f"{row['test_top1']:.2f}",
        "predict_gmacs": cost("predict_gmacs"),
        "predict_top1": f"{row['predict_top1']:.2f}",
    }
