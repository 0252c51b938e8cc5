"""Finished runs: reading their report.json, and what their figures say."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from revit.common.evaluation.intervals import wilson
from revit.common.evaluation.verdict import Verdict, verdict
from revit.common.report.schema import BASELINES, check_content
from revit.common.system.errors import UserError, reason_of

COLUMNS = {
    "run": "run",
    "length": "length",
    "top1": "top-1",
    "top5": "top-5",
    "gmacs": "GMACs",
    "share": "share",
    "per_second": "1/s",
    "evaluated": "samples",
    "failed": "failed",
}
"""Some keys of `RunReport.rows` and their headings."""
BOOK = "stages.json"
"""The file that a run writes first."""


@dataclass(frozen=True)
class RunReport:
    """The report of one run."""

    name: str
    """Path of its folder, as the reader knows it."""
    content: dict[str, Any]
    """Content of report.json."""
    folder: Path | None = None
    """Folder of the run's other files; None where there is nothing but `content`."""

    @property
    def num_evaluated(self) -> int:
        return int(self.content["samples"]["evaluated"])

    @property
    def num_failed(self) -> int:
        return int(self.content["samples"]["failed"])

    @property
    def method(self) -> str:
        """Name of the method as the run wrote it; older runs did not, and knew lengths only."""
        written = self.content.get("method")
        return str(written or ("revit" if len(self.content["fixed"]) > 1 else "plain"))

    @property
    def has_several_labels(self) -> bool:
        """Whether a sample may have several labels; `top1` is then the mean overlap of its labels with what is said."""
        return bool(self.content.get("protocol", {}).get("labels") == "several")

    @property
    def accuracy_name(self) -> str:
        """Name of `top1`, in percent."""
        return "overlap %" if self.has_several_labels else "top-1 %"

    def rows(self) -> list[dict[str, Any]]:
        """Return a row for each way to choose the token grid: the fixed grids, then adaptive, random, oracle, cascade.

        `gmacs` and `gflops` are of one view with all that it takes; `assigner_gmacs` is the part of them that is the
        assigner's, `gmacs_total` is of all views where there are several. `low` and `high` are the 95 % interval of top-1, in
        percent. `alone` and `batched` are the row's `input_times`, for one input and in the best batch.
        """
        shares = self.content.get("adaptive", {}).get("share", {})
        rows = [{"length": one["grid"], **one, "share": shares.get(one["grid"])} for one in self.content["fixed"]]
        for name in BASELINES:
            if name in self.content:
                params = self.content["fixed"][0].get("params")
                if name == "adaptive" and params is not None:
                    params += self.content[name].get("assigner_params") or 0
                rows.append({"length": name, **self.content[name], "share": None, "params": params})
        alone, batched = self.input_times(best_batch=False), self.input_times(best_batch=True)
        views = self.content.get("protocol", {}).get("num_views")
        total = views if isinstance(views, int) and views > 1 else None
        samples = {"run": self.name, "evaluated": self.num_evaluated, "failed": self.num_failed}
        keep = ("length", "top1", "top5", "map", "gmacs", "assigner_gmacs", "params", "share", "per_second")
        found = []
        for row in rows:
            low, high = wilson(row["top1"] / 100, self.num_evaluated)
            found.append(
                samples
                | {key: row.get(key) for key in keep}
                | {"gflops": 2 * row["gmacs"], "low": 100 * low, "high": 100 * high}
                | {"gmacs_total": row["gmacs"] * total if total else None}
                | {"alone": alone.get(row["length"]), "batched": batched.get(row["length"])}
            )
        return found

    def input_times(self, best_batch: bool) -> dict[str, dict[str, Any]]:
        """Return the time of an input by row ("6x6", "adaptive", ...), alone or in the batch with the most inputs a second.

        `ms` is the mean of an input and `per_second` one over it. Measured rows (fixed lengths, the assigner's mixture)
        have what `speed` says of them, too; the others are marked `derived`. Rows of which nothing is known are left out.
        """
        times: dict[str, dict[str, Any]] = {}
        for row in self.content.get("speed", {}).get("rows", []):
            name = row["grid"]
            fastest = name not in times or row["per_second"] > times[name]["per_second"]
            if fastest if best_batch else row["batch"] == 1:
                times[name] = {**row, "ms": 1000 / row["per_second"]}
        return self._derived_times(times) | times

    def _derived_times(self, measured: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        """Return the baselines' times from those of the grids.

        Random grids and the oracle ask no assigner: the mean of the grids' times by their shares. The cascade runs the
        shortest grid on every input, the next on those it leaves, and so on: an input pays for every grid up to the one
        that answers. What sorting inputs into batches costs is in none of them, so for batches they are lower bounds.
        """
        grids = [row["grid"] for row in self.content["fixed"]]
        if not set(grids) <= measured.keys():
            return {}
        alone = {grid: float(measured[grid]["ms"]) for grid in grids}
        cumulative = {grid: sum(alone[one] for one in grids[at:]) for at, grid in enumerate(grids)}
        times: dict[str, dict[str, Any]] = {}
        for name, source, each in (
            ("random", "adaptive", alone),
            ("oracle", "oracle", alone),
            ("cascade", "cascade", cumulative),
        ):
            share = self.content.get(source, {}).get("share")
            if name in self.content and share:
                ms = sum(part * each[grid] for grid, part in share.items())
                times[name] = {"ms": ms, "per_second": 1000 / ms, "derived": True}
        return times

    @property
    def inputs(self) -> str:
        """Word for the samples: clips or pictures, or, of older runs, samples."""
        return str(self.content.get("inputs") or self.content.get("speed", {}).get("inputs", "samples"))

    @property
    def judged(self) -> Verdict:
        """Worth of the run in words. The run's own know the answers sample by sample; those of runs that wrote none, or wrote
        them otherwise, are made from their figures."""
        if "good" in self.content and "verdict" in self.content:
            return Verdict(str(self.content["verdict"]), bool(self.content["good"]))
        return verdict({**self.content, "inputs": self.inputs})

    @property
    def time_verdict(self) -> str | None:
        """Share of the saving that reaches the clock, in a sentence; None where that was not measured."""
        alone, batched = self._relative_time(best_batch=False), self._relative_time(best_batch=True)
        if not batched:
            return None
        longest = self.content["fixed"][0]["grid"]
        start = "The saving does not reach the clock: measured" if self.is_slower else "Measured"
        one = f"for one input alone and {100 * batched:.0f} % " if alone else ""
        text = (
            f"{start} on {self.content['speed']['device']}, the adaptive pass takes {100 * (alone or batched):.0f} % of the time "
            f"of {longest} {one}in the best batch"
        )
        return f"{text}; there {longest} for all takes no longer: --grid {longest}" if self.is_slower else text

    @property
    def is_slower(self) -> bool:
        """The adaptive pass was measured and is no faster than the longest grid in the best batch."""
        return self._relative_time(best_batch=True) >= 1

    def _relative_time(self, best_batch: bool) -> float:
        """Return the adaptive pass's time of an input over that of the longest grid; 0 where it was not measured."""
        times, longest = self.input_times(best_batch), self.content["fixed"][0]["grid"]
        return times["adaptive"]["ms"] / times[longest]["ms"] if {"adaptive", longest} <= times.keys() else 0


def read_runs(folders: Sequence[str | Path]) -> list[RunReport]:
    """Read every report.json at or below the folders, each once, in the order of their paths.

    Raises:
        UserError: a folder is missing or has none below it; a file is not what a run writes (with the reason).
    """
    files: dict[Path, RunReport] = {}
    for folder in map(Path, folders):
        if folder.is_file():
            raise UserError(f"{folder}: a file; give its folder, {folder.parent}")
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder")
        found = sorted(folder.rglob("report.json"))
        if not found:
            raise UserError(
                "; ".join(unfinished([folder]))
                or f"{folder}: no report.json in it or below; a run writes it when its last stage is done "
                f"(python tools/train_net.py --cfg FILE.yaml run.dir={shlex.quote(str(folder))})"
            )
        for file in found:
            files.setdefault(file.resolve(), RunReport(str(file.parent), _read(file), file.parent))
    return list(files.values())


def unfinished(folders: Sequence[str | Path]) -> list[str]:
    """Return a sentence on every run at or below the folders that was begun and has no report.json yet."""
    books = {book.resolve(): book for folder in folders for book in sorted(Path(folder).rglob(BOOK))}
    return [
        f"{book.parent}: no report.json, its run is not finished; go on with {resume_command(book.parent)}"
        for book in books.values()
        if not book.with_name("report.json").exists()
    ]


def resume_command(folder: Path, stage: str | None = None) -> str:
    """Return the command that goes on with the run in a folder, wherever it was moved, or does one stage of it again."""
    config, place = shlex.quote(str(folder / "config.yaml")), shlex.quote(f"run.dir={folder}")
    return f"python tools/train_net.py --cfg {config}{f' --stage {stage}' if stage is not None else ''} {place}"


def _read(file: Path) -> dict[str, Any]:
    try:
        return check_content(json.loads(file.read_text(encoding="utf-8")))
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {reason_of(error)}") from error
    except (ValueError, RecursionError) as error:
        again = resume_command(file.parent, "evaluate")
        raise UserError(f"{file}: not the report of a run: {error}; to write it anew: {again}") from error
