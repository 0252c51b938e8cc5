"""The best model so far on the val list: kept in a file, and asked whether more epochs are of use."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from revit.common.methods.run_options import RecipeOptions
from revit.common.modality.modality import Modality
from revit.common.system.errors import UserError
from revit.common.weights.checkpoint import load_checkpoint


def best_so_far(file: Path) -> Mapping[str, Any] | None:
    """Return "epoch" and "top1" in percent of the model that the file keeps; None where there is none yet.

    The file itself knows, so that a run that goes on does too.
    """
    return load_checkpoint(file).extra["val"] if file.exists() else None


def patience_ended(file: Path, epoch: int, patience: int | None) -> Mapping[str, Any] | None:
    """Return the best model's facts if it is `patience` epochs older than `epoch`, the number of those done; else None."""
    best = best_so_far(file) if patience is not None else None
    return best if best is not None and patience is not None and epoch - best["epoch"] >= patience else None


def check_validated(options: RecipeOptions, modality: Modality[Any]) -> None:
    """Raise UserError where something is to be decided on a val list and the run evaluates on none."""
    keys = [
        *(["run.keep=best"] if options.run.keep == "best" else []),
        *([f"train.early_stop={options.train.early_stop}"] if options.train.early_stop is not None else []),
    ]
    if keys and options.run.evaluate_every is None:
        raise UserError(f"{' and '.join(keys)}: nothing is evaluated while the model trains; set run.evaluate_every=1")
    if keys and not modality.has_split(options, "val"):
        raise UserError(
            f"{' and '.join(keys)}: there is no val list to judge by; give data.source.val, or have one split off the training "
            "list by data.source.split_off=0.2"
        )
    if options.assigner.train.early_stop is not None:
        raise UserError(
            "assigner.train.early_stop: the assigner is not evaluated while it trains; leave it out, or lower "
            "assigner.train.schedule.epochs"
        )
