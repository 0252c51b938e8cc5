"""The table of a training step against the number of token lengths, by `tools/throughput.py --training`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from made_tables.markdown import listed, read_json, stays, table

COMMAND = (
    "python tools/throughput.py --cfg configs/image/revit_deit_small.yaml --training --lengths 1,2,3 --batches 4 "
    "--dtypes float32 --rounds 7 --json {path} run.device=cpu"
)


def training(path: Path) -> str | None:
    """A row for Algorithm 1 and one for replicas of every number of lengths; a modelled GPU beside what was measured.

    "over plain models" is the whole step over the forward and backward passes of the plain models of its grids, in brackets
    the range of the rounds.
    """
    if not path.is_file():
        stays("training-lengths", COMMAND.format(path=f"{path.parent.name}/{path.name}"))
        return None
    rows = read_json(path)
    first = rows[0]
    modelled = any(row["modelled_ms"] is not None for row in rows)
    columns = {
        "grids": "token lengths",
        "training": "training",
        "devices": "devices",
        "ms": "ms a step",
        "relative": "x longest alone",
        "sum_relative": "over plain models",
    }
    if modelled:
        columns |= {
            "modelled_ms": f"modelled GPU, ms at batch {first['modelled_batch']}",
            "modelled_relative": "x longest alone",
            "modelled_busy": "GPUs computing",
        }
    # Several configurations, dtypes or batch sizes in one file each say which they are.
    columns |= {key: key for key in ("config", "dtype", "batch") if len({row[key] for row in rows}) > 1}
    note = (
        f"By `{first.get('command', 'python tools/throughput.py --training')}` on {first['device']} per process"
        f"{', ' + first['instructions'] if first.get('instructions') else ''}; median of {first.get('rounds', '?')} rounds; "
        f"{listed(first.get('versions', {}))}. Milliseconds are the clock's; "
        f"{'ratios over plain models are of processor time' if first['cpu_ms'] is not None else 'so are all ratios'}."
    )
    return table(columns, [_in_words(row) for row in rows], note)


def _in_words(row: Mapping[str, Any]) -> dict[str, Any]:
    def optional(key: str, pattern: str) -> str | None:
        return None if row[key] is None else pattern.format(row[key])

    plain = optional("sum_relative", "{:.2f}")
    if plain is not None:
        plain += " ({:.2f} to {:.2f})".format(*row["sum_relative_spread"])
    return {
        **row,
        "grids": row["grid"].replace("+", ", "),
        "training": _training(row),
        "ms": f"{row['ms_p50']:,.0f}",
        "relative": f"{row['relative']:.2f}",
        "sum_relative": plain,
        "modelled_ms": optional("modelled_ms", "{:.1f}"),
        "modelled_relative": optional("modelled_relative", "{:.2f}"),
        "modelled_busy": optional("modelled_busy", "{:.0%}"),
    }


def _training(row: Mapping[str, Any]) -> str:
    """`replicas (10x10 and 7x7 share one)`, `one process (Algorithm 1)`."""
    if row["devices"] == 1:
        return f"{row['name']} (Algorithm 1)" if row["lengths"] > 1 else str(row["name"])
    shared = [" and ".join(grids) for grids in row["grids_per_rank"] if len(grids) > 1]
    return f"{row['name']} ({'; '.join(shared)} share one)" if shared else str(row["name"])
