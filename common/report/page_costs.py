"""The page's tables of accuracy and compute, and of budgets: what stands in their cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from revit.common.report.facts import Facts
from revit.common.report.plots import operating_curves
from revit.common.report.runs import RunReport
from revit.common.report.tables import shown
from revit.common.report.times import DERIVED

COLUMNS = {
    "length": "token length",
    "top1": "top-1 %",
    "interval": "95 % interval",
    "top5": "top-5 %",
    "gmacs": "GMACs a view",
    "assigner_gmacs": "of them assigner",
    "gflops": "GFLOPs a view",
    "gmacs_total": "GMACs, all views",
    "params": "parameters",
    "share": "adaptive's share",
    "alone": "ms, alone",
    "batched": "ms, best batch",
    "per_second": "samples/s in the test",
}
BUDGET_COLUMNS = {
    "gmacs": "GMACs a view",
    "top1": "top-1 % to expect",
    "interval": "95 % interval",
    "how": "lengths",
}
MOST_POINTS = 12
"""Of a calibration's curve in the table."""
HOW = {"fixed": "all at", "dealt": "dealt out without the assigner:", "assigner": "by the assigner:"}
"""How an operating point chooses lengths, in words."""


def columns(facts: Sequence[Facts]) -> dict[str, str]:
    """Those of the first table that say something of some run; the test's own rate only where no speed was measured."""
    rows = [cells(row) for one in facts for row in one.rows()]
    unsaid = {key for key in COLUMNS if all(row[key] is None for row in rows)}
    if any("speed" in one.run.content for one in facts):
        unsaid.add("per_second")
    return {key: heading for key, heading in COLUMNS.items() if key not in unsaid}


def cells(row: Mapping[str, Any]) -> dict[str, Any]:
    """Of a run's row (`Facts.rows`), as text."""
    share = row["share"]
    return {
        **row,
        "top1": f"{row['top1']:.2f}",
        "top5": None if row["top5"] is None else f"{row['top5']:.2f}",
        "interval": f"{row['low']:.1f} to {row['high']:.1f}",
        "share": None if share is None else f"{100 * share:.1f} %",
        **{name: _time(row[name]) for name in ("alone", "batched")},
    }


def _time(took: Mapping[str, Any] | None) -> str | None:
    """Milliseconds of a row of `times`."""
    return None if took is None else f"{'~' if took.get('derived') else ''}{shown(float(took['ms']))}"


def is_derived(facts: Facts) -> bool:
    """Whether some of its times are."""
    return any((row[name] or {}).get("derived") for row in facts.rows() for name in ("alone", "batched"))


def rows_caption(facts: Facts) -> str:
    """What the table's numbers include, and which were not measured."""
    assigned = facts.run.content.get("adaptive", {})
    sentences = []
    if assigned.get("assigner_gmacs"):
        sentences.append(
            f"The adaptive row's GMACs and parameters include the assigner's: {assigned['assigner_gmacs']:.3g} GMACs"
            f" ({100 * assigned['assigner_gmacs'] / assigned['gmacs']:.1f} % of them)."
        )
    if is_derived(facts):
        sentences.append(f"{DERIVED}; sorting inputs into batches not counted.")
    return " ".join(sentences)


def accuracy_caption(run: RunReport) -> str:
    """Says what the plot's curves are."""
    curves = operating_curves(run)
    dotted = " Dotted: the cascade from one end to the other." if "cascade" in curves else ""
    dashed = " Dashed: what budgets reach." if set(curves) - {"cascade"} else ""
    return f"Accuracy against compute.{dotted}{dashed}"


def operating_points(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Some of the points that a calibration found, from the cheapest to the dearest; those with all that they need."""
    points = content.get("calibration", {}).get("points")
    try:
        rows = [
            {
                "gmacs": float(point["gmacs"]),
                "top1": f"{point['top1']:.2f}",
                "interval": "{:.1f} to {:.1f}".format(*point["interval"]),
                "how": f"{HOW.get(point['how'], point['how'])} {_shares(point['share'])}",
            }
            for point in points or []
        ]
    except (TypeError, KeyError, ValueError, IndexError, AttributeError):
        return []  # of another version: it is left out
    every = max(1, -(-(len(rows) - 1) // MOST_POINTS))
    return [*rows[:-1:every], *rows[-1:]]


def _shares(share: Mapping[str, float]) -> str:
    taken = {grid: part for grid, part in share.items() if part > 0}
    if len(taken) == 1:
        return next(iter(taken))
    return ", ".join(f"{grid} {100 * part:.0f} %" for grid, part in taken.items())


def flat(values: Mapping[str, Any], name: str = "") -> list[tuple[str, Any]]:
    """Nested values under dotted names; lists of more than a few are told by their number."""
    found: list[tuple[str, Any]] = []
    for key, value in values.items():
        full = f"{name}.{key}" if name else str(key)
        if isinstance(value, Mapping):
            found += flat(value, full)
        elif isinstance(value, list) and (len(value) > 6 or any(isinstance(one, Mapping) for one in value)):
            found.append((full, f"{len(value)} points"))
        elif isinstance(value, list):
            found.append((full, ", ".join(shown(one) for one in value)))
        else:
            found.append((full, value))
    return found
