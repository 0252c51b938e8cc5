"""One HTML page about one or more runs: no network, no scripts, pictures inside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from revit.common.report.compared import compared_columns, compared_rows, protocol_of, protocols, warnings
from revit.common.report.curve_plots import loss_plot, rate_plot, val_plot
from revit.common.report.facts import Facts, gather
from revit.common.report.page_classes import class_parts
from revit.common.report.page_costs import (
    BUDGET_COLUMNS,
    accuracy_caption,
    cells,
    columns,
    flat,
    is_derived,
    operating_points,
    rows_caption,
)
from revit.common.report.page_examples import example_parts
from revit.common.report.page_style import STYLE
from revit.common.report.page_template import TEMPLATE
from revit.common.report.plots import accuracy_plot, runs_plot, time_plot
from revit.common.report.runs import RunReport
from revit.common.report.tables import shown
from revit.common.report.times import times
from revit.common.system.files import write_text

SPEED_COLUMNS = {
    "grid": "token length",
    "batch": "batch",
    "per_second": "inputs/s",
    "ms": "ms an input",
    "ms_p50": "ms a call, p50",
    "ms_p95": "ms a call, p95",
    "peak_memory_mb": "peak MB",
}
CLASS_COLUMNS = {"class": "class", "samples": "samples", "top1": "top-1 %", "interval": "95 % interval"}
PAIR_COLUMNS = {"class": "class", "answered": "answered", "samples": "samples", "share": "share"}
MOST_FAILURES = 50
SAID = {
    "num_views": "views a sample",
    "merge": "views merged by",
    "dtype": "number format",
    "seed": "seed of the run",
}


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
        columns=columns(facts),
        speed_columns=SPEED_COLUMNS,
        class_columns=CLASS_COLUMNS,
        pair_columns=PAIR_COLUMNS,
        budget_columns=BUDGET_COLUMNS,
        adaptive=any("adaptive" in run.content for run in runs),
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
        "rows": [cells(row) for row in facts.rows()],
        "rows_caption": rows_caption(facts),
        # One point alone is no plot; it stands in the table.
        "plots": [_plot(accuracy_plot(run, f"{key}-gmacs"), accuracy_caption(run))]
        if len(run.rows()) > 1
        else [],
        "training": _training(facts, key),
        "protocol": {
            "samples evaluated": run.num_evaluated,
            "samples failed": run.num_failed,
            **{SAID.get(name, name): value for name, value in flat(said)},
        },
        "operating_points": operating_points(content),
        "points_caption": (
            f"By the calibration on {content.get('calibration', {}).get('num_samples', '?')} samples of "
            f"{content.get('calibration', {}).get('split', 'its split')}; model.budget or --budget picks any point between."
        ),
        "budget": dict(flat(content.get("budget") or {})),
        "failures": content.get("failures", [])[:MOST_FAILURES],
        "facts": {
            **{f"seconds, {stage}": seconds for stage, seconds in content.get("seconds", {}).items()},
            **{f"version of {name}": version for name, version in content.get("versions", {}).items()},
        },
        "missing": facts.missing,
    }
    if speed is not None:
        noun = speed.get("inputs", "inputs")
        parts["speed"] = [{**row, "ms": 1000 / row["per_second"]} for row in speed["rows"]]
        mixed = (
            " The adaptive rows give every length its share and include the assigner."
            if "adaptive" in content
            else ""
        )
        parts["speed_caption"] = (
            f"{noun.capitalize()} of one view on {speed['device']}, {speed['dtype']}, timed after the evaluation"
            f"{_calls(speed)}. A call answers a whole batch.{mixed} Peak memory: weights and what one call needed on top."
        )
    if speed is not None and len(times(run, best=True)) > 1:
        hollow = " Filled: measured; hollow: derived." if is_derived(facts) else ""
        parts["time_plots"] = [
            _plot(
                time_plot(run, False, f"{key}-alone"),
                f"Accuracy against the time of one input alone.{hollow}",
            ),
            _plot(time_plot(run, True, f"{key}-batched"), f"The same per input in the best batch.{hollow}"),
        ]
    if facts.seen is not None:
        parts |= class_parts(facts.seen) | example_parts(facts.seen)
    return parts


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


def _calls(speed: Mapping[str, Any]) -> str:
    return f", {speed['calls']} calls of each kind or more" if speed.get("calls") else ""


def _training(facts: Facts, key: str) -> list[dict[str, Any]]:
    stages = []
    for number, (stage, curves) in enumerate(facts.training.items()):
        start = f"{key}-{number}"
        plots = []
        if curves.loss:
            apart = " Each length has a loss of its own; they do not compare." if len(curves.loss) > 1 else ""
            plots.append(_plot(loss_plot(curves, f"{start}-loss"), f"Training loss.{apart}"))
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
