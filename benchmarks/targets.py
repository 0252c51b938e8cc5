"""README's table of what was to be reached, from what the benchmarks wrote: runs/targets.json.

    python benchmarks/targets.py [--runs runs]
    python benchmarks/tables.py targets

reads, as far as they are there, on a machine that does nothing else:

    runs/speed/*.json      tools/throughput.py --cfg ... --peers ... --compile --dtypes bfloat16 --rounds 5 --json FILE
    runs/targets/*.json    rows as they will stand in the table: benchmarks/inference.py, benchmarks/loading.py and
                           benchmarks/training.py, each with --json FILE

Ratios of two rows of throughput.py are formed round by round, as both were timed in turns. Where one misses its target,
what limits it is told beside it: how fast it would be if it ran at all of the rate of matrix products in that same run.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from made_tables.markdown import read_json, stays

from revit.common.speed.served import SERVED
from revit.common.system.command_line import parse, parser, tool
from revit.common.system.errors import UserError
from revit.common.system.files import write_json
from revit.common.timing.cases import OURS
from revit.common.timing.measure import round_ratios

Row = Mapping[str, Any]
CPU, GPU = "cpu", "NVIDIA H200"


@dataclass(frozen=True)
class Rate:
    """Part of the rate of matrix products that a configuration is to reach."""

    work: str
    config: str
    dtype: str
    batch: int
    target: float
    device: str = CPU
    """What the device's name contains."""

    def row(self, rows: Sequence[Row]) -> dict[str, Any] | None:
        """Of the fastest of ours; None where it was not timed."""
        ours = _fastest(rows, lambda row: _is_ours(row) and self._fits(row))
        if ours is None or ours["fraction_of_peak"] is None:
            return None
        middle = ours["ms_p50"] * ours["fraction_of_peak"]  # milliseconds at all of the rate
        shares = [100 * middle / one for one in ours["round_ms"]]
        found = {
            "work": f"{self.work}, {_how(ours)}",
            "target": _to_reach(self),
            **_spread([100 * ours["fraction_of_peak"], *shares], "{:.0f} %"),
        }
        return found | _where(ours)

    def _fits(self, row: Row) -> bool:
        wanted = (self.config, self.dtype, self.batch)
        return (row["config"], row["dtype"], row["batch"]) == wanted and self.device in row["device"]


@dataclass(frozen=True)
class Ratio:
    """How many times as fast as another implementation ours is to be."""

    work: str
    config: str
    dtype: str
    batch: int
    target: float
    peer: str
    peer_dtype: str
    peer_compiled: bool
    ours_compiled: bool | None = None
    """None: whatever is faster."""

    def row(self, rows: Sequence[Row]) -> dict[str, Any] | None:
        """Of the fastest of ours that fits; None where one of both was not timed."""
        same = [
            row
            for row in rows
            if (row["config"], row["batch"]) == (self.config, self.batch) and CPU in row["device"]
        ]
        peer = _fastest(
            same,
            lambda row: (
                (row["name"], row["dtype"], row["compiled"])
                == (self.peer, self.peer_dtype, self.peer_compiled)
            ),
        )
        if peer is None:
            return None
        ours = _fastest(
            same,
            lambda row: (
                _is_ours(row)
                and (row["grid"], row["dtype"]) == (peer["grid"], self.dtype)
                and self.ours_compiled in (None, row["compiled"])
            ),
        )
        if ours is None:
            return None
        middle = ours["per_second"] / peer["per_second"]
        found = {
            "work": f"{self.work}, {_how(ours)}",
            "target": f"{self.target:g} times",
            **_spread([middle, *round_ratios(peer, ours)], "{:.2f} times"),
        }
        if middle < self.target and ours["fraction_of_peak"] and peer["fraction_of_peak"]:
            found["why"] = self._limit(ours, peer, middle)
        return found | _where(ours)

    def _limit(self, ours: Row, peer: Row, middle: float) -> str:
        most = middle / ours["fraction_of_peak"]
        return (
            f"{self.work}: {self.peer} in {self.peer_dtype} already runs at {peer['fraction_of_peak']:.0%} of the rate of "
            f"{self.peer_dtype} matrix products here, ours at {ours['fraction_of_peak']:.0%} of that of {self.dtype}; at all of "
            f"that rate it would be {most:.2f} times"
        )


TARGETS: tuple[Rate | Ratio, ...] = (
    *(
        Rate(f"TimeSformer-B 8x224, batch {batch}, CPU", "timesformer_8x224", "bfloat16", batch, 0.7)
        for batch in (1, 4)
    ),
    *(
        Ratio(
            f"TimeSformer-B 8x224, batch {batch}, CPU, against Hugging Face's {said}",
            "timesformer_8x224",
            "bfloat16",
            batch,
            target,
            "huggingface",
            dtype,
            False,
        )
        for said, dtype, target in (("default", "float32", 7.0), ("bfloat16", "bfloat16", 1.7))
        for batch in (1, 4)
    ),
    Ratio(
        "DeiT-S 224, batch 32, CPU, against timm under torch.compile's defaults, both bfloat16",
        "deit_small",
        "bfloat16",
        32,
        1.15,
        "timm",
        "bfloat16",
        True,
    ),
)
ON_GPU = tuple(
    Rate(f"{name}, inference, {GPU}", config, "bfloat16", batch, 0.5, GPU)
    for name, config, batch in (
        ("TimeSformer-B 8x224, batch 32", "timesformer_8x224", 32),
        ("TimeSformer-HR 16x448, batch 8", "timesformer_hr_16x448", 8),
    )
)
"""Named in the table before anybody measured them: such a machine is not always at hand."""


def target_rows(speed: Sequence[Row], written: Sequence[Row]) -> list[dict[str, Any]]:
    """The table: of the rows of throughput.py, of what other benchmarks wrote, and of what is still to be measured."""
    timed = [row for row in speed if "round_ms" in row]
    made = [row for target in TARGETS if (row := target.row(timed)) is not None]
    return [*made, *map(dict, written), *(target.row(timed) or _unseen(target) for target in ON_GPU)]


def _unseen(target: Rate) -> dict[str, Any]:
    return {
        "work": target.work,
        "target": _to_reach(target),
        "measured": None,
        "why": "no such GPU was at hand",
        "spread": None,
        "runs": 0,
        "command": f"python tools/throughput.py --cfg configs/video/{target.config}.yaml --compile --dtypes bfloat16 "
        f"--batches {target.batch} --rounds 5 --json FILE",
        "machine": target.device,
    }


def _to_reach(target: Rate) -> str:
    return f"{100 * target.target:g} % of the matrix-product rate"


def _is_ours(row: Row) -> bool:
    return row["name"] in (OURS, SERVED)


def _fastest(rows: Sequence[Row], fits: Callable[[Row], bool]) -> Row | None:
    return max((row for row in rows if fits(row)), key=lambda row: row["per_second"], default=None)


def _how(row: Row) -> str:
    return f"{row['name']}, {'compiled' if row['compiled'] else 'eager'}"


def _spread(values: Sequence[float], pattern: str) -> dict[str, Any]:
    """Of the figure over all rounds, which is first, and of each round."""
    total, *rounds = values
    low, high = pattern.format(min(rounds)).split(" ")[0], pattern.format(max(rounds))
    return {"measured": pattern.format(total), "spread": f"{low} to {high}", "runs": f"{len(rounds)} rounds"}


def _where(row: Row) -> dict[str, Any]:
    return {"command": row["command"], "machine": f"{row['device']}, {row['instructions']}"}


def _rows_in(folder: Path) -> list[Row]:
    found: list[Row] = []
    for path in sorted(folder.glob("*.json")):
        content = read_json(path)
        if not isinstance(content, list) or not all(isinstance(row, dict) for row in content):
            raise UserError(f"{path}: no list of rows; remove it, or write it again by its command")
        found += content
    return found


@tool
def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser(__doc__ or "", "python benchmarks/targets.py && python benchmarks/tables.py targets")
    root = Path(__file__).parents[1] / "runs"
    arguments.add_argument("--runs", type=Path, default=root, help="folder of measurements")
    values = parse(arguments, argv)
    rows = target_rows(_rows_in(values.runs / "speed"), _rows_in(values.runs / "targets"))
    if all(row["measured"] is None for row in rows):
        stays("targets", f"the measurements that {Path(__file__).name} --help names")
        return 0
    write_json(values.runs / "targets.json", rows)
    for row in rows:
        said = "not measured" if row["measured"] is None else f"{row['measured']} ({row['spread']})"
        print(f"{row['work']}: {said}; to reach: {row['target']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
