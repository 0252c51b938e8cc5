"""How long everything takes that a recipe does beside the updates of its model, from the pace of these."""

from __future__ import annotations

from typing import Any

from revit.common.data.formats.base import Split
from revit.common.methods.run_options import RecipeOptions
from revit.common.modality.modality import Modality

FORWARD = 1 / 3
"""Share of a training step that is its forward pass: the backward pass is two matrix products for each of the forward one's."""


def looks_beside(options: RecipeOptions, modality: Modality[Any]) -> int:
    """Count the views that pass forward at all grids in the evaluations between epochs and in the stages after the model's.

    What the assigner trains on is counted alike, though it is smaller: its batches wait for as many files.
    """

    def size(split: Split) -> int:
        return len(modality.split(options, split))

    views, every, epochs = modality.num_views(options), options.run.evaluate_every, options.train.schedule.total_epochs
    found = size(options.test.split) * views
    if every is not None and modality.has_split(options, "val"):
        found += epochs // every * size("val") * views
    if options.has_lengths:
        found += size(options.lengths.split) * (1 + options.assigner.train.schedule.total_epochs)
        if options.lengths.folds:  # each is trained on without one of them, and a step is so many forward passes
            found += round((options.lengths.folds - 1) * size("train") * epochs / FORWARD)
        if options.calibration is not None and modality.has_split(options, options.calibration.split):
            found += size(options.calibration.split) * views
    return found


def seconds_beside(options: RecipeOptions, modality: Modality[Any], data: float, step: float) -> float:
    """Estimate the seconds of all that.

    data, step: seconds that one sample was waited for, and trained on at all grids, over all processes.
    """
    return looks_beside(options, modality) * (data + step * FORWARD) + options.run.speed_seconds
