"""The stage of token-length labels: by the run's model, or part by part by models that never saw the part (`lengths.folds`)."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from revit.common.data.flat import FlatStrings
from revit.common.data.split_off import folds_of
from revit.common.evaluation.evaluate import grid_runners
from revit.common.evaluation.evaluator import Evaluator
from revit.common.methods.revit.adaptive import AdaptiveClassifier
from revit.common.methods.revit.labels import LengthLabels, right_grids
from revit.common.system.errors import UserError
from revit.common.training.run_folder import states_folder
from revit.common.training.stages import Run, choose_thresholds, fitted
from revit.common.weights.checkpoint import load_checkpoint

STAGE = "lengths"
Positions = NDArray[np.int64]


def label_lengths(run: Run) -> None:
    """Find the samples' token-length labels, in evaluation mode, one view; write lengths.csv."""
    split, num_folds = run.options.lengths.split, run.options.lengths.folds
    every = np.arange(len(run.modality.split(run.options, split)))
    labels = _held_out(run) if num_folds else _labelled(run, run.model_file, run.evaluator, every)
    if labels is not None:  # on rank 0
        labels.save(run.labels_file)
        wanted, how = len(every), ""
        if num_folds:
            wanted = sum(len(held) for _, held in folds(run))
            how = f" by models that did not see them ({num_folds} folds)"
            if wanted < len(every):
                how += f", {len(every) - wanted} left out, as no other source has their class"
        failed, shares = wanted - len(labels.ids), labels.shares()
        run.log.write(STAGE, split=split, shares=shares, failed=failed, folds=num_folds)
        said = ", ".join(f"{name} {share:.1%}" for name, share in shares.items())
        run.log.say(f"lengths: {len(labels.ids)} labels on {split}{how}: {said}; failed {failed}")
    run.context.barrier()


def folds(run: Run) -> list[tuple[Positions, Positions]]:
    """Return for each fold the positions in the training list that its model is trained on, and those that it labels.

    Samples of a class that it would not see are left out: no token length would make it right. UserError where nothing is
    left, and as `folds_of`.
    """
    samples, found = run.modality.split(run.options, "train"), []
    for held in folds_of(samples, run.options.lengths.folds, run.options.run.seed):
        rest = np.setdiff1d(np.arange(len(samples)), held)
        seen = set(samples.at(rest).all_labels.tolist())
        # Of several labels one that was seen will do; none at all can be answered rightly, too.
        sets = (samples.label_set(position) for position in held.tolist())
        known = held[[not labels or not seen.isdisjoint(labels) for labels in sets]]
        found += [(rest, known)] if len(known) else []
    if not found:
        raise UserError(
            f"{samples.source}: all samples of each class are of one source, so none can be held out; set lengths.folds to 0"
        )
    return found


def _held_out(run: Run) -> LengthLabels | None:
    """Train a model for each fold and let it label what it did not see. A fold that is labelled is not done again.

    Returns the labels on rank 0, None on the others.
    """
    options, context, modality = run.options, run.context, run.modality
    folder, files = states_folder(options.run.dir, STAGE), []
    for number, (rest, held) in enumerate(folds(run), 1):
        name = f"{STAGE}/fold{number}"
        labels_file, model_file = folder / f"fold{number}.csv", folder / f"fold{number}.safetensors"
        best_file = folder / f"fold{number}.best.safetensors"
        files.append(labels_file)
        if context.on_main(labels_file.exists):
            continue
        if not context.on_main(model_file.exists):
            run.log.say(f"{name}: trained on {len(rest)} samples, to label {len(held)} others")
            part = modality.at(options, "train", rest)
            run.save(model_file, run.label_names, *fitted(run, name, best_file, part))
        if options.data.source.several_labels and modality.has_split(options, "val"):
            choose_thresholds(run, model_file)
        evaluator = Evaluator(options, modality.at(options, "train", held), context)
        labels = _labelled(run, model_file, evaluator, held)
        if labels is not None:
            labels.save(labels_file)
            model_file.unlink()
            best_file.unlink(missing_ok=True)
            shutil.rmtree(states_folder(options.run.dir, name), ignore_errors=True)
        context.barrier()
    if not context.is_main:
        return None
    return LengthLabels.joined([LengthLabels.load(file, options.lengths.none_correct) for file in files])


def _labelled(run: Run, model_file: Path, evaluator: Evaluator, positions: Positions) -> LengthLabels | None:
    """Label the samples that `evaluator` knows, which lie at `positions` of the list; None on other ranks than 0."""
    options = run.options.lengths
    classifier = evaluator.fill(load_checkpoint(model_file), model_file)
    grids = classifier.model.grids
    runners = grid_runners(AdaptiveClassifier(classifier.model))
    limits = evaluator.limits(classifier)
    evaluation = evaluator.evaluate(runners, options.split, STAGE, one_view=True, limits=limits)
    if not run.context.is_main:
        return None
    scores = [evaluation.correct(evaluation.decided(grid.name), "logits") for grid in grids]
    samples, ids = run.modality.split(run.options, options.split), torch.from_numpy(positions)[evaluation.ids]
    return LengthLabels(
        grids=grids,
        ids=ids,
        paths=FlatStrings.of(samples.path(id) for id in ids.tolist()),
        targets=FlatStrings.of(";".join(map(str, samples.label_set(id))) for id in ids.tolist()),
        correct=right_grids(torch.stack(scores, dim=1)),
        none_correct=options.none_correct,
    )
