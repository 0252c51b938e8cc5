"""Tables of measured speed, from what the commands wrote on the machine that measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from made_tables.markdown import listed, read_json, stays, table

from revit.common.timing.cases import OTHER_ARCHITECTURE

Row = Mapping[str, Any]
INPUTS = {"image": "pictures", "video": "clips"}
SPEED = {
    "name": "model",
    "config": "configuration",
    "grid": "grid or input",
    "batch": "batch",
    "how": "dtype",
    "per_second": "a second",
    "of_fastest": "of the fastest",
    "ms": "ms a call, p50 / p95",
    "spread": "spread",
    "peak_memory_mb": "peak MB",
    "fraction_of_peak": "of matmul rate",
}
HEADED = ("config", "grid", "batch")
"""What the line above the table says where it is the same for all rows."""
SHARES = ("of_fastest", "spread", "fraction_of_peak")
TWINS = {"timm": "timm", "huggingface": "transformers"}
"""Other implementations of our models, and the packages that they are from."""


def speed(kind: str, folder: Path) -> str | None:
    """A table for each file that `tools/throughput.py --json` wrote, of its rows of one kind: only what was timed in one run
    can be compared. Fastest first within what does the same work."""
    written = [read_json(path) for path in sorted(folder.glob("*.json"))]
    chosen = [[row for row in rows if row.get("kind") == kind] for rows in written]
    if not any(chosen):
        stays(
            f"speed-{kind}",
            f"python tools/throughput.py --cfg configs/{kind}/FILE.yaml --peers --json {folder}/{kind}.json",
        )
        return None
    return "\n".join(_table_of(kind, rows) for rows in chosen if rows)


def _table_of(kind: str, rows: Sequence[Row]) -> str:
    """A heading line, the table, and a note."""
    same = [key for key in HEADED if len(_values(key, rows)) == 1]
    columns = {key: name for key, name in SPEED.items() if key not in same}
    columns["per_second"] = f"{INPUTS.get(kind, 'inputs')} a second"
    said = [f"batch {value}" if key == "batch" else value for key in same for value in _values(key, rows)]
    heading = f"**{', '.join([*said, *dict.fromkeys(map(_machine, rows))])}**"
    return f"{heading}\n\n{table(columns, _in_words(rows), _note(rows))}"


def _machine(row: Row) -> str:
    """The device, and the instruction sets of a CPU."""
    instructions = row.get("instructions") if row["device"].startswith("cpu") else None
    return f"{row['device']}, {instructions}" if instructions else str(row["device"])


def _values(key: str, rows: Sequence[Row]) -> list[Any]:
    """The different ones, without those of other architectures where the key is the configuration, which they have not."""
    own = [row[key] for row in rows if key != "config" or row[key] != OTHER_ARCHITECTURE]
    return list(dict.fromkeys(own or [row[key] for row in rows]))


def _in_words(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Fastest first within a configuration, grid and batch size; shares in percent."""
    fastest: dict[Any, float] = {}
    for row in rows:
        fastest[_same(row)] = max(fastest.get(_same(row), 0.0), row["per_second"])
    order = list(dict.fromkeys(map(_same, rows)))
    found = []
    for row in sorted(rows, key=lambda row: (order.index(_same(row)), -row["per_second"])):
        one = {**row, "of_fastest": row["per_second"] / fastest[_same(row)]}
        one["how"] = f"{row['dtype']}, compiled" if row["compiled"] else row["dtype"]
        one["ms"] = f"{rounded(row['ms_p50'])} / {rounded(row['ms_p95'])}"
        one["per_second"], one["peak_memory_mb"] = (
            rounded(row[key]) for key in ("per_second", "peak_memory_mb")
        )
        found.append(one | {key: _percent(one.get(key)) for key in SHARES})
    return found


def rounded(value: float | None) -> str | None:
    """Three digits that carry meaning; of numbers from 100 on all before the point."""
    if value is None:
        return None
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _same(row: Row) -> tuple[Any, ...]:
    """What does the same work: of other architectures each for itself."""
    own = row["name"] if row["config"] == OTHER_ARCHITECTURE else None
    return (row["config"], own, row["grid"], row["batch"])


def _percent(share: float | None) -> str | None:
    return None if share is None else f"{share:.0%}"


def _note(rows: Sequence[Row]) -> str:
    """The command, how it was timed, and which rows hold the same weights."""
    first, names = rows[0], {row["name"] for row in rows}
    others = any(row["config"] == OTHER_ARCHITECTURE for row in rows)
    packages = {"python", "torch", *(TWINS[name] for name in TWINS if name in names)} | (
        {"pytorchvideo"} if others else set()
    )
    versions = {name: text for name, text in first.get("versions", {}).items() if name in packages}
    text = (
        f"By `{first.get('command', 'python tools/throughput.py --peers')}`; {first.get('rounds', '?')} rounds in turns, their "
        f"spread in percent of the median; {listed(versions)}."
    )
    if twins := [name for name in TWINS if name in names]:
        text += f" {' and '.join(f'`{name}`' for name in twins)}: our weights, and the same logits before anything was timed."
    if served := sorted(name for name in names if name.startswith("ours") and name != "ours"):
        said = " and ".join(f"`{name}`" for name in served)
        text += f" {said}: as the inference engine runs it, with packed weights, compared with the plain model first."
    if others:
        text += " Other architectures have random weights and an input of their own."
    return text


def dynamicvit_speed(path: Path) -> str | None:
    """How much faster DynamicViT is than its backbone, by benchmarks/methods.py."""
    if not path.is_file():
        stays("dynamicvit-speed", f"python benchmarks/methods.py --json {path}")
        return None
    content = read_json(path)
    rows: dict[int, dict[str, Any]] = {}
    for one in content["dynamicvit"]:
        low, high = one["speed_up_processor_range"]
        row = rows.setdefault(one["batch"], {"batch": f"batch {one['batch']}"})
        row[one["dtype"]] = f"{one['speed_up_processor']:.2f} ({low:.2f} to {high:.2f})"
    dtypes = dict.fromkeys(one["dtype"] for one in content["dynamicvit"])
    columns = {"batch": "", **{dtype: dtype for dtype in dtypes}}
    note = f"By `python benchmarks/methods.py` on {content['device']}, torch {content['torch']}."
    return table(columns, list(rows.values()), note)
