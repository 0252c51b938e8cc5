"""The plots of the report's page, as SVG elements that can stand in it side by side."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from html import escape
from pathlib import PurePath
from typing import Any
from warnings import catch_warnings, filterwarnings

from revit.common.report.contents import BASELINES
from revit.common.report.curves import Curve
from revit.common.report.runs import RunReport
from revit.common.report.times import times

SIZE = (4.6, 3.1)
"""Inches: at a phone's width the letters are as large as the text around them."""
MARKS = {"adaptive": "*", "random": "X", "oracle": "^", "cascade": "D"}
COLOURS = {"adaptive": "C3", "random": "#555555", "oracle": "C2", "cascade": "C4"}
SIZES = {"adaptive": 12, "random": 8, "oracle": 9, "cascade": 7}
"""Of the marks in points; where two policies meet, the smaller one lies on top."""
SHAPES = "osv^D"
"""Of runs side by side, ten colours each."""
LONGEST = 44
"""Letters of a run's name in a legend."""
CURVES = {"cascade": {"linestyle": ":", "color": "C4"}}
BUDGETS = {"linestyle": "--", "color": "C1"}


def svg(draw: Callable[[Any], None], key: str, label: str, size: tuple[float, float] = SIZE) -> str:
    """An SVG element of what `draw` puts on matplotlib's axes, with nothing that points outside of it.

    key: letters, digits and dashes that begin all its ids, so that they differ from those of the page's other elements.
    label: what it shows, for those who cannot see it. size: inches.
    """
    from matplotlib import rc_context
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
            axes.plot(*zip(*curve), **CURVES.get(name, BUDGETS), linewidth=1.6, label=label)
        _policies(axes, run.rows(), lambda row: row["gmacs"])
        axes.set(xlabel="GMACs of a view", ylabel="top-1 %")

    return svg(draw, key, label)


def time_plot(run: RunReport, best: bool, key: str) -> str:
    """Top-1 against the milliseconds of an input, alone or (`best`) in the best batch; derived times (`times`) hollow."""
    batch = "in the best batch" if best else "alone (batch 1)"
    took = times(run, best)
    hollow = {name for name, row in took.items() if row.get("derived")}

    def draw(axes: Any) -> None:
        rows = [row for row in run.rows() if row["length"] in took]
        _policies(axes, rows, lambda row: took[row["length"]]["ms"], hollow)
        axes.set(xlabel=f"ms of an input, {batch}", ylabel="top-1 %")

    return svg(draw, key, f"top-1 against measured time, {batch}")


def runs_plot(runs: Sequence[RunReport], key: str) -> str:
    """All runs in one plot: their fixed lengths, and a star for the assigner."""
    names = _short([run.name for run in runs])

    def draw(axes: Any) -> None:
        for number, run in enumerate(runs):
            colour, rows = f"C{number % 10}", run.rows()
            shape = SHAPES[number // 10 % len(SHAPES)]
            fixed = [row for row in rows if row["length"] not in BASELINES]
            bars = _bars(fixed, lambda row: row["gmacs"])
            axes.errorbar(**bars, fmt=f"{shape}-", color=colour, capsize=2, label=legend_label(names[number]))
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
        draw_legend(axes, 1)

    width, height = SIZE
    return svg(draw, key, "top-1 against GMACs of all runs", (width, height + 0.19 * len(runs)))


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


def _policies(
    axes: Any,
    rows: Sequence[Mapping[str, Any]],
    place: Callable[[Any], float],
    hollow: Collection[str] = (),
) -> None:
    fixed = [row for row in rows if row["length"] not in BASELINES]
    axes.errorbar(**_bars(fixed, place), fmt="o-", color="C0", capsize=3, label="fixed length")
    for row in fixed:
        axes.annotate(
            row["length"],
            (place(row), row["top1"]),
            textcoords="offset points",
            xytext=(6, -12),
            fontsize=9.5,
            color="#333333",
        )
    for row in rows:
        name = row["length"]
        if name in BASELINES:
            axes.errorbar(
                **_bars([row], place),
                fmt=MARKS[name],
                color=COLOURS[name],
                markersize=SIZES[name],
                markerfacecolor="white" if name in hollow else COLOURS[name],
                markeredgewidth=1.5,
                capsize=3,
                label=f"{name}, derived" if name in hollow else name,
                zorder=5 - SIZES[name] / 100,
            )
    draw_legend(axes, 2 if hollow else 3)


def _short(names: Sequence[str]) -> list[str]:
    """Paths without the folders that all are in, and of long ones the end."""
    shared = max(
        (
            len(parent) + 1
            for parent in map(str, PurePath(names[0]).parents)
            if all(name.startswith(f"{parent}/") for name in names)
        ),
        default=0,
    )
    rests = [name[shared:] for name in names]
    return [rest if len(rest) <= LONGEST else f"\u2026{rest[1 - LONGEST :]}" for rest in rests]


def legend_label(name: str) -> str:
    """Matplotlib leaves what begins with an underscore out of its legends."""
    return f"\u200b{name}" if name.startswith("_") else name


def draw_legend(axes: Any, columns: int) -> None:
    """Above the plot, where it hides nothing."""
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
