"""The whole recipe of a configuration, stage after stage: model, token-length labels, assigner, evaluation.

Pictures and clips share it; what differs comes through `Package`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from revit.common.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from revit.common.config import dump
from revit.common.data.flat import FlatStrings
from revit.common.data.loader import dead_workers_explained
from revit.common.engine.evaluate import grid_runners
from revit.common.engine.evaluator import Evaluator
from revit.common.engine.log import RunLog
from revit.common.engine.package import Package
from revit.common.engine.run_options import RecipeOptions
from revit.common.engine.stages import StageBook, clear
from revit.common.engine.state import remove_states, seed_all
from revit.common.engine.task import AssignerTask
from revit.common.engine.trained import build_assigner
from revit.common.engine.training import states_of, train
from revit.common.errors import UserError
from revit.common.files import write_json, write_text
from revit.common.tokens.adaptive import AdaptiveClassifier
from revit.common.tokens.labels import LengthLabels, class_balanced_weights
from revit.common.weights.start import without_trace


class Recipe:
    """Runs the stages of one configuration under its `run.dir`."""

    def __init__(self, options: RecipeOptions, package: Package) -> None:
        self.options = options
        self.package = package
        self.folder = Path(options.run.dir)
        self.evaluator = Evaluator(options, package)
        self.model_file = self.folder / "model.safetensors"
        self.labels_file = self.folder / "lengths.csv"
        self.checkpoint_file = self.folder / "checkpoint.safetensors"

    def run(self, only: str | None = None) -> None:
        """All stages, or the one called `only` (the stages it builds on must be done). UserError otherwise."""
        num_processes = int(os.environ.get("WORLD_SIZE", "1"))
        if num_processes > 1:
            raise UserError(
                f"started as {num_processes} processes, but training runs in one so far; start it without torchrun"
            )
        stages = self.stages()
        if only is not None and only not in stages:
            raise UserError(f"this configuration has no stage {only!r}; its stages are {', '.join(stages)}")
        if self.options.run.resume == "never" and only is None:
            clear(self.folder)
        self.log = RunLog(self.folder / "log.jsonl")
        self.book = StageBook(self.folder, self.log)
        write_text(self.folder / "config.yaml", dump(self.options))
        names = list(stages)
        for position, (name, work) in enumerate(stages.items()):
            if only not in (None, name):
                if position < names.index(str(only)) and not self.book.is_done(name):
                    raise UserError(f"stage {only!r} builds on {name!r}, which is not done in {self.folder}")
                continue
            if name == only:
                self.book.forget([name])
            with dead_workers_explained():
                done = self.book.run(
                    name, self.options.settings_of(name), work, refuse_changes=name == "model"
                )
            if done:
                self.book.forget(names[position + 1 :])

    def stages(self) -> dict[str, Callable[[], None]]:
        """Stage name -> work, in order. Labels and assigner need more than one grid."""
        stages: dict[str, Callable[[], None]] = {}
        if self.options.makes_data:
            stages["data"] = lambda: self.package.make_data(self.options)
        stages["model"] = self.train_model
        if self.options.has_lengths:
            stages["lengths"] = self.label_lengths
            stages["assigner"] = self.train_assigner
        stages["evaluate"] = self.evaluate
        return stages

    # -- stages ------------------------------------------------------------------------------------------------------

    def train_model(self) -> None:
        """Train the model at all its grids (Algorithm 1) and write model.safetensors."""
        seed_all(self.options.run.seed)
        names = list(self.package.label_names(self.options))
        model = self.package.build_model(self.options, len(names))
        if self.options.start.source is not None:
            self.log.say(str(self.package.start(model, self.options, self.options.start.source)))
        parts = train(
            "model",
            model,
            self.package.task(self.options),
            self.package.train_loader(self.options, "train", self.options.train.batch_size),
            self.options.train,
            **self._training(),
            augment=self.package.batch_augment(self.options, len(names)),
            watch=lambda network: self.evaluator.watch(network, self.log),
        )
        extra = {"architecture": without_trace(model)}
        self._save(self.model_file, names, {name: part.state_dict() for name, part in parts.items()}, extra)
        remove_states(states_of(self.options.run, "model"))

    def label_lengths(self) -> None:
        """Retrieve every sample's token-length label from the trained model, in evaluation mode, one view."""
        options = self.options.lengths
        classifier = self.evaluator.fill(load_checkpoint(self.model_file), self.model_file)
        grids = classifier.model.grids
        evaluation = self.evaluator.evaluate(
            grid_runners(AdaptiveClassifier(classifier.model)), options.split, "lengths", one_view=True
        )
        correct = [evaluation.correct(evaluation.answers[grid.name].logits, "logits") for grid in grids]
        paths = self.package.paths(self.options, options.split)
        labels = LengthLabels(
            grids=grids,
            ids=evaluation.ids,
            paths=FlatStrings.of(paths[id] for id in evaluation.ids.tolist()),
            targets=evaluation.targets,
            correct=torch.stack(correct, dim=1),
            none_correct=options.none_correct,
        )
        labels.save(self.labels_file)
        failed = len(evaluation.failures)
        self.log.write("lengths", split=options.split, shares=labels.shares(), failed=failed)
        shares = ", ".join(f"{name} {share:.1%}" for name, share in labels.shares().items())
        self.log.say(f"lengths: {len(labels.ids)} labels on {options.split}: {shares}; failed {failed}")

    def train_assigner(self) -> None:
        """Train the Token-Length Assigner on the labels and write checkpoint.safetensors with both networks."""
        seed_all(self.options.run.seed)
        labels = LengthLabels.load(self.labels_file, self.options.lengths.none_correct)
        options, split = self.options.assigner, self.options.lengths.split
        assigner = build_assigner(options, len(labels.grids))
        by_id = torch.full((len(self.package.paths(self.options, split)),), -1)
        by_id[labels.ids] = labels.labels
        weights = class_balanced_weights(labels.labels, len(labels.grids)) if options.balanced else None
        trained = train(
            "assigner",
            assigner,
            AssignerTask(by_id, weights, options.mirror),
            self.package.assigner_loader(self.options, split, options.train.batch_size),
            options.train,
            **self._training(),
        )["model"]
        checkpoint = load_checkpoint(self.model_file)
        parts = {**checkpoint.parts, "assigner": trained.state_dict()}
        extra = {**checkpoint.extra, "length_shares": labels.shares()}
        self._save(self.checkpoint_file, checkpoint.label_names, parts, extra)
        remove_states(states_of(self.options.run, "assigner"))

    def evaluate(self) -> None:
        """Fixed grids, the assigner and the baselines on the test split: report.json."""
        start = time.perf_counter()
        file = self.checkpoint_file if self.options.has_lengths else self.model_file
        report = self.evaluator.report(self.evaluator.load(file))
        report["seconds"] = self.book.seconds | {"evaluate": round(time.perf_counter() - start, 3)}
        write_json(self.folder / "report.json", report)
        if not self.options.has_lengths:
            checkpoint = load_checkpoint(self.model_file)
            self._save(self.checkpoint_file, checkpoint.label_names, checkpoint.parts, checkpoint.extra)

    # -- parts -------------------------------------------------------------------------------------------------------

    def _training(self) -> dict[str, Any]:
        """What all trainings of a run share."""
        return {
            "run": self.options.run,
            "device": self.evaluator.device,
            "pixels": self.package.pixels(self.options),
            "log": self.log,
        }

    def _save(
        self,
        path: Path,
        label_names: Sequence[str],
        parts: Mapping[str, Mapping[str, Tensor]],
        extra: Mapping[str, Any],
    ) -> None:
        save_checkpoint(
            path,
            Checkpoint(
                kind=self.options.kind,
                config=self.options.model_dump(mode="json"),
                label_names=list(label_names),
                parts=parts,
                extra=extra,
            ),
        )
