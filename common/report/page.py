"""One HTML page about one or more runs: no network, no scripts, pictures inside."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from revit.common.files import write_text
from revit.common.report.compared import compared_columns, compared_rows, warnings
from revit.common.report.page_template import TEMPLATE
from revit.common.report.runs import BASELINES, RunReport
from revit.common.report.tables import shown

COLUMNS = {
    "length": "token length",
    "top1": "top-1 %",
    "top5": "top-5 %",
    "gmacs": "GMACs a view",
    "share": "share of inputs",
    "per_second": "samples/s",
}


def write_page(path: Path, runs: Sequence[RunReport]) -> None:
    """Writes the page.

    Raises:
        UserError: it cannot be written there.
    """
    import jinja2

    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["shown"] = lambda value: shown(value)
    page = environment.from_string(TEMPLATE).render(
        runs=[_described(run) for run in runs],
        columns=COLUMNS,
        compared=compared_rows(runs) if len(runs) > 1 else [],
        compared_columns=compared_columns(runs),
        warnings=warnings(runs),
    )
    write_text(path, page)


def _described(run: RunReport) -> dict[str, Any]:
    content = run.content
    return {
        "name": run.name,
        "verdict": run.verdict(),
        "rows": run.rows(),
        "plot": accuracy_plot(run),
        "evaluated": run.num_evaluated,
        "failed": run.num_failed,
        "failures": content.get("failures", [])[:50],
        "facts": {
            **content.get("protocol", {}),
            **{f"seconds, {stage}": seconds for stage, seconds in content.get("seconds", {}).items()},
            **{f"version of {name}": version for name, version in content.get("versions", {}).items()},
        },
    }


def accuracy_plot(run: RunReport) -> str:
    """Top-1 against GMACs as an SVG element: fixed lengths joined by a line, the other policies as single marks."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = run.rows()
    fixed = [row for row in rows if row["length"] not in BASELINES]
    others = [row for row in rows if row not in fixed]
    with pyplot.rc_context({"svg.fonttype": "none", "svg.hashsalt": run.name, "font.size": 10}):
        figure, axes = pyplot.subplots(figsize=(6, 3.6), layout="constrained")
        axes.plot([row["gmacs"] for row in fixed], [row["top1"] for row in fixed], "o-", label="fixed length")
        for row in fixed:
            place = (row["gmacs"], row["top1"])
            axes.annotate(row["length"], place, textcoords="offset points", xytext=(4, -12))
        for row, mark in zip(others, ("*", "x", "^")):
            axes.plot(
                [row["gmacs"]], [row["top1"]], mark, markersize=10, linestyle="none", label=row["length"]
            )
        axes.set(xlabel="GMACs a view", ylabel="top-1 %")
        axes.grid(alpha=0.3)
        axes.margins(0.12)
        axes.legend(loc="lower right")
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
        pyplot.close(figure)
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    # Ids must differ between the pictures of a page; namespaces and metadata only point elsewhere.
    prefix = re.sub(r"\W", "_", run.name)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\1{prefix}-", svg)
    return re.sub(
        r'width="[\d.]+pt" height="[\d.]+pt"', 'role="img" aria-label="top-1 against GMACs"', svg, count=1
    )
