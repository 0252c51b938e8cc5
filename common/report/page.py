"""One HTML page about one or more runs: no network, no scripts, pictures inside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from revit.common.files import write_text
from revit.common.report.compared import compared_columns, compared_rows, protocol_of, protocols, warnings
from revit.common.report.facts import Facts, gather
from revit.common.report.page_classes import class_parts
from revit.common.report.page_examples import example_parts
from revit.common.report.page_style import STYLE
from revit.common.report.page_template import TEMPLATE
from revit.common.report.plots import accuracy_plot, loss_plot, rate_plot, runs_plot, time_plot, val_plot
from revit.common.report.runs import RunReport
from revit.common.report.tables import shown

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
    "share": "share of inputs",
    "per_second": "samples/s in the test",
}
SPEED_COLUMNS = {
    "grid": "token length",
    "batch": "batch",
    "per_second": "a second",
    "ms_p50": "ms p50",
    "ms_p95": "ms p95",
    "peak_memory_mb": "peak MB",
}
CLASS_COLUMNS = {"class": "class", "samples": "samples", "top1": "top-1 %", "interval": "95 % interval"}
PAIR_COLUMNS = {"class": "class", "answered": "answered", "samples": "samples", "share": "share"}
MOST_FAILURES = 50


def write_page(path: Path, runs: Sequence[RunReport]) -> None:
    """Writes the page.

    Raises:
        UserError: it cannot be written there.
    """
    write_text(path, render([gather(run) for run in runs]))


def render(facts: Sequence[Facts]) -> str:
    """The page's HTML. What each run is worth is its first line."""
    import jinja2

    runs = [one.run for one in facts]
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["shown"] = shown
    page = environment.from_string(TEMPLATE).render(
        style=STYLE,
        runs=[_described(one, f"r{number}") for number, one in enumerate(facts)],
        columns=_columns(facts),
        speed_columns=SPEED_COLUMNS,
        class_columns=CLASS_COLUMNS,
        pair_columns=PAIR_COLUMNS,
        compared=compared_rows(runs) if len(runs) > 1 else [],
        compared_columns=compared_columns(runs),
        compared_plots=_compared_plots(runs),
        warnings=warnings(runs),
    )
    # Names of files that are no text cannot stand in UTF-8.
    return page.encode("utf-8", errors="replace").decode().lstrip()


def _described(facts: Facts, key: str) -> dict[str, Any]:
    run, content = facts.run, facts.run.content
    said = content.get("protocol", {})
    speed = content.get("speed")
    parts: dict[str, Any] = {
        "key": key,
        "name": run.name,
        "useless": facts.is_useless,
        "verdict": facts.verdict,
        "slower": facts.is_slower,
        "clock": facts.clock(),
        "headline": _headline(run),
        "rows": [_row(row) for row in facts.rows()],
        "rows_caption": _rows_caption(run),
        "plots": [_plot(accuracy_plot(run, f"{key}-gmacs"), "Accuracy against compute.")],
        "training": _training(facts, key),
        "protocol": {"samples evaluated": run.num_evaluated, "samples failed": run.num_failed, **said},
        "budget": dict(_flat(content.get("budget") or {})),
        "failures": content.get("failures", [])[:MOST_FAILURES],
        "facts": {
            **{f"seconds, {stage}": seconds for stage, seconds in content.get("seconds", {}).items()},
            **{f"version of {name}": version for name, version in content.get("versions", {}).items()},
        },
        "missing": facts.missing,
    }
    if speed is not None:
        noun = speed.get("inputs", "inputs")
        parts["speed"] = speed["rows"]
        parts["speed_caption"] = (
            f"{noun.capitalize()} of one view on {speed['device']}, {speed['dtype']}, timed after the evaluation"
            f"{_calls(speed)}. The adaptive rows give every length its share and include the assigner. Peak memory: weights "
            "and what one call needed on top."
        )
        parts["time_plots"] = [
            _plot(time_plot(run, False, f"{key}-alone"), "Accuracy against measured time of one input."),
            _plot(time_plot(run, True, f"{key}-batched"), "The same per input in the best batch."),
        ]
    if facts.seen is not None:
        parts |= class_parts(facts.seen) | example_parts(facts.seen)
    return parts


def _row(row: Mapping[str, Any]) -> dict[str, Any]:
    share = row["share"]
    return {
        **row,
        "top1": f"{row['top1']:.2f}",
        "top5": None if row["top5"] is None else f"{row['top5']:.2f}",
        "interval": f"{row['low']:.1f} to {row['high']:.1f}",
        "share": None if share is None else f"{100 * share:.1f} %",
    }


def _headline(run: RunReport) -> str:
    said = run.content.get("protocol", {})
    model = f"{run.method}, {run.content['model']}" if "model" in run.content else run.method
    views = (
        f", {said['num_views']} view{'s' if said['num_views'] != 1 else ''} each"
        if "num_views" in said
        else ""
    )
    seed = f", seed {said['seed']}" if "seed" in said else ""
    return f"{model}: {run.num_evaluated:,} samples evaluated{views}, {run.num_failed:,} failed{seed}."


def _rows_caption(run: RunReport) -> str:
    assigned = run.content.get("adaptive", {})
    if "assigner_gmacs" not in assigned:
        return "Every sample at each token length."
    return (
        f"The adaptive row's GMACs and parameters include the assigner's: {assigned['assigner_gmacs']:.3g} GMACs"
        f" ({100 * assigned['assigner_gmacs'] / assigned['gmacs']:.1f} % of them)."
    )


def _calls(speed: Mapping[str, Any]) -> str:
    return f", {speed['calls']} calls of each kind or more" if speed.get("calls") else ""


def _training(facts: Facts, key: str) -> list[dict[str, Any]]:
    stages = []
    for number, (stage, curves) in enumerate(facts.training.items()):
        start = f"{key}-{number}"
        plots = []
        if curves.loss:
            plots.append(_plot(loss_plot(curves, f"{start}-loss"), "Training loss."))
        if curves.learning_rate:
            plots.append(_plot(rate_plot(curves, f"{start}-rate"), "Learning rate."))
        if curves.top1:
            plots.append(_plot(val_plot(curves, f"{start}-val"), "Accuracy on the val list while training."))
        stages.append({"name": stage, "plots": plots})
    return stages


def _compared_plots(runs: Sequence[RunReport]) -> list[dict[str, str]]:
    """A plot of each group of runs that can be compared."""
    if len(runs) < 2:
        return []
    plots = []
    letters = protocols(runs)
    for protocol, letter in letters.items():
        alike = [run for run in runs if protocol_of(run) == protocol]
        if len(alike) > 1:
            which = f" Runs of protocol {letter}." if len(letters) > 1 else ""
            plots.append(
                _plot(runs_plot(alike, f"all-{letter}"), f"Accuracy against compute of all runs.{which}")
            )
    return plots


def _plot(svg: str, caption: str) -> dict[str, str]:
    return {"svg": svg, "caption": caption}


def _columns(facts: Sequence[Facts]) -> dict[str, str]:
    """Those of the first table that say something of some run; the test's own rate only where no speed was measured."""
    rows = [_row(row) for one in facts for row in one.rows()]
    unsaid = {key for key in COLUMNS if all(row[key] is None for row in rows)}
    if all("speed" in one.run.content for one in facts):
        unsaid.add("per_second")
    return {key: heading for key, heading in COLUMNS.items() if key not in unsaid}


def _flat(values: Mapping[str, Any], name: str = "") -> list[tuple[str, Any]]:
    """Nested values under dotted names; lists of more than a few are told by their number."""
    found: list[tuple[str, Any]] = []
    for key, value in values.items():
        full = f"{name}.{key}" if name else str(key)
        if isinstance(value, Mapping):
            found += _flat(value, full)
        elif isinstance(value, list) and (len(value) > 6 or any(isinstance(one, Mapping) for one in value)):
            found.append((full, f"{len(value)} points"))
        elif isinstance(value, list):
            found.append((full, ", ".join(shown(one) for one in value)))
        else:
            found.append((full, value))
    return found
