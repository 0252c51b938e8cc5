"""A table in Markdown, with a line below it on what it is from."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from revit.common.report.tables import shown
from revit.common.system.errors import UserError
from revit.common.system.machine import machine_name, package_versions


def table(columns: Mapping[str, str], rows: Sequence[Mapping[str, Any]], note: str) -> str:
    """`columns` maps keys of `rows` to headings; None is a dash."""
    lines = [list(columns.values()), ["---"] * len(columns)]
    lines += [[shown(row.get(key)).replace("|", "\\|") for key in columns] for row in rows]
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{text}\n\n{note}\n"


def here(*packages: str) -> str:
    """This machine, and the versions of what made a table on it."""
    return f"{machine_name()}; {listed(package_versions('torch', *packages))}"


def listed(versions: Mapping[str, str]) -> str:
    """`python 3.11.7, torch 2.15.0`."""
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def stays(name: str, command: str) -> None:
    """Says of a table whose measurements are not there what would make them."""
    print(f"{name} stays; first: {command}", file=sys.stderr)


def read_json(path: Path) -> Any:
    """What a command wrote. UserError where it is no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not what a command here writes: {error}") from error
