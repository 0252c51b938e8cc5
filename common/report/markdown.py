"""The report as Markdown: one table of all runs for a paper or a README, and how they were tested."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from revit.common.data.check.summary import quote
from revit.common.report.comparison import comparison_warnings, protocol_letters
from revit.common.report.runs import RunReport
from revit.common.report.summary import RunSummary
from revit.common.report.tables import interval_text, marked, percent_text, shown

DERIVED = "~ in front of a rate: not measured itself, but the measured times of the lengths by their shares."


def markdown(summaries: Sequence[RunSummary]) -> str:
    """Return the verdicts first, then warnings, the table, and for each protocol and machine a line."""
    runs = [one.run for one in summaries]
    lines = [f"**{_cell(run.name)}: {_cell(run.judged.text)}**  " for run in runs]
    lines += [f"{_cell(run.name)}: {_cell(said)}  " for run in runs if (said := run.time_verdict)]
    lines += ["", *(f"**{_cell(warning)}**" for warning in comparison_warnings(runs)), ""]
    letters = protocol_letters(runs)
    rows = [row for run, letter in zip(runs, letters) for row in _rows(run, letter)]
    # A column that says nothing of any run is left out.
    headings = [name for name in rows[0] if any(row[name] != "-" for row in rows)]
    if len(set(letters)) < 2:
        headings.remove("protocol")
    numeric = [all(re.fullmatch(r"-|~?[\d,.]+( %)?", row[name]) for row in rows) for name in headings]
    lines += [_line(headings), _line("---:" if right else "---" for right in numeric)]
    lines += [_line(row[name] for name in headings) for row in rows]
    lines += [
        "",
        "GMACs: multiply-accumulates / 10^9 of one view, attention and assigner included; papers call them",
        "GFLOPs. GFLOPs here are operations, two for each of them. 95 %: Wilson's interval.",
    ]
    if any(row[name].startswith("~") for row in rows for name in headings):
        lines.append(DERIVED)
    lines += ["", *(f"- {_cell(line)}" for one in summaries for line in _conditions(one))]
    return "\n".join(lines) + "\n"


def _rows(run: RunReport, letter: str) -> list[dict[str, str]]:
    rows = []
    for row in run.rows():
        alone, batched = row["alone"] or {}, row["batched"] or {}
        cells: dict[str, Any] = {
            "run": run.name,
            "method": run.method,
            "model": run.content.get("model"),
            "tokens": row["length"],
            "top-1 %": None if run.has_several_labels else row["top1"],
            "overlap %": row["top1"] if run.has_several_labels else None,
            "mAP %": row["map"],
            "95 %": interval_text(row),
            "top-5 %": row["top5"],
            "GMACs": row["gmacs"],
            "of them assigner": row["assigner_gmacs"],
            "GFLOPs": row["gflops"],
            "parameters": row["params"],
            "adaptive's share": percent_text(row["share"]),
            "/s, batch 1": marked(alone, "per_second"),
            "p50 ms, batch 1": alone.get("ms_p50"),
            "p95 ms, batch 1": alone.get("ms_p95"),
            "/s, best batch": marked(batched, "per_second"),
            "best batch": batched.get("batch"),
            "peak MB, best batch": batched.get("peak_memory_mb"),
            "samples": run.num_evaluated,
            "failed": run.num_failed,
            "protocol": letter,
        }
        rows.append({name: _cell(shown(value)) for name, value in cells.items()})
    return rows


def _conditions(summary: RunSummary) -> list[str]:
    """Return a line on protocol and speed of a run, on each list that was checked, and on each thing that is missing."""
    name, content = summary.run.name, summary.run.content
    protocol = ", ".join(f"{key} {shown(value)}" for key, value in content.get("protocol", {}).items())
    versions = content.get("versions", {})
    known = ", ".join(f"{one} {versions[one]}" for one in ("revit-video", "torch") if one in versions)
    line = f"{name}: " + "; ".join(part for part in (protocol or "protocol not recorded", known) if part)
    if "speed" in content:
        speed = content["speed"]
        line += f"; speed of {speed.get('inputs', 'inputs')} on {speed['device']}, {speed['dtype']}"
    checks = [f"{name}: data check of {split}: {quote(found)}" for split, found in content.get("data", {}).items()]
    return [line, *checks, *(f"{name}: {sentence}" for sentence in summary.missing)]


def _cell(text: str) -> str:
    """Return text that stays in its cell, and is no markup."""
    plain = re.sub(r"\s+", " ", text.encode(errors="replace").decode())
    return re.sub(r"([\\|*_`<\[])", r"\\\1", plain)


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
