"""The plots of the report's page, as SVG elements that can stand in it side by side."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import PurePath
from typing import Any
from warnings import catch_warnings, filterwarnings

from revit.common.report.runs import RunReport
from revit.common.report.schema import BASELINES
from revit.common.report.summary import Curve, is_number

SIZE = (4.6, 3.1)
"""Inches: at a phone's width the letters are as large as the text around them."""
MARKS = {
    "adaptive": ("*", "C3", 12),
    "random": ("X", "#555555", 8),
    "oracle": ("^", "C2", 9),
    "cascade": ("D", "C4", 7),
}
"""Mark, colour and size in points of each policy; where two meet, the smaller one lies on top."""
AXES = {
    "gmacs": ("GMACs of a view", "GMACs"),
    "alone": ("ms of an input, alone (batch 1)", "measured time, alone (batch 1)"),
    "batched": ("ms of an input, in the best batch", "measured time, in the best batch"),
}
"""Label of the axis, and the words for those who cannot see it."""
SHAPES = "osv^D"
"""Marks of runs side by side, ten colours each."""
LONGEST = 44
"""Letters of a run's name in a legend."""


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


def accuracy_plot(run: RunReport, key: str, against: str = "gmacs") -> str:
    """Draw top-1 against GMACs, or against the milliseconds of an input: `alone`, or `batched` in the best batch.

    Fixed grids are joined by a line, the other policies are single marks, hollow where their times are derived. GMACs have
    `operating_curves` beside them.
    """
    unit, label = AXES[against]
    rows = []
    for row in run.rows():
        times = {"ms": row["gmacs"]} if against == "gmacs" else row[against]
        if times:
            rows.append(row | {"x": times["ms"], "hollow": "derived" in times})
    fixed = [row for row in rows if row["length"] not in BASELINES]

    def draw(axes: Any) -> None:
        for name, curve in operating_curves(run).items() if against == "gmacs" else ():
            cascade, budget = {"linestyle": ":", "color": "C4"}, {"linestyle": "--", "color": "C1", "label": name}
            axes.plot(*zip(*curve), **(cascade if name == "cascade" else budget), linewidth=1.6)
        axes.errorbar(**_bars(fixed), fmt="o-", color="C0", capsize=3, label="fixed length")
        for row in fixed:
            place = {"xy": (row["x"], row["top1"]), "xytext": (6, -12), "textcoords": "offset points"}
            axes.annotate(row["length"], **place, fontsize=9.5, color="#333333")
        for row in rows:
            name = row["length"]
            if name in BASELINES:
                mark, colour, size = MARKS[name]
                inside, named = ("white", f"{name}, derived") if row["hollow"] else (colour, name)
                style = {"fmt": mark, "color": colour, "markersize": size, "markerfacecolor": inside}
                order = 5 - size / 100
                axes.errorbar(**_bars([row]), **style, markeredgewidth=1.5, capsize=3, label=named, zorder=order)
        _draw_legend(axes, 2 if any(row["hollow"] for row in rows) else 3)
        axes.locator_params(axis="x", nbins=6)  # small costs have long numbers
        axes.set(xlabel=unit, ylabel=run.accuracy_name)

    return svg(draw, key, f"top-1 against {label}")


def runs_plot(runs: Sequence[RunReport], key: str) -> str:
    """Draw all runs in one plot: their fixed lengths, and a star for the assigner."""
    names = _short([run.name for run in runs])

    def draw(axes: Any) -> None:
        for number, run in enumerate(runs):
            style = {"color": f"C{number % 10}"}
            shape, name = SHAPES[number // 10 % len(SHAPES)], _legend_label(names[number])
            rows = [row | {"x": row["gmacs"]} for row in run.rows()]
            fixed = [row for row in rows if row["length"] not in BASELINES]
            stars = [row for row in rows if row["length"] == "adaptive"]
            axes.errorbar(**_bars(fixed), **style, fmt=f"{shape}-", capsize=2, label=name)
            if stars:
                axes.errorbar(**_bars(stars), **style, fmt=MARKS["adaptive"][0], markersize=11, capsize=2)
        axes.locator_params(axis="x", nbins=6)
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


def _bars(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the arguments of `errorbar` for top-1 with its interval over `x`."""
    below = [max(row["top1"] - row["low"], 0) for row in rows]
    above = [max(row["high"] - row["top1"], 0) for row in rows]
    y = [row["top1"] for row in rows]
    return {"x": [row["x"] for row in rows], "y": y, "yerr": [below, above], "elinewidth": 1}


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
    place = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderaxespad": 0.2}
    axes.legend(**place, ncols=columns, fontsize=9.5, frameon=False, columnspacing=1.2, handletextpad=0.5)
