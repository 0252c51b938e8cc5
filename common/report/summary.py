"""Summary of a run's folder, as plain data: the JSON file, the Markdown table and the page are made from it."""

from __future__ import annotations

import csv
import json
import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypeGuard

from revit.common.evaluation import predictions
from revit.common.evaluation.record import (
    IN_RUN,
    EvaluationRecord,
    assigned_against_needed,
    by_length,
    confused_pairs,
    load_record,
    per_class,
)
from revit.common.report.comparison import comparison_warnings, protocol_letters
from revit.common.report.runs import RunReport, resume_command
from revit.common.system.errors import UserError, reason_of

TOLERANCE = 1e-4
"""Points by which two accuracies of the same answers may differ."""
MOST_POINTS = 400
"""Points of a curve; of longer ones every so many are drawn."""
COPIED = (
    "model",
    "protocol",
    "samples",
    "seconds",
    "versions",
    "speed",
    "cascade",
    "budget",
    "calibration",
    "length_rule",
    "reliability",
    "classes",
    "data",
)
"""Keys of report.json that the JSON file repeats."""
Curve = list[tuple[float, float]]
"""Points (x, y), x rising."""


@dataclass
class TrainingCurves:
    """One network's training."""

    loss: dict[str, Curve] = field(default_factory=dict)
    """Losses over updates, by name (a grid's, or the assigner)."""
    learning_rate: Curve = field(default_factory=list)
    """Over updates."""
    top1: dict[str, Curve] = field(default_factory=dict)
    """Percent on the val list over epochs, by grid."""
    map: dict[str, Curve] = field(default_factory=dict)
    """Mean average precision instead, where a sample may have several labels."""


@dataclass(frozen=True)
class RunSummary:
    """A run's report, what lies beside it, and why some of that does not."""

    run: RunReport
    record: EvaluationRecord | None = None
    """The evaluation, sample by sample."""
    training: dict[str, TrainingCurves] = field(default_factory=dict)
    """Curves by stage."""
    samples: tuple[Mapping[str, str], ...] = ()
    """Rows of predictions.csv."""
    date: str | None = None
    """When it was evaluated, UTC."""
    missing: tuple[str, ...] = ()
    """Sentences on what is not there, and how to get it."""


def summarize(run: RunReport) -> RunSummary:
    """Read what lies beside the run's report.json."""
    record, training, date, missing = None, {}, None, []
    samples: tuple[Mapping[str, str], ...] = ()
    if run.folder is not None:
        try:
            record = _read_record(run, run.folder / IN_RUN)
        except UserError as error:
            again = resume_command(run.folder, "evaluate")
            missing.append(
                f"Nothing by class, by length and no examples: {error}. To have them, evaluate again: {again}"
            )
        try:
            samples = _read_samples(run, run.folder / predictions.IN_RUN)
        except UserError as error:
            again = resume_command(run.folder, "evaluate")
            missing.append(f"No table of all samples: {error}. To have it, evaluate again: {again}")
        date = _evaluated(run.folder)
        training = read_training(run.folder / "log.jsonl")
        if not training:
            missing.append(f"No training curves: {run.folder / 'log.jsonl'} says nothing of a training.")
    if "speed" not in run.content:
        command = f"python tools/report.py {shlex.quote(run.name)} --measure"
        missing.append(f"No speed: it was not measured. To have it: {command}")
    return RunSummary(run, record, training, samples, date, tuple(missing))


def as_json(summaries: Sequence[RunSummary]) -> dict[str, Any]:
    """Return what `report.py --json` writes: the verdict of every run first."""
    runs = [one.run for one in summaries]
    return {
        "verdicts": {run.name: run.judged.text for run in runs},
        "warnings": comparison_warnings(runs),
        "runs": [_run_json(*one) for one in zip(summaries, protocol_letters(runs))],
    }


def _run_json(summary: RunSummary, letter: str) -> dict[str, Any]:
    run, record = summary.run, summary.record
    found: dict[str, Any] = {
        "run": run.name,
        "verdict": run.judged.text,
        "clock": run.time_verdict,
        "method": run.method,
        "evaluated": summary.date,
        "protocol_letter": letter,
        "rows": run.rows(),
        **{key: run.content[key] for key in COPIED if key in run.content},
        "training": {
            stage: {"loss": one.loss, "learning_rate": one.learning_rate, "val_top1": one.top1, "val_map": one.map}
            for stage, one in summary.training.items()
        },
        "missing": list(summary.missing),
    }
    if record is not None:
        if record.scores is None:
            found |= {"per_class": per_class(record), "confused": confused_pairs(record)}
        if record.grid_index is not None:
            found["per_length"] = by_length(record)
            found["assigned_against_needed"] = assigned_against_needed(record)
    return found


def _read_record(run: RunReport, path: Path) -> EvaluationRecord:
    """Load the evaluation's record. UserError if it cannot be read, or is of another evaluation than the report."""
    record = load_record(path)
    reported = {row["grid"]: row["top1"] for row in run.content["fixed"]}
    if len(record.ids) == run.num_evaluated and set(reported) == set(record.grids):
        top1 = {grid: 100 * float(record.correct(grid).double().mean()) for grid in record.grids}
        if all(abs(top1[grid] - reported[grid]) < TOLERANCE for grid in record.grids):
            return record
    raise UserError(f"{path}: of another evaluation than report.json")


def _evaluated(folder: Path) -> str:
    """Return when the run was evaluated: by its log, which is no part of its figures, else by the time of report.json."""
    ends = [line.get("time") for line in _log_lines(folder / "log.jsonl") if line.get("stage") == "evaluate"]
    times = [time for time in ends if is_number(time)] or [(folder / "report.json").stat().st_mtime]
    return datetime.fromtimestamp(times[-1], timezone.utc).strftime("%Y-%m-%d %H:%M UTC")


def _read_samples(run: RunReport, path: Path) -> tuple[Mapping[str, str], ...]:
    """Read predictions.csv. UserError if it cannot be read, or is of another evaluation than the report."""
    try:
        with open(path, encoding="utf-8", errors="replace", newline="") as file:
            rows = tuple(csv.DictReader(file))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; evaluations of earlier versions did not write it") from None
    except (OSError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read ({reason_of(error)})") from error
    if not all(set(row) == set(predictions.COLUMNS) and None not in row.values() for row in rows):
        raise UserError(f"{path}: not what an evaluation writes")
    answered = [row for row in rows if not row["error"]]
    if (len(answered), len(rows)) == (run.num_evaluated, run.num_evaluated + run.num_failed):
        right = 100 * sum(row["correct"] == "1" for row in answered) / max(len(answered), 1)
        row = run.content.get("adaptive") or run.content["fixed"][0]
        if run.has_several_labels or abs(right - row["top1"]) < TOLERANCE:
            return rows
    raise UserError(f"{path}: of another evaluation than report.json")


def read_training(log: Path) -> dict[str, TrainingCurves]:
    """Read the curves of the stages that log.jsonl knows; none without a log.

    Lines that are torn, or that no run writes, are passed over. Of an update that was logged twice, as an interrupted run
    does that goes on from an earlier state, the later line counts.
    """
    points: dict[tuple[str, str, str], dict[float, float]] = {}
    for line in _log_lines(log):
        stage, event = line.get("stage", "model"), line.get("event")
        # A short training has no line but those at the end of its epochs; their losses are means over the epoch, as far as it
        # went, like those of the lines between.
        trains = event in ("train", "epoch")
        if not (trains or event == "val") or not isinstance(stage, str):
            continue
        values = {("learning_rate", ""): line.get("lr")} if trains else {}
        at, kind = (line.get("update"), "loss") if trains else (line.get("epoch"), "map" if "map" in line else "top1")
        named = line.get(kind)
        values |= {(kind, name): value for name, value in named.items()} if isinstance(named, dict) else {}
        for (what, name), value in values.items():
            if is_number(at) and is_number(value):
                points.setdefault((stage, what, name), {})[float(at)] = float(value)
    stages: dict[str, TrainingCurves] = {}
    for (stage, what, name), found in points.items():
        training, curve = stages.setdefault(stage, TrainingCurves()), sorted(found.items())
        step = -(-len(curve) // MOST_POINTS)
        if step > 1:
            curve = [*curve[:-1:step], curve[-1]]
        if what == "learning_rate":
            training.learning_rate = curve
        else:
            getattr(training, what)[name] = curve
    return stages


def _log_lines(log: Path) -> Iterator[dict[str, Any]]:
    try:
        with open(log, encoding="utf-8", errors="replace") as file:
            for text in file:
                try:
                    line = json.loads(text)
                except (ValueError, RecursionError):
                    continue
                if isinstance(line, dict):
                    yield line
    except OSError:
        return


def is_number(value: Any) -> TypeGuard[float]:
    """Return True for a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
