"""The whole recipe of a configuration, stage after stage: model, token-length labels, assigner, evaluation.

Pictures and clips share it; what differs comes through `Package`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from revit.common.checkpoint import Checkpoint, is_checkpoint, load_checkpoint, save_checkpoint
from revit.common.config import dump
from revit.common.data.build import Split
from revit.common.data.loader import Loader, dead_workers_explained
from revit.common.engine.backend import LocalBackend, pick_device
from revit.common.engine.evaluate import Evaluation, Runner, evaluate, grid_runners
from revit.common.engine.log import RunLog, console
from revit.common.engine.loop import Trainer
from revit.common.engine.optim import build_optimizer, build_scheduler
from revit.common.engine.options import TrainOptions
from revit.common.engine.package import Package
from revit.common.engine.run_options import RecipeOptions
from revit.common.engine.stages import StageBook, clear
from revit.common.engine.state import remove_states, seed_all
from revit.common.engine.task import AssignerTask, BatchAugment, Task
from revit.common.engine.trained import build_assigner, check_same_classes, fill_classifier
from revit.common.errors import UserError
from revit.common.files import write_json, write_text
from revit.common.report.adaptive import Costs, adaptive_report, versions
from revit.common.report.flops import count
from revit.common.tokens.adaptive import AdaptiveClassifier
from revit.common.tokens.labels import LengthLabels, class_balanced_weights
from revit.common.vit import ResizableTransformer
from revit.common.weights.start import without_trace


class Recipe:
    """Runs the stages of one configuration under its `run.dir`."""

    def __init__(self, options: RecipeOptions, package: Package) -> None:
        self.options = options
        self.package = package
        self.folder = Path(options.run.dir)
        self.device = pick_device(options.run.device)
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
        task = self.package.task(self.options)
        augment = self.package.batch_augment(self.options, len(names))
        loader = self.package.train_loader(self.options, "train", self.options.train.batch_size)
        self._train("model", model, task, self.options.train, loader, augment, self._watch(model))
        self._save(self.model_file, names, model=model)
        remove_states(self.folder / "states" / "model")

    def label_lengths(self) -> None:
        """Retrieve every sample's token-length label from the trained model, in evaluation mode, one view."""
        options = self.options.lengths
        model = self._load_model(self.model_file)
        evaluation = self._evaluate(
            grid_runners(AdaptiveClassifier(model)), options.split, "lengths", one_view=True
        )
        correct = [evaluation.correct(evaluation.answers[grid.name].logits, "logits") for grid in model.grids]
        paths = self.package.paths(self.options, options.split)
        labels = LengthLabels(
            grids=model.grids,
            ids=evaluation.ids,
            paths=[paths[id] for id in evaluation.ids.tolist()],
            targets=evaluation.targets,
            correct=torch.stack(correct, dim=1),
            none_correct=options.none_correct,
        )
        labels.save(self.labels_file)
        shares = ", ".join(f"{name} {share:.1%}" for name, share in labels.shares().items())
        self.log.write(
            "lengths", split=options.split, shares=labels.shares(), failed=len(evaluation.failures)
        )
        self.log.say(
            f"lengths: {len(labels.ids)} labels on {options.split}: {shares}; failed {len(evaluation.failures)}"
        )

    def train_assigner(self) -> None:
        """Train the Token-Length Assigner on the labels and write checkpoint.safetensors with both networks."""
        seed_all(self.options.run.seed)
        labels = LengthLabels.load(self.labels_file, self.options.lengths.none_correct)
        options, split = self.options.assigner, self.options.lengths.split
        assigner = build_assigner(options, len(labels.grids))
        by_id = torch.full((len(self.package.paths(self.options, split)),), -1)
        by_id[labels.ids] = labels.labels
        weights = class_balanced_weights(labels.labels, len(labels.grids)) if options.balanced else None
        loader = self.package.assigner_loader(self.options, split, options.train.batch_size)
        task = AssignerTask(by_id, weights, options.mirror)
        self._train("assigner", assigner, task, options.train, loader)
        checkpoint = load_checkpoint(self.model_file)
        model = self._load_model(self.model_file)
        self._save(
            self.checkpoint_file,
            checkpoint.label_names,
            extra={"length_shares": labels.shares()},
            model=model,
            assigner=assigner,
        )
        remove_states(self.folder / "states" / "assigner")

    def evaluate(self) -> None:
        """Fixed grids, the assigner and the baselines on the test split: report.json."""
        start = time.perf_counter()
        classifier = self.load_classifier()
        report = self.report(classifier)
        report["seconds"] = self.book.seconds | {"evaluate": round(time.perf_counter() - start, 3)}
        write_json(self.folder / "report.json", report)
        if not self.options.has_lengths:
            checkpoint = load_checkpoint(self.model_file)
            self._save(self.checkpoint_file, checkpoint.label_names, model=classifier.model)

    # -- parts -------------------------------------------------------------------------------------------------------

    def load_classifier(self, path: str | Path | None = None) -> AdaptiveClassifier:
        """Model, and assigner where there is one, in eval mode: from our checkpoint file (default: this run's) or
        from a published one.

        Raises UserError if the file does not fit the configuration, or its head other classes than the data's.
        """
        path = path or (self.checkpoint_file if self.options.has_lengths else self.model_file)
        if not is_checkpoint(path):
            return self._foreign_classifier(str(path))
        checkpoint = load_checkpoint(path)
        check_same_classes(str(path), checkpoint.label_names, self.package.label_names(self.options))
        return self._fill(checkpoint, path).to(self.device)

    def _foreign_classifier(self, source: str) -> AdaptiveClassifier:
        model = self.package.build_model(self.options, len(self.package.label_names(self.options)))
        report = self.package.start(model, self.options, source)
        console.print(str(report), markup=False)
        if report.remade:
            raise UserError(f"{source} has no head for the classes of this data: {'; '.join(report.remade)}")
        return AdaptiveClassifier(model.to(self.device).eval(), max_batch=self.options.test.batch_size)

    def report(self, classifier: AdaptiveClassifier) -> dict[str, Any]:
        """Evaluate on the test split and gather the figures of report.json, all but the stages' seconds."""
        runners: dict[str, Runner] = grid_runners(classifier)
        if classifier.assigner is not None:
            runners["adaptive"] = classifier
        test = self.options.test
        evaluation = self._evaluate(runners, test.split, "evaluate")
        report = adaptive_report(evaluation, self.costs(classifier), test.merge, test.num_random_draws)
        views = next(iter(evaluation.answers.values())).logits.shape[1]
        report["protocol"] = {
            "split": test.split,
            "num_views": views,
            "merge": test.merge,
            "device": str(self.device),
            "dtype": self.options.run.dtype,
            "seed": self.options.run.seed,
        }
        return report | {"versions": versions()}

    def costs(self, classifier: AdaptiveClassifier) -> Costs:
        """GMACs of one view at every grid, and of the assigner."""
        shape = self.package.input_shape(self.options)
        counts = {grid.name: count(classifier.model, shape, grid) for grid in classifier.model.grids}
        assigner = count(classifier.assigner, shape) if classifier.assigner is not None else None
        return Costs(
            grids={name: one.gmacs for name, one in counts.items()},
            assigner=assigner.gmacs if assigner else 0.0,
            num_params=sum(weight.numel() for weight in classifier.model.parameters()),
            num_assigner_params=assigner.params if assigner else 0,
        )

    def _watch(self, model: ResizableTransformer) -> Callable[[int], None] | None:
        """Evaluation on the val list between epochs, one line each."""
        every = self.options.run.evaluate_every
        if every is None or not self.package.has_split(self.options, "val"):
            return None
        runners = grid_runners(AdaptiveClassifier(model))

        def evaluate_epoch(epoch: int) -> None:
            if epoch % every:
                return
            model.eval()
            evaluation = self._evaluate(runners, "val", "val")
            top1 = {
                name: 100 * float(evaluation.correct(answers.logits, self.options.test.merge).double().mean())
                for name, answers in evaluation.answers.items()
            }
            self.log.write("val", epoch=epoch, top1=top1, failed=len(evaluation.failures))
            shown = "  ".join(f"{name} {value:.2f} %" for name, value in top1.items())
            self.log.say(
                f"val: epoch {epoch}  top-1 {shown}  ({evaluation.num_evaluated} evaluated, {len(evaluation.failures)} failed)"
            )

        return evaluate_epoch

    def _train(
        self,
        name: str,
        module: nn.Module,
        task: Task,
        options: TrainOptions,
        loader: Loader,
        augment: BatchAugment | None = None,
        after_epoch: Callable[[int], None] | None = None,
    ) -> None:
        module.to(self.device)
        run = self.options.run
        backend = LocalBackend(self.device, run.dtype, options.accumulate, options.clip_grad_norm)
        trainer = Trainer(
            model=module,
            task=task,
            backend=backend,
            pixels=self.package.pixels(self.options).to(self.device),
            loader=loader,
            num_epochs=options.schedule.epochs,
            folder=self.folder / "states" / name,
            log=self.log,
            name=name,
            log_every=run.log_every,
            save_every=run.save_every,
            augment=augment,
            after_epoch=after_epoch,
        )
        optimizer = build_optimizer(module, options.optim)
        updates = trainer.batches_per_epoch // options.accumulate
        backend.prepare(module, optimizer, build_scheduler(optimizer, options.schedule, updates))
        trainer.train()
        module.eval()

    def _evaluate(
        self, runners: dict[str, Runner], split: Split, name: str, one_view: bool = False
    ) -> Evaluation:
        loader = self.package.eval_loader(self.options, split, self.options.test.batch_size, one_view)
        pixels = self.package.pixels(self.options).to(self.device)
        try:
            return evaluate(
                runners,
                loader,
                pixels,
                self.device,
                self.options.run.dtype,
                loader.num_samples,
                description=name,
            )
        except ValueError as error:
            raise UserError(f"split {split}: {error}") from error

    def _load_model(self, path: Path) -> ResizableTransformer:
        return self._fill(load_checkpoint(path), path).model.to(self.device)

    def _fill(self, checkpoint: Checkpoint, path: str | Path) -> AdaptiveClassifier:
        model = self.package.build_model(self.options, len(checkpoint.label_names))
        return fill_classifier(checkpoint, str(path), model, self.options)

    def _save(
        self, path: Path, label_names: Sequence[str], extra: dict[str, Any] | None = None, **parts: nn.Module
    ) -> None:
        save_checkpoint(
            path,
            Checkpoint(
                kind=self.options.kind,
                config=self.options.model_dump(mode="json"),
                label_names=list(label_names),
                parts={name: part.state_dict() for name, part in parts.items()},
                extra={"architecture": without_trace(parts["model"]), **(extra or {})},
            ),
        )
