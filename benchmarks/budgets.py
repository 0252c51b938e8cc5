"""Ask a calibrated run for budgets, and compare them with what test_net.py and predict.py then spend and reach.

    python benchmarks/budgets.py --run runs/demo --json runs/budgets/video.json
    python benchmarks/budgets.py --run runs/image_demo --budgets gmacs:0.006 drop:0.5

Both tools run over the test files that the run made: the one in batches of the test list, with every grid beside the
budget's, the other as a stream of files. Without --budgets: five costs spread over what the checkpoint reaches, and losses of
0.5 and of 2 points. To reach: achieved GMACs within 3 % of those asked for, and accuracy that does not fall along the curve
by more than its interval.
"""

from __future__ import annotations

import io
import json
import shlex
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import predict
import test_net
from harness import arguments_of, finish, held_out_files

from revit.common.methods.revit.budget import KEY
from revit.common.report.tables import print_table
from revit.common.serving.budgets import HOW
from revit.common.system.command_line import parse, tool
from revit.common.system.errors import UserError
from revit.common.weights.checkpoint import checkpoint_file, load_checkpoint

SHARES = (0.02, 0.25, 0.5, 0.75, 0.95)
"""Of the way from the cheapest cost to the dearest."""
DROPS = ("drop:0.5", "drop:2")
COLUMNS = {
    "asked": "asked",
    "predicted_top1": "predicted top-1",
    "predicted_gmacs": "predicted GMACs",
    "test_gmacs": "test_net: GMACs",
    "test_top1": "top-1",
    "predict_gmacs": "predict: GMACs",
    "predict_top1": "top-1",
}


def usual_budgets(run: Path) -> list[str]:
    """Return the budgets of `SHARES` and `DROPS`. UserError for a run without a budget curve."""
    file = checkpoint_file(run)
    extra = load_checkpoint(file).extra
    if KEY not in extra:
        raise UserError(f"{file}: it has no budget curve yet; calibrate it: {HOW}")
    points = extra[KEY]["points"]
    low, high = points[0]["gmacs"], points[-1]["gmacs"]
    return [*(f"gmacs:{low + share * (high - low):.3g}" for share in SHARES), *DROPS]


def measure(run: Path, budget: str) -> dict[str, Any]:
    """Return one row. UserError for a budget that is out of reach, in the tool's words."""
    checkpoint = ["--checkpoint", str(run), "--budget", budget]
    tested = _json_of(test_net.main, ["--cfg", str(run / "config.yaml"), *checkpoint])["budget"]
    answers = _json_of(predict.main, [*checkpoint, str(run / "data" / "test")])
    labels = {Path(path): label for path, label in zip(*held_out_files(run))}
    right = [one["top"][0]["class"] == labels[Path(one["path"])] for one in answers]
    predicted, achieved = tested["predicted"], tested["achieved"]
    return {
        "asked": budget,
        "predicted_top1": predicted["top1"],
        "predicted_interval": predicted.get("interval"),
        "predicted_gmacs": predicted["gmacs"],
        "test_gmacs": achieved["gmacs"],
        "test_top1": achieved["top1"],
        "predict_gmacs": answers[0]["budget"]["achieved"]["gmacs"],
        "predict_top1": 100 * sum(right) / len(right),
        "samples": len(right),
    }


def _json_of(main: Callable[[Sequence[str]], int], arguments: Sequence[str]) -> Any:
    """Return what a tool writes; what it prints is kept back unless it fails."""
    with tempfile.TemporaryDirectory() as folder:
        out, said = Path(folder) / "out.json", io.StringIO()
        with redirect_stdout(io.StringIO()), redirect_stderr(said):
            status = main([*arguments, "--json", str(out)])
        if status != 0:
            raise UserError(f"{shlex.join(arguments)}: {said.getvalue().strip() or f'ended with {status}'}")
        return json.loads(out.read_text(encoding="utf-8"))


@tool
def main(argv: Sequence[str] | None = None) -> int:
    example = "python benchmarks/budgets.py --run runs/demo --json runs/budgets/video.json"
    arguments = arguments_of(__doc__, example, run=Path("runs/demo"))
    arguments.add_argument("--budgets", nargs="+", metavar="UNIT:X", help="instead of the usual seven")
    values = parse(arguments, argv)
    held_out_files(values.run)
    rows = [measure(values.run, budget) for budget in values.budgets or usual_budgets(values.run)]
    print_table(f"Budgets of {values.run}", COLUMNS, rows)
    return finish(__file__, argv, values, rows)


if __name__ == "__main__":
    sys.exit(main())
