"""Evaluate a checkpoint: every grid, the assigner where there is one, and the baselines, with the config's views."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import environment  # noqa: F401 (it says what to do where the project is not installed)

from revit.common.serving.options import PRECISIONS, Compile
from revit.common.system.command_line import add_config, add_json, parse, parser, tool
from revit.common.system.files import write_json


@tool
def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser(
        __doc__ or "",
        "python tools/test_net.py --cfg configs/video/demo.yaml --checkpoint runs/demo/checkpoint.safetensors\n"
        "python tools/test_net.py --cfg configs/image/demo.yaml --checkpoint runs/image_demo --budget drop:0.5\n"
        "python tools/test_net.py --cfg configs/image/demo.yaml --checkpoint runs/image_demo --dtype bfloat16\n"
        "python tools/test_net.py --cfg configs/video/timesformer_8x224.yaml --checkpoint TimeSformer_divST_8x32_224_K400.pyth\n"
        "python tools/test_net.py --cfg configs/image/deit_small.yaml --checkpoint timm:deit_small_patch16_224",
    )
    add_config(arguments)
    add_json(arguments)
    arguments.add_argument(
        "--checkpoint",
        required=True,
        help="ours or the folder of its run, weights with timm's names, a published file or folder",
    )
    arguments.add_argument(
        "--budget",
        metavar="UNIT:X",
        help="what a view may cost in the mean, instead of model.budget: gmacs:130, ms:40 or drop:0.5 (points of top-1 below the "
        "longest grid); the checkpoint has to be calibrated (train_net --stage calibrate)",
    )
    arguments.add_argument(
        "--dtype",
        choices=("auto", *PRECISIONS),
        help="measure the model as predict serves it, in this precision (auto: float32 or bfloat16, whichever a short "
        "measurement finds faster here); default: the network as it was trained, in run.dtype",
    )
    arguments.add_argument(
        "--compile",
        choices=get_args(Compile),
        help="measure the model as predict serves it, by torch.compile or not (auto, default with --dtype: where it saves more "
        "time than it takes)",
    )
    arguments.add_argument(
        "--csv", metavar="OUT", help="a row for every file: label, prediction, probability, token grid"
    )
    values = parse(arguments, argv)

    # Imported after the arguments are read, so that --help and mistakes in them answer at once.
    from modalities import load_run

    from revit.common.evaluation.evaluator import Evaluator
    from revit.common.evaluation.predictions import write_predictions
    from revit.common.report.runs import COLUMNS, RunReport
    from revit.common.report.tables import print_table
    from revit.common.serving.budgets import budget_line
    from revit.common.weights.checkpoint import checkpoint_file

    options, modality = load_run(values.cfg, values.overrides)
    evaluator = Evaluator(options, modality)
    file = checkpoint_file(values.checkpoint)
    classifier = evaluator.load(file)
    if values.dtype is not None or values.compile is not None:
        evaluator.serve(classifier, values.dtype, values.compile or "auto")
    budget = options.model.budget if values.budget is None else values.budget
    if budget is not None:
        evaluator.choose(classifier, budget, file)
    report, evaluation = evaluator.report(classifier)
    run = RunReport(Path(values.checkpoint).name, report)
    # Files first: a reader of the output that leaves (`| head -1`) takes nothing with it.
    if values.csv:
        samples, names = modality.split(options, options.test.split), modality.label_names(options)
        grids = [grid.name for grid in classifier.grids]
        write_predictions(Path(values.csv), evaluation, grids, samples, names, options.test.merge)
    if values.json:
        write_json(values.json, report)
    print(report["verdict"])
    print(f"measured in {evaluator.precision} on {evaluator.device}")
    several = {"top1": run.accuracy_name, "map": "mAP %"} if run.has_several_labels else {}
    print_table(f"Accuracy on {values.cfg}", COLUMNS | several, run.rows())
    if "budget" in report:
        print(budget_line(report["budget"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
