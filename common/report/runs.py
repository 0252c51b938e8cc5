"""Reading RUN_DIR/report.json of finished runs, and putting them side by side."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from revit.common.evaluation.intervals import wilson
from revit.common.report.contents import BASELINES, check_contents
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
"""Keys of `RunReport.rows` and their headings."""
BOOK = "stages.json"
"""What a run writes first."""


@dataclass(frozen=True)
class RunReport:
    """What one run showed."""

    name: str
    """Its folder, as the reader knows it."""
    content: dict[str, Any]
    """report.json."""
    folder: Path | None = None
    """Where it lies, with what else the run wrote; None where there is nothing but `content`."""

    @property
    def num_evaluated(self) -> int:
        return int(self.content["samples"]["evaluated"])

    @property
    def num_failed(self) -> int:
        return int(self.content["samples"]["failed"])

    @property
    def method(self) -> str:
        """As the run wrote it; older ones did not, and knew lengths only."""
        written = self.content.get("method")
        return str(written or ("revit" if len(self.content["fixed"]) > 1 else "plain"))

    def rows(self) -> list[dict[str, Any]]:
        """One row per way to choose the token length: each fixed grid, then adaptive, random, oracle and cascade if there.

        `gmacs` and `gflops` are of one view with all that it takes; `assigner_gmacs` is the part of them that is the
        assigner's. `low` and `high` are the 95 % interval of top-1, in percent.
        """
        shares = self.content.get("adaptive", {}).get("share", {})
        rows = []
        for one in self.content["fixed"]:
            rows.append({"length": one["grid"], **one, "share": shares.get(one["grid"])})
        for name in BASELINES:
            if name in self.content:
                params = self.content["fixed"][0].get("params")
                if name == "adaptive" and params is not None:
                    params += self.content[name].get("assigner_params") or 0
                rows.append({"length": name, **self.content[name], "share": None, "params": params})
        samples = {"run": self.name, "evaluated": self.num_evaluated, "failed": self.num_failed}
        keep = ("length", "top1", "top5", "gmacs", "assigner_gmacs", "params", "share", "per_second")
        found: list[dict[str, Any]] = [samples | {key: row.get(key) for key in keep} for row in rows]
        for row in found:
            low, high = wilson(row["top1"] / 100, self.num_evaluated)
            row |= {"gflops": 2 * row["gmacs"], "low": 100 * low, "high": 100 * high}
        return found

    def margin(self) -> float:
        """Half the width of the 95 % interval of the adaptive (else the longest grid's) top-1, in points."""
        row = self.content.get("adaptive") or self.content["fixed"][0]
        share = float(row["top1"]) / 100
        return 196 * math.sqrt(max(share * (1 - share), 0.0) / max(self.num_evaluated, 1))

    def verdict(self) -> str | None:
        """What the assigner is worth, in a sentence or two; None for a run without one.

        In the run's own words, which know the paired interval of its gain over random lengths; for runs that did not write
        them yet, from their figures.
        """
        if "verdict" in self.content:
            return str(self.content["verdict"])
        if not all(name in self.content for name in ("adaptive", "random")):
            return None
        adaptive, random, longest = self.content["adaptive"], self.content["random"], self.content["fixed"][0]
        gain, cost = adaptive["top1"] - random["top1"], adaptive["gmacs"] / longest["gmacs"]
        text = (
            f"adaptive {adaptive['top1']:.2f} % at {cost:.0%} of the GMACs of {longest['grid']}"
            f" ({adaptive['top1'] - longest['top1']:+.2f} points)"
        )
        # Both answer the same samples, so the interval of one is a cautious yardstick for their difference.
        if gain <= self.margin():
            return (
                f"THE ASSIGNER IS NO BETTER THAN CHANCE: {gain:+.2f} points over random lengths at the same shares, "
                f"within the interval of {self.margin():.2f}; {text}"
            )
        return f"{text}; {gain:+.2f} points over random lengths at the same shares (interval {self.margin():.2f})"


def read_runs(folders: Sequence[str | Path]) -> list[RunReport]:
    """Every report.json at or below the folders, each once, in the order of their paths.

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
            begun = "; ".join(unfinished([folder]))
            raise UserError(
                begun
                or f"{folder}: no report.json in it or below; a run writes it when its last stage is done "
                f"(python tools/train_net.py --cfg FILE.yaml run.dir={shlex.quote(str(folder))})"
            )
        for file in found:
            files.setdefault(file.resolve(), RunReport(str(file.parent), _read(file), file.parent))
    return list(files.values())


def unfinished(folders: Sequence[str | Path]) -> list[str]:
    """A sentence on every run at or below the folders that was begun and has no report.json yet."""
    books = {book.resolve(): book for folder in folders for book in sorted(Path(folder).rglob(BOOK))}
    return [
        f"{book.parent}: no report.json, its run is not finished; go on with {again(book.parent)}"
        for book in books.values()
        if not book.with_name("report.json").exists()
    ]


def again(folder: Path, stage: str | None = None) -> str:
    """The command that goes on with the run in a folder, wherever it was moved, or does one stage of it again."""
    config, place = shlex.quote(str(folder / "config.yaml")), shlex.quote(f"run.dir={folder}")
    return (
        f"python tools/train_net.py --cfg {config}{f' --stage {stage}' if stage is not None else ''} {place}"
    )


def _read(file: Path) -> dict[str, Any]:
    try:
        return check_contents(json.loads(file.read_text(encoding="utf-8")))
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {reason_of(error)}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{file}: not the report of a run: {error}; to write it anew: {again(file.parent, 'evaluate')}"
        ) from error
