"""Show what runs found: accuracy and compute of every method, fixed token length, the assigner, and its baselines.

Top-1 stands with its 95 % interval (Wilson). Runs that were tested on other data, splits or views, or on another number
of samples, are marked: their accuracies cannot be compared.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from revit.common.cli import parse, parser, tool


@tool
def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser(
        __doc__ or "",
        "python tools/report.py runs/demo --html runs/demo/report.html\npython tools/report.py runs/image_demo runs/image_toe",
    )
    arguments.add_argument(
        "runs", nargs="+", metavar="RUN_DIR", help="folder of a run, or of several, however deep"
    )
    arguments.add_argument("--html", type=Path, metavar="OUT", help="also write one self-contained page")
    values = parse(arguments, argv)

    # Imported after the arguments are read, so that --help and mistakes in them answer at once.
    from revit.common.report.compared import compared_columns, compared_rows, warnings
    from revit.common.report.page import write_page
    from revit.common.report.runs import read_runs
    from revit.common.report.tables import print_table

    runs = read_runs(values.runs)
    print_table("Accuracy and compute", compared_columns(runs), compared_rows(runs))
    for warning in warnings(runs):
        print(warning)
    for run in runs:
        if verdict := run.verdict():
            print(f"{run.name}: {verdict}")
    if values.html:
        write_page(values.html, runs)
        print(f"page: {values.html}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
