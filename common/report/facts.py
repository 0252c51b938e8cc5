"""All that a run showed as plain data: what the JSON file holds, and what the table and the page are made from."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from revit.common.evaluation.confusion import assigned_against_needed, by_length, confused_pairs, per_class
from revit.common.evaluation.record import IN_RUN, Seen, load_seen
from revit.common.report.compared import protocol_of, protocols, warnings
from revit.common.report.curves import Training, read_training
from revit.common.report.runs import RunReport, again
from revit.common.report.times import measured, times
from revit.common.system.errors import UserError

SAME = 1e-4
"""Points by which two accuracies of the same answers may differ."""


@dataclass(frozen=True)
class Facts:
    """A run's report, what lies beside it, and why some of that does not."""

    run: RunReport
    seen: Seen | None = None
    training: dict[str, Training] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    """Sentences."""

    @property
    def verdict(self) -> str:
        """Of the assigner; of a run without one, what it is."""
        return self.run.verdict() or _plain(self.run)

    @property
    def is_useless(self) -> bool:
        """Whether there is an assigner that is worth nothing."""
        return self.verdict.startswith("THE ASSIGNER IS NO BETTER")

    @property
    def is_slower(self) -> bool:
        """Whether the adaptive pass was measured, and takes as long as the longest length in the best batch, or longer."""
        return self._of_longest(best=True) >= 1

    def clock(self) -> str | None:
        """What of the saving reaches the clock; None where that was not measured."""
        alone, batched = self._of_longest(best=False), self._of_longest(best=True)
        if not batched:
            return None
        speed, longest = self.run.content["speed"], self.run.content["fixed"][0]["grid"]
        start = "THE SAVING DOES NOT REACH THE CLOCK: measured" if self.is_slower else "Measured"
        one = f"for one input alone and {batched:.0%} " if alone else ""
        return (
            f"{start} on {speed['device']}, the adaptive pass takes {alone or batched:.0%} of the time of {longest} {one}"
            "in the best batch"
        )

    def _of_longest(self, best: bool) -> float:
        """The adaptive pass's time of an input over that of the longest length; 0 where it was not measured."""
        found = measured(self.run, best)
        longest = self.run.content["fixed"][0]["grid"]
        return (
            found["adaptive"]["ms"] / found[longest]["ms"] if {"adaptive", longest} <= found.keys() else 0.0
        )

    def rows(self) -> list[dict[str, Any]]:
        """Those of the run with their times (`times`): `alone` of an input by itself, `batched` in the best batch."""
        alone, batched = times(self.run, best=False), times(self.run, best=True)
        views = self.run.content.get("protocol", {}).get("num_views")
        total = views if isinstance(views, int) and views > 1 else None
        return [
            {
                **row,
                "gmacs_total": row["gmacs"] * total if total else None,
                "alone": alone.get(row["length"]),
                "batched": batched.get(row["length"]),
            }
            for row in self.run.rows()
        ]


def gather(run: RunReport) -> Facts:
    """Reads what lies beside the run's report.json."""
    missing = []
    seen, training = None, {}
    if run.folder is not None:
        try:
            seen = load_seen(run.folder / IN_RUN)
            _check_same(run, seen)
        except UserError as error:
            seen = None
            missing.append(
                f"Nothing by class, by length and no examples: {error}. To have them, evaluate again: "
                f"{again(run.folder, 'evaluate')}"
            )
        training = read_training(run.folder / "log.jsonl")
        if not training:
            missing.append(f"No training curves: {run.folder / 'log.jsonl'} says nothing of a training.")
    if "speed" not in run.content:
        missing.append(
            f"No speed: it was not measured. To have it: python tools/report.py {shlex.quote(run.name)} --measure"
        )
    return Facts(run, seen, training, tuple(missing))


def as_json(facts: Sequence[Facts]) -> dict[str, Any]:
    """What `report.py --json` writes: the verdict of every run first."""
    runs = [one.run for one in facts]
    letters = protocols(runs)
    return {
        "verdicts": {one.run.name: one.verdict for one in facts},
        "warnings": warnings(runs),
        "runs": [_run_json(one, letters[protocol_of(one.run)]) for one in facts],
    }


def _run_json(facts: Facts, letter: str) -> dict[str, Any]:
    run, seen = facts.run, facts.seen
    copied = (
        "model",
        "protocol",
        "samples",
        "seconds",
        "versions",
        "speed",
        "cascade",
        "budget",
        "calibration",
    )
    found: dict[str, Any] = {
        "run": run.name,
        "verdict": facts.verdict,
        "clock": facts.clock(),
        "method": run.method,
        "protocol_letter": letter,
        "rows": facts.rows(),
        **{key: run.content[key] for key in copied if key in run.content},
        "training": {
            stage: {"loss": one.loss, "learning_rate": one.learning_rate, "val_top1": one.top1}
            for stage, one in facts.training.items()
        },
        "missing": list(facts.missing),
    }
    if seen is not None:
        found["per_class"] = per_class(seen)
        found["confused"] = confused_pairs(seen)
        if seen.lengths is not None:
            found["per_length"] = by_length(seen)
            found["assigned_against_needed"] = assigned_against_needed(seen)
    return found


def _plain(run: RunReport) -> str:
    row = run.rows()[0]
    return f"top-1 {row['top1']:.2f} % (95 %: {row['low']:.1f} to {row['high']:.1f}) at {row['gmacs']:.4g} GMACs a view"


def _check_same(run: RunReport, seen: Seen) -> None:
    """UserError if the file is of another evaluation than the report."""
    by_grid = {row["grid"]: row["top1"] for row in run.content["fixed"]}
    if len(seen.ids) == run.num_evaluated and set(by_grid) == set(seen.grids):
        top1 = {grid: 100 * float(seen.correct(grid).double().mean()) for grid in seen.grids}
        if all(abs(top1[grid] - by_grid[grid]) < SAME for grid in seen.grids):
            return
    assert run.folder is not None
    raise UserError(f"{run.folder / IN_RUN}: of another evaluation than report.json")
