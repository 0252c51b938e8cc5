"""What a model will be trained on: the first batch of a run, augmented and mixed, as a drawing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from revit.common.data.batch import Batch
from revit.common.drawing.batch import MAX_CLIPS, MAX_PICTURES, Shown, draw_batch
from revit.common.drawing.tile import cells_of
from revit.common.methods.run_options import RecipeOptions
from revit.common.modality.modality import Modality
from revit.common.system.distributed import ALONE
from revit.common.system.errors import UserError, reason_of
from revit.common.system.files import check_writable
from revit.common.training.stages import Run

LEAST_SHARE = 0.005
"""Share of a mixed label from which it is named."""


def show_batch(options: RecipeOptions, modality: Modality[Any], path: str | Path) -> str:
    """Draw the first training batch of a run into `path`, a PNG file -> what was drawn, in a line.

    It is the batch that a new run of one process from random weights begins with, number for number; where weights are
    loaded or processes share the work, mixing and erasing may draw other numbers.

    Raises UserError for a file that cannot be written, no training list, or a batch of broken files alone.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise UserError(f"{path}: a batch is drawn as a PNG file; call it {path.stem or 'batch'}.png")
    check_writable(path)
    run = Run(options, modality, ALONE)
    model = run.model_to_train()
    inputs, batch = first_batch(run)
    most = MAX_PICTURES if inputs.ndim == 4 else MAX_CLIPS
    paths, names = modality.paths(options, "train"), run.label_names
    samples = [
        Shown(label_text(target, names), Path(paths[id]).name, pixels_of(one))
        for one, target, id in zip(inputs[:most], batch.targets, batch.ids.tolist())
    ]
    said = f"{len(samples)} of the {len(batch)} {modality.plural} of the first training batch"
    sides = (inputs.shape[-2], inputs.shape[-1])
    drawing = draw_batch(said, samples, [cells_of(model, grid, sides) for grid in model.grids])
    try:
        drawing.save(path, format="PNG")
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {reason_of(error)}") from error
    return f"{path}: {said}"


def first_batch(run: Run) -> tuple[Tensor, Batch]:
    """Return the first training batch, uint8 (B, C, ...) after augmentation and mixing, with its targets; the global
    generators stand where a training begins, at the end of `run.model_to_train`."""
    options, modality = run.options, run.modality
    data: Any = options.data
    loading = data.loading.model_copy(update={"num_workers": 0})  # the same samples, and only one batch of them
    alone = options.model_copy(update={"data": data.model_copy(update={"loading": loading})})
    batch = next(iter(modality.train_loader(alone, "train", options.train.batch_size)))
    if len(batch) == 0:
        raise UserError(
            f"none of the first {options.train.batch_size} training files could be read: "
            f"{batch.failures[0].path}: {batch.failures[0].reason}; correct the list"
        )
    batch = batch.to(run.device)
    normalizer = modality.normalizer(options).to(run.device)
    inputs = normalizer(batch.inputs)
    if (augment := modality.batch_augment(options, len(run.label_names))) is not None:
        inputs, batch = augment(inputs, batch)
    return normalizer.undo(inputs), batch


def pixels_of(sample: Tensor) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return uint8 (C, ...) as an RGB array (..., 3)."""
    return np.ascontiguousarray(sample.movedim(0, -1).expand(*sample.shape[1:], 3).cpu().numpy())


def label_text(target: Tensor, names: Sequence[str]) -> str:
    """Return the name of a class number (), or of every class of a soft target (K,) with its share, the largest first."""
    if target.ndim == 0:
        return names[int(target)]
    shares, classes = torch.sort(target, descending=True, stable=True)
    found = [(names[number], share) for share, number in zip(shares.tolist(), classes.tolist()) if share >= LEAST_SHARE]
    return found[0][0] if len(found) == 1 else ", ".join(f"{name} ({share:.0%})" for name, share in found)
