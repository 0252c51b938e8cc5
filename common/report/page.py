"""One HTML page about one or more runs: no network, pictures inside, one script that sorts. Its text is in template.html."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from revit.common.data.check.summary import quote
from revit.common.evaluation.record import (
    NONE_RIGHT,
    EvaluationRecord,
    assigned_against_needed,
    by_length,
    confused_pairs,
    confusion,
    per_class,
)
from revit.common.report.comparison import (
    accuracy_name,
    comparison_columns,
    comparison_rows,
    comparison_warnings,
    protocol_letters,
)
from revit.common.report.plots import accuracy_plot, curves_plot, operating_curves, runs_plot
from revit.common.report.reliability_plot import reliability_parts
from revit.common.report.runs import RunReport
from revit.common.report.samples import SAMPLE_COLUMNS, data_url, example_parts, sample_parts
from revit.common.report.summary import RunSummary, TrainingCurves
from revit.common.report.tables import interval_text, marked, percent_text, shown

MOST_POINTS = 12
"""Points of a calibration's curve in the table."""
HOW = {"fixed": "all at", "dealt": "dealt out without the assigner:", "assigner": "by the assigner:"}
"""Words for the ways in which an operating point chooses grids."""
MOST_IN_TABLE = 20
"""Classes of a confusion matrix with numbers; more become a picture."""
MOST_PIXELS = 1000
"""Sides of that picture; of more classes several share a pixel."""
MOST_IN_PICTURE = 5000
"""Classes beyond which a matrix shows nothing."""
DARK = np.array([16, 56, 107])


def render(summaries: Sequence[RunSummary]) -> str:
    """Return the page's HTML. What each run is worth is its first line."""
    import jinja2

    runs = [one.run for one in summaries]
    folder = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(loader=folder, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["shown"] = shown
    parts = [_run_parts(one, f"r{number}") for number, one in enumerate(summaries)]
    rows = [row for one in parts for row in one["rows"]]
    script = (Path(__file__).parent / "sort.js").read_text()
    page = environment.get_template("template.html").render(
        runs=parts,
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        title=runs[0].name if len(runs) == 1 else f"Accuracy, compute and speed of {len(runs)} runs",
        date=max((one.date for one in summaries if one.date), default=None),
        sample_columns=SAMPLE_COLUMNS,
        unsaid={key for key in rows[0] if all(row[key] is None for row in rows)},
        adaptive=any("adaptive" in run.content for run in runs),
        top1=accuracy_name(runs),
        compared=comparison_rows(runs) if len(runs) > 1 else [],
        compared_columns=comparison_columns(runs),
        compared_plots=_comparison_plots(runs),
        warnings=comparison_warnings(runs),
    )
    # Names of files that are no text cannot stand in UTF-8.
    return page.encode("utf-8", errors="replace").decode().lstrip()


def _run_parts(summary: RunSummary, key: str) -> dict[str, Any]:
    """Return what the template shows of a run; `key` begins the ids of its elements."""
    run, content, record = summary.run, summary.run.content, summary.record
    rows = run.rows()
    parts: dict[str, Any] = {
        "key": key,
        "report": run,
        "content": content,
        "date": summary.date,
        "missing": summary.missing,
        "headline": _headline(run, rows),
        **sample_parts(summary.samples),
        "rows": [
            _as_text(row)
            | {name: marked(row[name], "ms") for name in ("alone", "batched")}
            | {name: _points(row[name]) for name in ("top5", "map")}
            for row in rows
        ],
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
            parts["time_plots"] = [accuracy_plot(run, f"{key}-{name}", name) for name in ("alone", "batched")]
    parts |= reliability_parts(run, f"{key}-calibration")
    if "classes" in content:
        names = ("ap", "precision", "recall", "f1")
        parts["label_classes"] = [{**row, **{name: _points(row[name]) for name in names}} for row in content["classes"]]
    if record is not None:
        parts |= {
            "policy": record.policy,
            "examples": example_parts(record, summary.samples),
            "frames": max((len(example.frames) for example in record.examples), default=0),
            **_length_tables(record, run.accuracy_name),
        }
    if record is not None and record.scores is None:
        parts |= {
            "classes": [_as_text(row) for row in per_class(record)],
            "confused": [{**row, "share": f"{row['share']:.1f} %"} for row in confused_pairs(record)],
            **_confusion_matrix(record),
        }
    return parts


def _headline(run: RunReport, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Return the numbers that a reader looks for first, each with its name and what is to be known of it."""
    longest, row = rows[0], next((one for one in rows if one["length"] == "adaptive"), rows[0])
    adaptive = row is not longest
    cards = [
        {
            "name": run.accuracy_name.removesuffix(" %")
            + (", by the assigner" if adaptive else f" at {row['length']}"),
            "value": f"{row['top1']:.1f} %",
            "note": f"95 %: {interval_text(row)}",
        }
    ]
    if row["map"] is not None:
        cards.append({"name": "mAP", "value": f"{row['map']:.1f} %", "note": "mean average precision"})
    if "chance" in run.content:
        cards.append(
            {"name": "chance", "value": f"{run.content['chance']:.1f} %", "note": "always the commonest class"}
        )
    if adaptive:
        share, note = row["gmacs"] / longest["gmacs"], f"of {longest['length']}, {shown(longest['gmacs'])} GMACs a view"
        cards.append({"name": "cost", "value": f"{100 * share:.0f} %", "note": note})
    else:
        cards.append({"name": "cost", "value": shown(row["gmacs"]), "note": "GMACs a view"})
    if row["alone"]:
        device = run.content["speed"]["device"]
        cards.append(
            {"name": "time of one input", "value": f"{marked(row['alone'], 'ms')} ms", "note": f"alone, {device}"}
        )
    failed = f"{run.num_failed:,} could not be read" if run.num_failed else "all could be read"
    cards.append({"name": f"{run.inputs} tested", "value": f"{run.num_evaluated:,}", "note": failed})
    return cards


def _as_text(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row with its top-1, interval and share as text, as far as it has them."""
    text = {**row, "top1": _points(row["top1"])}
    if "low" in row:
        text["interval"] = interval_text(row)
    if "share" in row:
        text["share"] = percent_text(row["share"])
    return text


def _points(points: float | None) -> str | None:
    return None if points is None else f"{points:.2f}"


def _length_tables(record: EvaluationRecord, what: str) -> dict[str, Any]:
    """Return rows and columns of the tables of assigned grids; nothing without an assigner."""
    if record.grid_index is None:
        return {}
    needed = [*(f"needs {grid}" for grid in record.grids), NONE_RIGHT]
    return {
        "lengths": [
            _as_text(row) | {f"at {grid}": _points(value) for grid, value in row["top1_at"].items()}
            for row in by_length(record)
        ],
        "length_columns": {
            "length": "assigned",
            "inputs": "inputs",
            "share": "share",
            "top1": f"{what} as assigned",
            **{f"at {grid}": f"{what} at {grid}" for grid in record.grids},
        },
        "needed": [
            {"assigned": grid, **dict(zip(needed, counts))} for grid, counts in assigned_against_needed(record).items()
        ],
        "needed_columns": {name: name for name in ("assigned", *needed)},
    }


def _operating_points(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return some of the points that a calibration found, from the cheapest to the dearest."""
    rows = []
    try:
        for point in content.get("calibration", {}).get("points") or []:
            used = {grid: share for grid, share in point["share"].items() if share > 0}
            shares = ", ".join(f"{grid} {100 * share:.0f} %" for grid, share in used.items())
            rows.append(
                {
                    "gmacs": float(point["gmacs"]),
                    "top1": f"{point['top1']:.2f}",
                    "interval": "{:.1f} to {:.1f}".format(*point["interval"]),
                    "how": f"{HOW.get(point['how'], point['how'])} {shares if len(used) != 1 else next(iter(used))}",
                }
            )
    except (TypeError, KeyError, ValueError, IndexError, AttributeError):
        return []  # of another version: it is left out
    every = max(1, -(-(len(rows) - 1) // MOST_POINTS))
    return [*rows[:-1:every], *rows[-1:]]


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
        (curves.map, "epochs", "mAP % on val", "map", "Mean average precision on the val list while training."),
    )
    return [
        {"svg": curves_plot(lines, x, y, f"{key}-{name}"), "caption": caption}
        for lines, x, y, name, caption in plots
        if lines
    ]


def _comparison_plots(runs: Sequence[RunReport]) -> list[dict[str, str]]:
    """Return a plot of each group of runs that can be compared."""
    letters, plots = protocol_letters(runs), []
    for letter in dict.fromkeys(letters):
        alike = [run for run, one in zip(runs, letters) if one == letter]
        if len(alike) > 1:
            which = f" Runs of protocol {letter}." if len(alike) < len(runs) else ""
            caption = f"Accuracy against compute of all runs.{which}"
            plots.append({"svg": runs_plot(alike, f"all-{letter}"), "caption": caption})
    return plots


def _confusion_matrix(record: EvaluationRecord) -> dict[str, Any]:
    """Return the confusion as `matrix` (a table) or `map` (a picture), by the number of classes; neither of too many."""
    if len(record.label_names) > MOST_IN_PICTURE:
        return {}
    table = confusion(record)
    if len(record.label_names) > MOST_IN_TABLE:
        return {"map": _map(table)}
    rows = []
    for name, counts in zip(record.label_names, table.tolist()):
        shares = [count / max(sum(counts), 1) for count in counts]
        cells = [
            {
                "count": count,
                "colour": ",".join(map(str, _colour(np.array(share)).tolist())),
                "ink": "#fff" if share > 0.45 else "#1a1a1a",
            }
            for count, share in zip(counts, shares)
        ]
        rows.append({"name": name, "cells": cells})
    return {"matrix": {"names": record.label_names, "rows": rows}}


def _map(table: Tensor) -> dict[str, Any]:
    """Return the matrix as a PNG picture, a share of 0 white."""
    classes = len(table)
    each = -(-classes // MOST_PIXELS)
    side = -(-classes // each)
    padded = np.zeros((side * each, side * each))
    padded[:classes, :classes] = table.numpy()
    blocks = padded.reshape(side, each, side, each).sum(axis=(1, 3))
    shares = blocks / np.maximum(blocks.sum(axis=1, keepdims=True), 1)
    scale = max(1, 400 // side)
    size = (side * scale, side * scale)
    picture = Image.fromarray(_colour(shares)).resize(size, Image.Resampling.NEAREST)
    png = io.BytesIO()
    picture.quantize(64).save(png, format="PNG", optimize=True)
    return {"source": data_url("png", png.getvalue()), "size": size, "classes": classes}


def _colour(shares: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Turn shares (...) into RGB (..., 3), white to dark; a square root makes small ones visible."""
    strength = np.sqrt(shares)[..., None]
    colours: NDArray[np.uint8] = (255 + strength * (DARK - 255)).round().astype(np.uint8)
    return colours
