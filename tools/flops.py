"""Count what configurations cost: multiply-accumulates, operations and parameters of every token grid.

Three independent counts have to agree within 1 %, attention included, or the tool fails. "gmacs" is what papers of this
field call GFLOPs, for one view and a batch of 1; "gflops" is twice that; "gmacs_total" is for all test views. Methods may
add rows, such as the cost of training, with the "rule" by which they are counted.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import environment  # noqa: F401 (it says what to do where the project is not installed)

from revit.common.system.command_line import add_config, add_json, parse, parser, tool
from revit.common.system.files import write_json

COLUMNS = {
    "config": "config",
    "grid": "grid",
    "params": "parameters",
    "gmacs": "GMACs a view",
    "gflops": "GFLOPs a view",
    "views": "views",
    "gmacs_total": "GMACs, all views",
}
MORE_COLUMNS = {"config": "config", "grid": "of", "gmacs": "GMACs", "rule": "counted how"}


@tool
def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser(
        __doc__ or "", "python tools/flops.py --cfg configs/video/timesformer_8x224.yaml --json flops.json"
    )
    add_config(arguments, several=True)
    add_json(arguments)
    values = parse(arguments, argv)

    # Imported after the arguments are read, so that --help and mistakes in them answer at once.
    from modalities import load_run

    from revit.common.modality.costs import cost_rows
    from revit.common.report.tables import print_table

    rows: list[dict[str, Any]] = []
    for path in values.cfg:
        options, modality = load_run(path, values.overrides)
        rows += cost_rows(Path(path).stem, options, modality, _shares(Path(options.run.dir)))
    more = [row for row in rows if "rule" in row]
    forward = [row for row in rows if "rule" not in row]
    if values.json:
        write_json(values.json, rows)
    print_table("Cost of one forward pass, batch 1, attention included", COLUMNS, forward)
    if more:
        print_table("Other costs", MORE_COLUMNS, more)
    return 0


def _shares(run_dir: Path) -> dict[str, float] | None:
    """The shares of token lengths that a finished run of this configuration found."""
    try:
        report = json.loads((run_dir / "report.json").read_text(encoding="utf-8"))
        return {grid: float(share) for grid, share in report["adaptive"]["share"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


if __name__ == "__main__":
    sys.exit(main())
