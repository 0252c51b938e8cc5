"""What the benchmarks share: arguments, a run's test files, rows on screen and in a file."""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))

import environment  # noqa: F401 (it says what to do where the project is not installed)

from revit.common.data.formats.base import ListRequest
from revit.common.data.formats.path_label import PathLabel
from revit.common.data.made_data import MadeData
from revit.common.report.tables import print_table
from revit.common.system.command_line import add_json, command_line, parser
from revit.common.system.device import DTYPES, machine_name, package_versions, pick_device
from revit.common.system.errors import UserError
from revit.common.system.files import write_json
from revit.common.timing.clock import Times

CONFIGS = Path(__file__).parents[1] / "configs"
CPU = torch.device("cpu")
HELP = {
    "device": "auto, cpu, cuda, cuda:1, ...",
    "dtype": "of the passes",
    "batch": "inputs of a step",
    "rounds": "turns of every case in a run",
    "runs": "measurements, over which the spread is",
    "seeds": "0, 1, ... of data and training",
    "threads": "of torch",
}
CHOICES = {"dtype": tuple(DTYPES)}


def arguments_of(doc: str | None, example: str, **defaults: Any) -> argparse.ArgumentParser:
    """Return a parser with `--json` and an option for each of `defaults`."""
    arguments = parser(doc or "", example)
    add_json(arguments)
    for name, default in defaults.items():
        said = f"{HELP[name]} ({default})" if name in HELP else f"default: {default}"
        arguments.add_argument(
            f"--{name.replace('_', '-')}", type=type(default), default=default, choices=CHOICES.get(name), help=said
        )
    return arguments


def chosen(given: str, known: Iterable[str]) -> list[str]:
    """Return the names between commas. UserError for one that is not among `known`."""
    names = given.split(",")
    check_rows(names, known)
    return names


def check_rows(names: Iterable[str], known: Iterable[str]) -> None:
    """Raise UserError for a name that is not among `known`."""
    if unknown := [name for name in names if name not in known]:
        raise UserError(f"{', '.join(unknown)}: not known; choose from {', '.join(known)}")


def costs_of(times: Mapping[str, Times], device: torch.device) -> dict[str, list[float]]:
    """Return what calls cost: processor seconds, as others who use a CPU's cores disturb them less; on a GPU those of the clock."""
    return {name: one.processor if device.type == "cpu" else one.clock for name, one in times.items()}


def print_times(title: str, times: Mapping[str, Times]) -> list[dict[str, Any]]:
    """Print a table of milliseconds, by the clock and of the processors, and return its rows."""
    rows = []
    for name, one in times.items():
        row: dict[str, Any] = {"name": name}
        for key, seconds in (("ms", one.clock), ("cpu_ms", one.processor)):
            low, high = 1e3 * min(seconds), 1e3 * max(seconds)
            row |= {key: 1e3 * statistics.median(seconds), f"{key}_range": f"{low:.1f} to {high:.1f}"}
        rows.append(row)
    columns = {"name": "", "ms": "ms", "ms_range": "range", "cpu_ms": "CPU ms", "cpu_ms_range": "range"}
    print_table(title, columns, rows)
    return rows


def held_out_files(run: Path) -> tuple[list[str], list[int]]:
    """Return paths and labels of the test files that a run made. UserError for a run that made none."""
    if not (run / "data" / "test").is_dir():
        raise UserError(f"{run}: no data/test in it; give the folder of a run that made its own data, as the demos do")
    made = MadeData.under(run / "data")
    listed = PathLabel().read(ListRequest(str(made.test), "files", prefix=str(made.root)))
    numbers = range(len(listed))
    return [listed.path(number) for number in numbers], [listed.label(number) for number in numbers]


def goal(
    work: str, target: str | None, values: Sequence[float], number: str = "{:.2f}", unit: str = "", **more: Any
) -> dict[str, Any]:
    """Return a row of what was to be reached, if anything was, and what was: the median of `values`, and their range."""
    low, middle, high = (number.format(one) for one in (min(values), statistics.median(values), max(values)))
    found = {"measured": middle + unit, "spread": f"{low} to {high}", "runs": len(values)}
    return {"work": work, "target": target, **found, "values": list(values), **more}


def finish(script: str, argv: Sequence[str] | None, values: argparse.Namespace, rows: Sequence[Any]) -> int:
    """Print the goals among `rows` and write all to `--json`, each with the command and the machine."""
    for row in rows:
        if "target" in row:
            wanted = "" if row["target"] is None else f"; to reach: {row['target']}"
            print(f"{row['work']}: {row['measured']} ({row['spread']} in {row['runs']}){wanted}")
    if values.json:
        device = pick_device(getattr(values, "device", "cpu"))
        about = {
            "command": command_line(f"benchmarks/{Path(script).name}", argv),
            "machine": machine_name(device),
            "versions": package_versions("torch"),
        }
        write_json(values.json, [{**row, **about} for row in rows])
    return 0
