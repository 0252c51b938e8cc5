"""The plots of the report's page, as SVG elements that can stand in it side by side."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from html import escape
from pathlib import PurePath
from typing import Any
from warnings import catch_warnings, filterwarnings

from revit.common.report.runs import RunReport
from revit.common.report.schema import BASELINES
from revit.common.report.summary import Curve, is_number

SIZE = (4.6, 3.1)
"""Inches: at a phone's width the letters are as large as the text around them."""
MARKS = {"adaptive": "*", "random": "X", "oracle": "^", "cascade": "D"}
COLOURS = {"adaptive": "C3", "random": "#555555", "oracle": "C2", "cascade": "C4"}
SIZES = {"adaptive": 12, "random": 8, "oracle": 9, "cascade": 7}
"""Sizes of the marks in points; where two policies meet, the smaller one lies on top."""
SHAPES = "osv^D"
"""Marks of runs side by side, ten colours each."""
LONGEST = 44
"""Letters of a run's name in a legend."""
CASCADE_LINE = {"linestyle": ":", "color": "C4"}
BUDGET_LINE = {"linestyle": "--", "color": "C1"}


def svg(draw: Callable[[Any], None], key: str, label: str, size: tuple[float, float] = SIZE) -> str:
    """Return an SVG element of what `draw` puts on matplotlib's axes, with nothing that points outside of it.

    key: letters, digits and dashes that begin all its ids, so that they differ from those of the page's other elements.
    label: what it shows, for those who cannot see it. size: inches.
    """
    from matplotlib import rc_context  # takes a second to load
    from matplotlib.figure import Figure

    style: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": key,
        "font.size": 10.5,
        "font.family": "sans-serif",
        "text.parse_math": False,  # names are names, whatever signs are in them
    }
    with rc_context(style), catch_warnings():
        # The browser has letters that matplotlib's font has not.
        filterwarnings("ignore", message="Glyph .* missing")
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots()
        axes.grid(alpha=0.3)
        axes.margins(0.12)
        axes.spines[["top", "right"]].set_visible(False)
        draw(axes)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
    element = text.getvalue()
    element = element[element.index("<svg") :]
    element = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", element, flags=re.DOTALL)
    element = re.sub(r'(\bid="|href="#|url\(#)', rf"\1{key}-", element)
    # In a page the namespaces are known.
    element = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", element).replace("xlink:href", "href")
    described = f'role="img" aria-label="{escape(label, quote=True)}"'
    return re.sub(r'width="[\d.]+pt" height="[\d.]+pt"', lambda _: described, element, count=1)


def accuracy_plot(run: RunReport, key: str) -> str:
    """Draw top-1 against GMACs: fixed lengths joined by a line, the other policies as single marks, `operating_curves`."""

    def draw(axes: Any) -> None:
        for name, curve in operating_curves(run).items():
            style = {**CASCADE_LINE} if name == "cascade" else {**BUDGET_LINE, "label": name}
            axes.plot(*zip(*curve), **style, linewidth=1.6)
        _draw_policies(axes, run.rows(), lambda row: row["gmacs"])
        axes.set(xlabel="GMACs of a view", ylabel=run.accuracy_name)

    return svg(draw, key, "top-1 against GMACs")


def time_plot(run: RunReport, best_batch: bool, key: str) -> str:
    """Draw top-1 against the milliseconds of an input (`RunReport.input_times`); derived times are hollow."""
    batch = "in the best batch" if best_batch else "alone (batch 1)"
    times = run.input_times(best_batch)
    hollow = {name for name, row in times.items() if row.get("derived")}

    def draw(axes: Any) -> None:
        rows = [row for row in run.rows() if row["length"] in times]
        _draw_policies(axes, rows, lambda row: times[row["length"]]["ms"], hollow)
        axes.set(xlabel=f"ms of an input, {batch}", ylabel=run.accuracy_name)

    return svg(draw, key, f"top-1 against measured time, {batch}")


def runs_plot(runs: Sequence[RunReport], key: str) -> str:
    """Draw all runs in one plot: their fixed lengths, and a star for the assigner."""
    names = _short([run.name for run in runs])

    def draw(axes: Any) -> None:
        for number, run in enumerate(runs):
            style = {"color": f"C{number % 10}"}
            shape, name = SHAPES[number // 10 % len(SHAPES)], _legend_label(names[number])
            fixed = [row for row in run.rows() if row["length"] not in BASELINES]
            stars = [row for row in run.rows() if row["length"] == "adaptive"]
            axes.errorbar(**_bars(fixed), **style, fmt=f"{shape}-", capsize=2, label=name)
            if stars:
                axes.errorbar(**_bars(stars), **style, fmt=MARKS["adaptive"], markersize=11, capsize=2)
        axes.set(xlabel="GMACs of a view", ylabel=runs[0].accuracy_name)
        _draw_legend(axes, 1)

    width, height = SIZE
    return svg(draw, key, "top-1 against GMACs of all runs", (width, height + 0.19 * len(runs)))


def curves_plot(curves: Mapping[str, Curve], x: str, y: str, key: str) -> str:
    """Draw curves of a training, a line for each name; x and y are what the axes show."""

    def draw(axes: Any) -> None:
        for name, curve in curves.items():
            mark = "-" if len(curve) > 12 else "o-"
            axes.plot(*zip(*curve), mark, markersize=3, label=_legend_label(name), linewidth=1.3)
        axes.set(xlabel=x, ylabel=y)
        if len(curves) > 1:
            _draw_legend(axes, 4)
        axes.xaxis.get_major_locator().set_params(integer=True, nbins=6)

    return svg(draw, key, f"{y} over {x}")


def operating_curves(run: RunReport) -> dict[str, Curve]:
    """Return (GMACs, top-1 in percent) by name: along the cascade's thresholds, and the budgets that a calibration found
    within reach (on its own split)."""
    calibration = run.content.get("calibration", {})
    points = {
        "cascade": run.content.get("cascade", {}).get("curve"),
        f"budgets, on {calibration.get('split', 'its split')}": calibration.get("points"),
    }
    curves = {name: _points(values) for name, values in points.items()}
    return {name: curve for name, curve in curves.items() if len(curve) > 1}


def _points(values: Any) -> Curve:
    """Return those entries of a list that are points with numbers."""
    points = [value for value in values if isinstance(value, Mapping)] if isinstance(values, list) else []
    pairs = [(point.get("gmacs"), point.get("top1")) for point in points]
    return sorted((float(x), float(y)) for x, y in pairs if is_number(x) and is_number(y))


def _draw_policies(
    axes: Any, rows: Sequence[Mapping[str, Any]], x: Callable[[Mapping[str, Any]], float], hollow: Collection[str] = ()
) -> None:
    fixed = [row for row in rows if row["length"] not in BASELINES]
    axes.errorbar(**_bars(fixed, x), fmt="o-", color="C0", capsize=3, label="fixed length")
    for row in fixed:
        place = {"xy": (x(row), row["top1"]), "xytext": (6, -12), "textcoords": "offset points"}
        axes.annotate(row["length"], **place, fontsize=9.5, color="#333333")
    for row in rows:
        name = row["length"]
        if name in BASELINES:
            axes.errorbar(
                **_bars([row], x),
                fmt=MARKS[name],
                color=COLOURS[name],
                markersize=SIZES[name],
                markerfacecolor="white" if name in hollow else COLOURS[name],
                markeredgewidth=1.5,
                capsize=3,
                label=f"{name}, derived" if name in hollow else name,
                zorder=5 - SIZES[name] / 100,
            )
    _draw_legend(axes, 2 if hollow else 3)


def _bars(
    rows: Sequence[Mapping[str, Any]], x: Callable[[Mapping[str, Any]], float] = lambda row: row["gmacs"]
) -> dict[str, Any]:
    """Return the arguments of `errorbar` for top-1 with its interval."""
    below = [max(row["top1"] - row["low"], 0) for row in rows]
    above = [max(row["high"] - row["top1"], 0) for row in rows]
    y = [row["top1"] for row in rows]
    return {"x": [x(row) for row in rows], "y": y, "yerr": [below, above], "elinewidth": 1}


def _short(names: Sequence[str]) -> list[str]:
    """Return paths without the folders that all are in, and of long ones the end."""
    parents = map(str, PurePath(names[0]).parents)
    shared = (len(one) + 1 for one in parents if all(name.startswith(f"{one}/") for name in names))
    start = max(shared, default=0)
    rests = [name[start:] for name in names]
    return [rest if len(rest) <= LONGEST else f"\u2026{rest[1 - LONGEST :]}" for rest in rests]


def _legend_label(name: str) -> str:
    """Return the name as a legend shows it: matplotlib leaves out what begins with an underscore."""
    return f"\u200b{name}" if name.startswith("_") else name


def _draw_legend(axes: Any, columns: int) -> None:
    """Draw it above the plot, where it hides nothing."""
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=columns,
        fontsize=9.5,
        frameon=False,
        borderaxespad=0.2,
        columnspacing=1.2,
        handletextpad=0.5,
    )
