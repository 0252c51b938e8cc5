"""Show what runs found: accuracy, compute and measured speed of every fixed token length, the assigner and its baselines.

What the assigner is worth comes first. Top-1 stands with its 95 % interval (Wilson). Runs that were tested on other data,
splits or views, or on another number of samples, are marked: their accuracies cannot be compared.

--html writes one page that needs no network and no other file: plots of accuracy against multiply-accumulates and against
measured time, training curves, classes that are confused, and examples by assigned length.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import environment  # noqa: F401 (it says what to do where the project is not installed)

from revit.common.system.command_line import parse, parser, tool

if TYPE_CHECKING:
    from revit.common.report.runs import RunReport


@tool
def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser(
        __doc__ or "",
        "python tools/report.py runs/demo --html runs/demo/report.html\n"
        "python tools/report.py runs/image_demo runs/image_toe --markdown table.md --json report.json",
    )
    arguments.add_argument("runs", nargs="+", metavar="RUN_DIR", help="folder of a run, or of several, however deep")
    arguments.add_argument("--html", type=Path, metavar="OUT", help="also write one self-contained page")
    arguments.add_argument("--markdown", type=Path, metavar="OUT", help="also write a table for a paper or a README")
    arguments.add_argument("--json", type=Path, metavar="OUT", help="also write everything as JSON")
    arguments.add_argument(
        "--measure",
        action="store_true",
        help="measure the speed of the runs' networks on this machine first, and keep it in their report.json",
    )
    values = parse(arguments, argv)

    # Imported after the arguments are read, so that --help and mistakes in them answer at once.
    from revit.common.report.comparison import comparison_columns, comparison_rows, comparison_warnings
    from revit.common.report.markdown import markdown
    from revit.common.report.page import render
    from revit.common.report.runs import read_runs, unfinished
    from revit.common.report.summary import as_json, summarize
    from revit.common.report.tables import print_table
    from revit.common.system.files import write_json, write_text

    runs = read_runs(values.runs)
    for sentence in unfinished(values.runs):
        print(f"not shown: {sentence}", file=sys.stderr)
    if values.measure:
        for run in runs:
            _measure(run)
        runs = read_runs(values.runs)
    summaries = [summarize(run) for run in runs]
    # Files first: a reader of the output that leaves (`| head -1`) takes nothing with it.
    written = []
    if values.json:
        write_json(values.json, as_json(summaries))
        written.append(f"json: {values.json}")
    if values.markdown:
        write_text(values.markdown, markdown(summaries))
        written.append(f"table: {values.markdown}")
    if values.html:
        write_text(values.html, render(summaries))
        written.append(f"page: {values.html}")
    for run in runs:
        print(f"{run.name}: {run.judged.text}")
        if run.time_verdict:
            print(f"{run.name}: {run.time_verdict}")
    for warning in comparison_warnings(runs):
        print(warning)
    print_table("Accuracy and compute", comparison_columns(runs), comparison_rows(runs))
    for line in written:
        print(line)
    return 0


def _measure(run: RunReport) -> None:
    """Puts the measured speed of a run's network into its report.json."""
    from modalities import load_run

    from revit.common.evaluation.evaluator import Evaluator
    from revit.common.system.files import write_json
    from revit.common.timing.speed import measure_speed
    from revit.common.weights.checkpoint import IN_RUN

    assert run.folder is not None
    options, modality = load_run(run.folder / "config.yaml")
    evaluator = Evaluator(options, modality)
    speed = measure_speed(
        evaluator.load(run.folder / IN_RUN),
        modality.input_shape(options),
        evaluator.device,
        evaluator.dtype,
        run.content.get("adaptive", {}).get("share"),
        max(options.run.speed_seconds, 1.0),
    )
    write_json(run.folder / "report.json", {**run.content, "speed": speed})


if __name__ == "__main__":
    sys.exit(main())
