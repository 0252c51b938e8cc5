"""From a checkpoint file back to networks that answer."""

from __future__ import annotations

from collections.abc import Sequence

from revit.common.checkpoint import Checkpoint
from revit.common.engine.options import AssignerOptions
from revit.common.engine.run_options import RecipeOptions
from revit.common.errors import UserError
from revit.common.grid_model import GridModel
from revit.common.tokens.adaptive import AdaptiveClassifier
from revit.common.tokens.assigner import TokenLengthAssigner


def build_assigner(options: AssignerOptions, num_grids: int) -> TokenLengthAssigner:
    """The untrained assigner of a configuration."""
    return TokenLengthAssigner(
        num_grids, options.size, options.num_frames, options.width, options.depth, dropout=options.dropout
    )


def fill_classifier(
    checkpoint: Checkpoint, source: str, model: GridModel, options: RecipeOptions
) -> AdaptiveClassifier:
    """The checkpoint's weights in `model`, with its assigner if it has one, in evaluation mode on the CPU.

    Raises UserError if they do not fit; `source` names the file in the message.
    """
    checkpoint.load_into("model", model, source)
    assigner = None
    if "assigner" in checkpoint.parts:
        assigner = build_assigner(options.assigner, len(model.grids))
        checkpoint.load_into("assigner", assigner, source)
    return AdaptiveClassifier(
        model, assigner, options.test.batch_size, options.assigner.confidence, facts=checkpoint.extra
    ).eval()


def are_numbers(names: Sequence[str]) -> bool:
    """Whether class names only repeat the class numbers: the stand-in for a list without names."""
    return all(name == str(number) for number, name in enumerate(names))


def check_same_classes(source: str, theirs: Sequence[str], ours: Sequence[str]) -> None:
    """UserError if a checkpoint's classes are not the data's, in the same order: its accuracy would mean nothing."""
    if are_numbers(theirs) or are_numbers(ours):
        same = len(theirs) >= len(ours) if are_numbers(ours) else len(theirs) == len(ours)
        if same:
            return
        raise UserError(f"{source} knows {len(theirs)} classes, the data has {len(ours)}")
    different = [number for number, pair in enumerate(zip(theirs, ours)) if pair[0] != pair[1]]
    if len(theirs) != len(ours) or different:
        first = different[0] if different else min(len(theirs), len(ours))
        pair = [names[first] if first < len(names) else "nothing" for names in (theirs, ours)]
        raise UserError(
            f"{source} was trained on other classes than the data's, or in another order: class {first} is {pair[0]!r} "
            f"there and {pair[1]!r} here; give its own list of names as data.source.label_names"
        )
