"""Say what is in pictures or happens in clips: class names, probabilities, token length used, milliseconds.

Exit status 0 if every PATH led to an answer (of a folder: at least one file in it), 2 if one did not.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, get_args

import environment  # noqa: F401 (it says what to do where the project is not installed)

from revit.common.serving.answer import Answer, find_files
from revit.common.serving.options import PRECISIONS, Compile
from revit.common.system.command_line import add_json, on_one_line, parse, parser, print_nowhere, tool
from revit.common.system.errors import UserError
from revit.common.system.files import write_json

if TYPE_CHECKING:
    from revit.common.drawing.gallery import Gallery
    from revit.common.modality.modality import Classifier


@tool
def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser(
        __doc__ or "",
        "python tools/predict.py --checkpoint runs/demo/checkpoint.safetensors runs/demo/data/test --topk 3\n"
        "python tools/predict.py --checkpoint TimeSformer_divST_8x32_224_K400.pyth --labels k400.txt clip.mp4 folder\n"
        "python tools/predict.py --checkpoint runs/image_demo runs/image_demo/data/test --draw drawings\n"
        "python tools/predict.py --checkpoint runs/image_demo runs/image_demo/data/test --budget drop:0.5\n"
        "python tools/predict.py --checkpoint timm:deit_small_patch16_224 picture.jpg folder",
    )
    arguments.add_argument("paths", nargs="+", metavar="PATH", help="a file, or a folder searched for files")
    arguments.add_argument(
        "--checkpoint",
        required=True,
        metavar="CKPT",
        help="ours, of clips or pictures; a published TimeSformer .pyth; ViT, DeiT or LV-ViT weights; a Hugging Face "
        "folder; hf-hub:NAME or timm:NAME",
    )
    arguments.add_argument("--topk", type=int, default=5, help="classes to name for each file (default 5)")
    arguments.add_argument("--grid", metavar="7x7", help="this token length for all files, not the assigner's")
    arguments.add_argument(
        "--budget",
        metavar="UNIT:X",
        help="what a view may cost in the mean: gmacs:130, ms:40 or drop:0.5 (points of top-1 below the longest grid); the "
        "checkpoint has to be calibrated (train_net --stage calibrate)",
    )
    arguments.add_argument(
        "--views",
        default="1",
        metavar="CROPS|STRETCHESxCROPS",
        help="looks at each clip: 1 (centre, default), 3, 4x3, ..., or test for the checkpoint's own test views; a "
        "picture has one",
    )
    arguments.add_argument(
        "--draw",
        metavar="DIR",
        help="for every file a picture in DIR of what was spent on it: token grid, tokens kept, merged, dropped",
    )
    arguments.add_argument("--labels", metavar="FILE", help="class names, for a checkpoint that has none")
    arguments.add_argument("--device", default="auto", help="auto (default), cpu, cuda, cuda:1, ...")
    arguments.add_argument(
        "--dtype",
        default="auto",
        choices=("auto", *PRECISIONS),
        help="auto (default): float32 or bfloat16, whichever a short measurement finds faster here",
    )
    arguments.add_argument(
        "--compile",
        default="auto",
        choices=get_args(Compile),
        help="auto (default): torch.compile where it saves more time than it takes",
    )
    arguments.add_argument("--batch", type=int, metavar="N", help="views at the longest grid that run together")
    arguments.add_argument("--readers", type=int, metavar="N", help="files that are read at once")
    arguments.add_argument(
        "--damaged",
        default="salvage",
        choices=("salvage", "refuse"),
        help="salvage (default): answer by the whole frames of a damaged clip, with a warning; refuse: say what is wrong",
    )
    add_json(arguments)
    values = parse(arguments, argv)
    if values.topk < 1:
        raise UserError(f"--topk {values.topk}: name at least 1 class")
    if values.grid is not None and values.budget is not None:
        raise UserError("--grid and --budget both say what is spent on a file; give one of them")

    for name in ("batch", "readers"):
        if (number := getattr(values, name)) is not None and number < 1:
            raise UserError(f"--{name} {number}: at least 1")

    # Imported after the arguments are read, so that --help and mistakes in them answer at once.
    from modalities import MODALITIES

    from revit.common.drawing.gallery import Gallery
    from revit.common.modality.load import open_classifier
    from revit.common.serving.budgets import budget_line
    from revit.common.serving.engine import Engine

    classifier = _with_labels(open_classifier(values.checkpoint, list(MODALITIES.values())), values.labels)
    _say_what_was_opened(classifier)
    gallery = None if values.draw is None else Gallery(values.draw)
    # All files are known before the first is answered: what is drawn meanwhile is none of them.
    files = [_files_of(path, classifier, gallery) for path in values.paths]
    found_by = [number for number, those in enumerate(files) for _ in those]
    found = [one for those in files for one in those]
    answers: list[Answer] = []
    with Engine(
        classifier,
        views=values.views,
        grid=values.grid,
        topk=values.topk,
        budget=values.budget,
        gallery=gallery,
        device=values.device,
        dtype=values.dtype,
        compile=values.compile,
        max_batch=values.batch,
        num_readers=values.readers,
        damaged=values.damaged,
        num_inputs=sum(isinstance(one, str) for one in found),
    ) as engine:
        if (policy := engine.networks.policy) is not None and policy.why:
            print(policy.why, file=sys.stderr)
        for answer in engine.predict(found):
            answers.append(answer)
            try:
                _show(answer)
            except BrokenPipeError:  # whoever read this left; the file is wanted all the same
                if not values.json:
                    raise
                print_nowhere()
        budget = engine.budget
    if budget is not None:
        print(budget_line(budget), file=sys.stderr)
    if values.json:
        # The same for every file: it is about all of them.
        spent = {} if budget is None else {"budget": budget}
        write_json(values.json, [answer.as_json() | spent for answer in answers])
    answered = {number for number, answer in zip(found_by, answers) if answer.error is None}
    return 0 if len(answered) == len(values.paths) else 2


def _files_of(path: str, classifier: Classifier, gallery: Gallery | None) -> list[str | Answer]:
    """Return the files that a path means, and answers about folders that cannot be read or have none."""
    found: list[str | Answer] = []

    def refuse(error: OSError) -> None:
        reason = f"this folder cannot be read ({(error.strerror or str(error)).lower()})"
        found.append(Answer(str(error.filename), error=reason))

    for file in find_files(path, classifier.inputs.extensions, refuse):
        if gallery is None or not gallery.holds(file) or file == path:
            found.append(file)
    return found or [Answer(path, error=f"no {classifier.inputs.noun}s in this folder")]


def _with_labels(classifier: Classifier, file: str | None) -> Classifier:
    if file is None:
        return classifier
    from revit.common.data.label_names import read_label_names

    names = read_label_names(file)
    if len(names) != classifier.num_classes:
        raise UserError(f"{file}: {len(names)} names, but the model has {classifier.num_classes} classes")
    return replace(classifier, label_names=names)


def _say_what_was_opened(classifier: Classifier) -> None:
    lines = [str(classifier.report)] if classifier.report else []
    if classifier.assumed:
        lines.append(f"  assumed   {', '.join(classifier.assumed)}")
    if not classifier.label_names:
        lines.append("this checkpoint names no classes: numbers are shown; give names with --labels FILE")
    if lines:
        print("\n".join(lines), file=sys.stderr)


def _show(answer: Answer) -> None:
    if answer.error is not None:
        print(f"{on_one_line(answer.path)}: no answer: {answer.error}", file=sys.stderr, flush=True)
        return
    total = answer.read_ms + answer.compute_ms
    print(
        f"{on_one_line(answer.path)}  {answer.grid}  {total:.0f} ms "
        f"(reading {answer.read_ms:.0f}, model {answer.compute_ms:.0f})"
    )
    if answer.warning is not None:
        print(f"  warning: {answer.warning}", flush=True)
    for guess in answer.guesses:
        print(f"  {guess.probability:7.2%}  {guess.label}", flush=True)
    if answer.labels is not None:
        print(f"  labels: {', '.join(answer.labels) or 'none'}", flush=True)
    if answer.drawing is not None:
        print(f"  drawn in {answer.drawing}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
