"""The plots of the report's page, as SVG elements that can stand in it side by side."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

from revit.common.report.curves import Curve, Training
from revit.common.report.runs import BASELINES, RunReport

SIZE = (4.6, 3.1)
"""Inches: at a phone's width the letters are as large as the text around them."""
MARKS = {"adaptive": "*", "random": "x", "oracle": "^", "cascade": "D"}
COLOURS = {"adaptive": "C3", "random": "C7", "oracle": "C2", "cascade": "C4"}


def svg(draw: Callable[[Any], None], key: str, label: str) -> str:
    """An SVG element of what `draw` puts on matplotlib's axes, with nothing that points outside of it.

    key: letters, digits and dashes that begin all its ids, so that they differ from those of the page's other elements.
    label: what it shows, for those who cannot see it.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    style: Any = {"svg.fonttype": "none", "svg.hashsalt": key, "font.size": 10, "font.family": "sans-serif"}
    with rc_context(style):
        figure = Figure(figsize=SIZE, layout="constrained")
        axes = figure.subplots()
        axes.grid(alpha=0.3)
        axes.margins(0.12)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        draw(axes)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
    found = text.getvalue()
    found = found[found.index("<svg") :]
    found = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", found, flags=re.DOTALL)
    found = re.sub(r'(\bid="|href="#|url\(#)', rf"\1{key}-", found)
    # In a page the namespaces are known.
    found = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", found).replace("xlink:href", "href")
    described = f'role="img" aria-label="{escape(label, quote=True)}"'
    return re.sub(r'width="[\d.]+pt" height="[\d.]+pt"', lambda _: described, found, count=1)


def accuracy_plot(run: RunReport, key: str, label: str = "top-1 against GMACs") -> str:
    """Top-1 against GMACs: fixed lengths joined by a line, the other policies as single marks, curves of operating points
    where the run has some."""

    def draw(axes: Any) -> None:
        for name, curve in operating_curves(run).items():
            label = name if name not in BASELINES else None
            axes.plot(*zip(*curve), "--", color=COLOURS.get(name, "C5"), linewidth=1, alpha=0.7, label=label)
        _policies(axes, run.rows(), lambda row: row["gmacs"])
        axes.set(xlabel="GMACs of a view", ylabel="top-1 %")

    return svg(draw, key, label)


def time_plot(run: RunReport, best: bool, key: str) -> str:
    """Top-1 against the measured milliseconds of an input, alone or (`best`) in the best batch."""
    batch = "in the best batch" if best else "alone (batch 1)"
    took = {name: row["ms"] for name, row in speeds(run, best).items()}

    def draw(axes: Any) -> None:
        rows = [row for row in run.rows() if row["length"] in took]
        _policies(axes, rows, lambda row: took[row["length"]])
        axes.set(xlabel=f"measured ms of an input, {batch}", ylabel="top-1 %")

    return svg(draw, key, f"top-1 against measured time, {batch}")


def speeds(run: RunReport, best: bool) -> dict[str, dict[str, Any]]:
    """Token length -> the row of `speed` of an input alone, or (`best`) of the batch with the most inputs a second; `ms` is
    the mean time of an input."""
    found: dict[str, dict[str, Any]] = {}
    for row in run.content.get("speed", {}).get("rows", []):
        better = row["per_second"] > found.get(row["grid"], row)["per_second"]
        if (best and (better or row["grid"] not in found)) or (not best and row["batch"] == 1):
            found[row["grid"]] = {**row, "ms": 1000 / row["per_second"]}
    return found


def runs_plot(runs: Sequence[RunReport], key: str) -> str:
    """All runs in one plot: their fixed lengths, and a star for the assigner."""

    def draw(axes: Any) -> None:
        for number, run in enumerate(runs):
            colour, rows = f"C{number % 10}", run.rows()
            fixed = [row for row in rows if row["length"] not in BASELINES]
            axes.errorbar(
                **_bars(fixed, lambda row: row["gmacs"]), fmt="o-", color=colour, capsize=2, label=run.name
            )
            for row in rows:
                if row["length"] == "adaptive":
                    axes.errorbar(
                        **_bars([row], lambda row: row["gmacs"]),
                        fmt=MARKS["adaptive"],
                        color=colour,
                        markersize=11,
                        capsize=2,
                    )
        axes.set(xlabel="GMACs of a view", ylabel="top-1 %")
        _legend(axes, 1)

    return svg(draw, key, "top-1 against GMACs of all runs")


def loss_plot(training: Training, key: str) -> str:
    """Loss over updates, a line for each token length."""
    return _curves(training.loss, key, "updates", "loss")


def rate_plot(training: Training, key: str) -> str:
    """Learning rate over updates."""
    return _curves({"learning rate": training.learning_rate}, key, "updates", "learning rate")


def val_plot(training: Training, key: str) -> str:
    """Top-1 on the val list over epochs, a line for each token length."""
    return _curves(training.top1, key, "epochs", "top-1 % on val")


def operating_curves(run: RunReport) -> dict[str, Curve]:
    """Name -> (GMACs, top-1 in percent) along the cascade's thresholds, and the budgets that a calibration found within reach
    (on its own split)."""
    calibration = run.content.get("calibration", {})
    points = {
        "cascade": run.content.get("cascade", {}).get("curve"),
        f"budgets, on {calibration.get('split', 'its split')}": calibration.get("points"),
    }
    curves = {name: _points(some) for name, some in points.items()}
    return {name: curve for name, curve in curves.items() if len(curve) > 1}


def _points(some: Any) -> Curve:
    """What in a list are points with numbers."""
    found: Curve = []
    for point in some if isinstance(some, list) else []:
        x, y = (point.get("gmacs"), point.get("top1")) if isinstance(point, Mapping) else (None, None)
        if (
            isinstance(x, int | float)
            and isinstance(y, int | float)
            and math.isfinite(x)
            and math.isfinite(y)
        ):
            found.append((float(x), float(y)))
    return sorted(found)


def _policies(axes: Any, rows: Sequence[Mapping[str, Any]], place: Callable[[Any], float]) -> None:
    fixed = [row for row in rows if row["length"] not in BASELINES]
    axes.errorbar(**_bars(fixed, place), fmt="o-", color="C0", capsize=3, label="fixed length")
    for row in fixed:
        axes.annotate(
            row["length"],
            (place(row), row["top1"]),
            textcoords="offset points",
            xytext=(6, -12),
            fontsize=9,
            color="#333333",
        )
    for row in rows:
        name = row["length"]
        if name in BASELINES:
            axes.errorbar(
                **_bars([row], place),
                fmt=MARKS[name],
                color=COLOURS[name],
                markersize=10,
                capsize=3,
                label=name,
            )
    _legend(axes, 3)


def _legend(axes: Any, columns: int) -> None:
    """Above the plot, where it hides nothing."""
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=columns,
        fontsize=8,
        frameon=False,
        borderaxespad=0.2,
        columnspacing=1.2,
        handletextpad=0.5,
    )


def _bars(rows: Sequence[Mapping[str, Any]], place: Callable[[Any], float]) -> dict[str, Any]:
    return {
        "x": [place(row) for row in rows],
        "y": [row["top1"] for row in rows],
        "yerr": [
            [max(row["top1"] - row["low"], 0) for row in rows],
            [max(row["high"] - row["top1"], 0) for row in rows],
        ],
        "elinewidth": 1,
    }


def _curves(curves: Mapping[str, Curve], key: str, x: str, y: str) -> str:
    def draw(axes: Any) -> None:
        for name, curve in curves.items():
            axes.plot(*zip(*curve), "-" if len(curve) > 12 else "o-", markersize=3, label=name, linewidth=1.3)
        axes.set(xlabel=x, ylabel=y)
        if len(curves) > 1:
            _legend(axes, 4)
        axes.xaxis.get_major_locator().set_params(integer=True, nbins=6)

    return svg(draw, key, f"{y} over {x}")
