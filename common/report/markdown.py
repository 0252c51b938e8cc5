"""The report as Markdown: one table of all runs for a paper or a README, and how they were tested."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from revit.common.report.compared import protocol_of, protocols, warnings
from revit.common.report.facts import Facts
from revit.common.report.tables import shown
from revit.common.report.times import DERIVED


def markdown(facts: Sequence[Facts]) -> str:
    """The verdicts first, then warnings, the table, and for each protocol and machine a line."""
    runs = [one.run for one in facts]
    lines = [f"**{_cell(one.run.name)}: {_cell(one.verdict)}**  " for one in facts]
    lines += [f"{_cell(one.run.name)}: {_cell(clock)}  " for one in facts if (clock := one.clock())]
    lines += ["", *(f"**{_cell(warning)}**" for warning in warnings(runs)), ""]
    letters = protocols(runs)
    rows = [row for one in facts for row in _rows(one, letters[protocol_of(one.run)])]
    # A column that says nothing of any run is left out.
    headings = [name for name in rows[0] if any(row[name] != "-" for row in rows)]
    if len(letters) < 2:
        headings.remove("protocol")
    numeric = [all(_is_numeric(row[name]) for row in rows) for name in headings]
    lines.append(_line(headings))
    lines.append(_line("---:" if right else "---" for right in numeric))
    lines += [_line(row[name] for name in headings) for row in rows]
    lines += [
        "",
        "GMACs: multiply-accumulates / 10^9 of one view, attention and assigner included; papers call them",
    ]
    lines += ["GFLOPs. GFLOPs here are operations, two for each of them. 95 %: Wilson's interval."]
    if any(row[name].startswith("~") for row in rows for name in headings):
        lines += [f"{DERIVED.replace('time:', 'rate:')}."]
    lines += [""]
    lines += [f"- {_cell(line)}" for one in facts for line in _tested(one)]
    return "\n".join(lines) + "\n"


def _rows(facts: Facts, letter: str) -> list[dict[str, str]]:
    run, found = facts.run, []
    for row in facts.rows():
        alone, batched = row["alone"] or {}, row["batched"] or {}
        cells: dict[str, Any] = {
            "run": run.name,
            "method": run.method,
            "model": run.content.get("model"),
            "tokens": row["length"],
            "top-1 %": row["top1"],
            "95 %": f"{row['low']:.1f} to {row['high']:.1f}",
            "top-5 %": row["top5"],
            "GMACs": row["gmacs"],
            "of them assigner": row["assigner_gmacs"],
            "GFLOPs": row["gflops"],
            "parameters": row["params"],
            "adaptive's share": None if row["share"] is None else f"{100 * row['share']:.1f} %",
            "/s, batch 1": _rate(alone),
            "p50 ms, batch 1": alone.get("ms_p50"),
            "p95 ms, batch 1": alone.get("ms_p95"),
            "/s, best batch": _rate(batched),
            "best batch": batched.get("batch"),
            "peak MB, best batch": batched.get("peak_memory_mb"),
            "samples": run.num_evaluated,
            "failed": run.num_failed,
            "protocol": letter,
        }
        found.append({name: _cell(shown(value)) for name, value in cells.items()})
    return found


def _rate(row: Mapping[str, Any]) -> str | None:
    """Inputs a second of a row of `times`, marked where they are derived."""
    if "per_second" not in row:
        return None
    return f"{'~' if row.get('derived') else ''}{shown(float(row['per_second']))}"


def _tested(facts: Facts) -> list[str]:
    """A line on protocol and speed of a run, and one on what is missing."""
    content = facts.run.content
    said = ", ".join(f"{key} {shown(value)}" for key, value in content.get("protocol", {}).items())
    versions: Mapping[str, str] = content.get("versions", {})
    with_versions = ", ".join(
        f"{name} {versions[name]}" for name in ("revit-video", "torch") if name in versions
    )
    lines = [
        f"{facts.run.name}: "
        + "; ".join(part for part in (said or "protocol not recorded", with_versions) if part)
    ]
    if "speed" in content:
        speed = content["speed"]
        lines[0] += f"; speed of {speed.get('inputs', 'inputs')} on {speed['device']}, {speed['dtype']}"
    return [*lines, *(f"{facts.run.name}: {sentence}" for sentence in facts.missing)]


def _is_numeric(cell: str) -> bool:
    return re.fullmatch(r"-|~?[\d,.]+( %)?", cell) is not None


def _cell(text: str) -> str:
    """Text that stays in its cell, and is no markup."""
    plain = re.sub(r"\s+", " ", text.encode(errors="replace").decode())
    return re.sub(r"([\\|*_`<\[])", r"\\\1", plain)


def _line(cells: Any) -> str:
    return f"| {' | '.join(cells)} |"
