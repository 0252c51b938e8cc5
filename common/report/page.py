"""One HTML page about one or more runs: no network, no scripts, pictures inside. Its text is in template.html."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from revit.common.data.check.summary import quote
from revit.common.evaluation.confusion import NONE_RIGHT, assigned_against_needed, by_length, confused_pairs, per_class
from revit.common.evaluation.record import Seen
from revit.common.report.comparison import (
    comparison_columns,
    comparison_rows,
    comparison_warnings,
    protocol_letters,
    protocol_of,
)
from revit.common.report.pictures import confusion_matrix, examples
from revit.common.report.plots import accuracy_plot, curves_plot, operating_curves, runs_plot, time_plot
from revit.common.report.runs import RunReport
from revit.common.report.summary import RunSummary, TrainingCurves
from revit.common.report.tables import interval_text, percent_text, shown

MOST_POINTS = 12
"""Points of a calibration's curve in the table."""
HOW = {"fixed": "all at", "dealt": "dealt out without the assigner:", "assigner": "by the assigner:"}
"""Words for the ways in which an operating point chooses lengths."""


def render(summaries: Sequence[RunSummary]) -> str:
    """Return the page's HTML. What each run is worth is its first line."""
    import jinja2

    runs = [one.run for one in summaries]
    folder = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(loader=folder, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["shown"] = shown
    parts = [_run_parts(one, f"r{number}") for number, one in enumerate(summaries)]
    rows = [row for one in parts for row in one["rows"]]
    page = environment.get_template("template.html").render(
        runs=parts,
        unsaid={key for key in rows[0] if all(row[key] is None for row in rows)},
        adaptive=any("adaptive" in run.content for run in runs),
        compared=comparison_rows(runs) if len(runs) > 1 else [],
        compared_columns=comparison_columns(runs),
        compared_plots=_comparison_plots(runs),
        warnings=comparison_warnings(runs),
    )
    # Names of files that are no text cannot stand in UTF-8.
    return page.encode("utf-8", errors="replace").decode().lstrip()


def _run_parts(summary: RunSummary, key: str) -> dict[str, Any]:
    """Return what the template shows of a run; `key` begins the ids of its elements."""
    run, content = summary.run, summary.run.content
    rows = run.timed_rows()
    parts: dict[str, Any] = {
        "key": key,
        "report": run,
        "content": content,
        "missing": summary.missing,
        "rows": [_cells(row) for row in rows],
        "derived": any((row[name] or {}).get("derived") for row in rows for name in ("alone", "batched")),
        # One point alone is no plot; it stands in the table.
        "accuracy_plot": accuracy_plot(run, f"{key}-gmacs") if len(rows) > 1 else None,
        "operating_curves": operating_curves(run),
        "training": {
            stage: _training_plots(curves, f"{key}-{number}")
            for number, (stage, curves) in enumerate(summary.training.items())
        },
        "protocol": _flat(content.get("protocol", {})),
        "checks": [f"{split}: {quote(found)}" for split, found in content.get("data", {}).items()],
        "operating_points": _operating_points(content),
        "budget": _flat(content.get("budget") or {}),
    }
    if "speed" in content:
        parts["speed"] = [{**row, "ms": 1000 / row["per_second"]} for row in content["speed"]["rows"]]
        if len(run.input_times(best_batch=True)) > 1:
            parts["time_plots"] = [
                time_plot(run, best, f"{key}-{'batched' if best else 'alone'}") for best in (False, True)
            ]
    return parts if summary.record is None else parts | _record_parts(summary.record)


def _cells(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of `RunReport.timed_rows` as text."""
    return {
        **row,
        "top1": _points_text(row["top1"]),
        "top5": _points_text(row["top5"]),
        "interval": interval_text(row),
        "share": percent_text(row["share"]),
        "alone": _time_text(row["alone"]),
        "batched": _time_text(row["batched"]),
    }


def _points_text(points: float | None) -> str | None:
    return None if points is None else f"{points:.2f}"


def _time_text(times: Mapping[str, Any] | None) -> str | None:
    return None if times is None else f"{'~' if times.get('derived') else ''}{shown(float(times['ms']))}"


def _record_parts(record: Seen) -> dict[str, Any]:
    """Return what the template shows of classes, token lengths and examples."""
    parts: dict[str, Any] = {
        "classes": [
            {**row, "top1": _points_text(row["top1"]), "interval": interval_text(row)} for row in per_class(record)
        ],
        "confused": [{**row, "share": f"{row['share']:.1f} %"} for row in confused_pairs(record)],
        "policy": record.policy,
        "examples": examples(record),
        "frames": max((len(example.frames) for example in record.examples), default=0),
        **confusion_matrix(record),
    }
    if record.lengths is None:
        return parts
    parts["lengths"] = [
        {
            **row,
            "share": percent_text(row["share"]),
            "top1": _points_text(row["top1"]),
            **{f"at {grid}": _points_text(value) for grid, value in row["top1_at"].items()},
        }
        for row in by_length(record)
    ]
    parts["length_columns"] = {
        "length": "assigned",
        "inputs": "inputs",
        "share": "share",
        "top1": "top-1 % as assigned",
        **{f"at {grid}": f"top-1 % at {grid}" for grid in record.grids},
    }
    needed = [*(f"needs {grid}" for grid in record.grids), NONE_RIGHT]
    parts["needed"] = [
        {"assigned": grid, **dict(zip(needed, counts))} for grid, counts in assigned_against_needed(record).items()
    ]
    parts["needed_columns"] = {name: name for name in ("assigned", *needed)}
    return parts


def _operating_points(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return some of the points that a calibration found, from the cheapest to the dearest."""
    try:
        rows = [
            {
                "gmacs": float(point["gmacs"]),
                "top1": f"{point['top1']:.2f}",
                "interval": "{:.1f} to {:.1f}".format(*point["interval"]),
                "how": f"{HOW.get(point['how'], point['how'])} {_shares_text(point['share'])}",
            }
            for point in content.get("calibration", {}).get("points") or []
        ]
    except (TypeError, KeyError, ValueError, IndexError, AttributeError):
        return []  # of another version: it is left out
    every = max(1, -(-(len(rows) - 1) // MOST_POINTS))
    return [*rows[:-1:every], *rows[-1:]]


def _shares_text(shares: Mapping[str, float]) -> str:
    used = {grid: share for grid, share in shares.items() if share > 0}
    if len(used) == 1:
        return next(iter(used))
    return ", ".join(f"{grid} {100 * share:.0f} %" for grid, share in used.items())


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Return nested values under dotted names; lists of more than a few are told by their number."""
    flat: list[tuple[str, Any]] = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat += _flat(value, f"{prefix}{key}.")
            continue
        if isinstance(value, list):
            long = len(value) > 6 or any(isinstance(one, Mapping) for one in value)
            value = f"{len(value)} points" if long else ", ".join(map(shown, value))
        flat.append((f"{prefix}{key}", value))
    return flat


def _training_plots(curves: TrainingCurves, key: str) -> list[dict[str, str]]:
    several = " Each length has a loss of its own; they do not compare." if len(curves.loss) > 1 else ""
    rate = {"learning rate": curves.learning_rate} if curves.learning_rate else {}
    plots = (
        (curves.loss, "updates", "loss", "loss", f"Training loss.{several}"),
        (rate, "updates", "learning rate", "rate", "Learning rate."),
        (curves.top1, "epochs", "top-1 % on val", "val", "Accuracy on the val list while training."),
    )
    return [
        {"svg": curves_plot(lines, x, y, f"{key}-{name}"), "caption": caption}
        for lines, x, y, name, caption in plots
        if lines
    ]


def _comparison_plots(runs: Sequence[RunReport]) -> list[dict[str, str]]:
    """Return a plot of each group of runs that can be compared."""
    letters, plots = protocol_letters(runs), []
    for protocol, letter in letters.items():
        alike = [run for run in runs if protocol_of(run) == protocol]
        if len(alike) > 1:
            which = f" Runs of protocol {letter}." if len(letters) > 1 else ""
            caption = f"Accuracy against compute of all runs.{which}"
            plots.append({"svg": runs_plot(alike, f"all-{letter}"), "caption": caption})
    return plots
