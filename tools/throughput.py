"""Measure speed: every token grid and the adaptive pass, in one interleaved run, against a plain matrix product.

Weights are random: speed does not depend on them. The adaptive pass gives each token length the same share of inputs,
with the assigner's time included.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from revit.common.cli import add_config, add_json, parse, parser, tool
from revit.common.files import write_json

COLUMNS = {
    "name": "model",
    "config": "config",
    "grid": "grid",
    "dtype": "dtype",
    "compiled": "compiled",
    "batch": "batch",
    "per_second": "inputs/s",
    "ms_p50": "ms p50",
    "ms_p95": "ms p95",
    "peak_memory_mb": "peak MB",
    "fraction_of_peak": "of matmul rate",
}


@tool
def main(argv: Sequence[str] | None = None) -> int:
    example = "python tools/throughput.py --cfg configs/video/timesformer_8x224.yaml --peers --dtypes bfloat16 --batches 1"
    arguments = parser(__doc__ or "", example)
    add_config(arguments, several=True)
    add_json(arguments)
    arguments.add_argument(
        "--peers", action="store_true", help="also time other implementations with the same weights"
    )
    arguments.add_argument("--dtypes", type=_dtypes, default="float32,bfloat16", help="default: %(default)s")
    arguments.add_argument(
        "--batches", type=_batches, default="1,4", help="batch sizes; default: %(default)s"
    )
    arguments.add_argument("--compile", action="store_true", help="also time torch.compile of each model")
    arguments.add_argument(
        "--rounds", type=int, default=5, metavar="N", help="times each case is measured (5)"
    )
    values = parse(arguments, argv)
    if values.rounds < 1:
        arguments.error("--rounds must be at least 1")

    # Imported after the arguments are read, so that --help and mistakes in them answer at once.
    from kinds import PEERS, load_run

    from revit.common.engine.backend import pick_device
    from revit.common.report.cases import model_cases, peer_cases
    from revit.common.report.costs import build
    from revit.common.report.tables import print_table
    from revit.common.report.throughput import Case, device_name, measure

    cases: list[Case] = []
    for path in values.cfg:
        options, kind = load_run(path, values.overrides)
        package, device = kind.package, pick_device(options.run.device)
        model, assigner = build(options, package)
        name = Path(path).stem
        settings: dict[str, Any] = {
            "input_shape": package.input_shape(options),
            "device": device,
            "dtypes": values.dtypes,
            "batches": values.batches,
        }
        if values.peers:  # before our own cases, as it fills parameters that start at zero
            cases += peer_cases(*PEERS[kind.name], name, model, **settings)
        compiled = (False, True) if values.compile else (False,)
        cases += model_cases(name, model, assigner, **settings, compiled=compiled)
    rows = [row.as_json() for row in measure(cases, device, values.rounds)]
    print_table(f"Speed on {device_name(device)}, median of {values.rounds} rounds or more", COLUMNS, rows)
    if values.json:
        write_json(values.json, rows)
    return 0


def _dtypes(text: str) -> list[str]:
    names = text.split(",")
    if any(name not in ("float32", "bfloat16") for name in names):
        raise argparse.ArgumentTypeError(f"{text!r}: choose from float32, bfloat16, or both with a comma")
    return names


def _batches(text: str) -> list[int]:
    if not all(part.isdigit() and int(part) for part in text.split(",")):
        raise argparse.ArgumentTypeError(f"{text!r}: whole numbers from 1, such as 1,4")
    return [int(part) for part in text.split(",")]


if __name__ == "__main__":
    sys.exit(main())
