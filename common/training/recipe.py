"""The whole recipe of a configuration, stage after stage: model, token-length labels, assigner, calibration, evaluation."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from revit.common.config.load import dump
from revit.common.config.sections import TrainOptions
from revit.common.data.check.summary import quote
from revit.common.data.formats.base import Split
from revit.common.data.loader import dead_workers_explained
from revit.common.methods.base import optim_of
from revit.common.methods.run_options import RecipeOptions
from revit.common.modality.load import build_assigner
from revit.common.modality.modality import Modality
from revit.common.system.distributed import ALONE, DistributedContext, overlooked
from revit.common.system.errors import UserError
from revit.common.system.files import locked, write_text
from revit.common.system.log import RunLog, hush
from revit.common.training import lengths, stages
from revit.common.training.best import check_validated
from revit.common.training.parallel.backends import check_training
from revit.common.training.run_folder import LOCK, Settings, StageBook, check_same, check_shared, clear
from revit.common.training.spoken import say_closing, say_opening
from revit.common.training.stages import Run


@dataclass(frozen=True)
class Stage:
    """One stage of a recipe."""

    name: str
    settings: Settings
    """Settings that its result depends on, those of the stages before it included."""
    work: Callable[[Run], None]
    split: Split | None = None
    """List that it reads."""
    files: Sequence[str] = ()
    """Files in the run's folder without which it is not done."""
    extends: bool = False
    """Can go on when it is done, for more epochs."""


def stages_of(options: RecipeOptions, modality: Modality[Any]) -> list[Stage]:
    """List the stages of a run, in order.

    Labels and assigner need more than one grid, calibration a list of its own. Settings are what a result depends on: of
    the data not how they are loaded, nothing of how processes share the work, and of a training not its batch size where
    the effective one is given.
    """
    every = options.model_dump(mode="json", exclude={"data": {"loading": True, "demo": {"num_workers"}}})
    budget = {"budget": every["model"].pop("budget"), "hold_budget": every["test"].pop("hold_budget")}
    for training in (every["train"], every["assigner"]["train"]):
        if training["effective_batch"] is not None:
            del training["batch_size"]
    data = {"data": every["data"]}
    model = {key: every[key] for key in ("model", "methods", "start", "train", "distill", "label_smoothing")}
    decides = ("keep", "evaluate_every") if "keep" in every["run"] or "early_stop" in every["train"] else ()
    model |= data | {"run": {key: every["run"].get(key) for key in ("seed", "dtype", *decides)}}
    model |= {key: every[key] for key in ("balance",) if key in every}
    labels = model | {"lengths": every["lengths"]}
    assigner = labels | {"assigner": every["assigner"]}
    calibrate = assigner | {"calibration": every["calibration"], "merge": every["test"]["merge"]}
    evaluate = assigner | {"test": every["test"]} | (budget if budget["budget"] is not None else {})

    calibration, labelled = options.calibration, options.lengths.split
    found = [Stage("data", data, stages.make_data)] if options.makes_data else []
    found.append(Stage("model", model, stages.train_model, "train", ["model.safetensors"], extends=True))
    if options.data.source.several_labels and modality.has_split(options, "val"):
        found.append(Stage("thresholds", model, stages.choose_thresholds, "val", ["model.safetensors"]))
    checkpoint = ["checkpoint.safetensors"]
    if options.has_lengths:
        found.append(Stage(lengths.STAGE, labels, lengths.label_lengths, labelled, ["lengths.csv"]))
        found.append(Stage("assigner", assigner, stages.train_assigner, labelled, checkpoint))
        # Where something depends on it, its list is asked for, and missed before anything is trained.
        if calibration is not None and (options.wants_calibration or modality.has_split(options, calibration.split)):
            found.append(Stage("calibrate", calibrate, stages.calibrate, calibration.split, checkpoint))
    return [*found, Stage("evaluate", evaluate, stages.evaluate, options.test.split, ["report.json", *checkpoint])]


class Recipe:
    """Runs the stages of one configuration under its `run.dir`.

    Every process of `context` has one and does the same; rank 0 alone speaks and writes, and the others read what it wrote.
    """

    def __init__(self, options: RecipeOptions, modality: Modality[Any], context: DistributedContext = ALONE) -> None:
        self.options, self.modality, self.context = options, modality, context
        self.folder = Path(options.run.dir)
        self.stages = stages_of(options, modality)

    def run(self, only: str | None = None) -> None:
        """Do all stages, or the one called `only` (the stages it builds on must be done). UserError otherwise.

        A stage that is done is not done again. Raises Stopped if the process is asked to end (SIGTERM, Ctrl-C) and the run
        can go on later.
        """
        if not self.context.is_main:
            hush()
        check_same({**self.options.model_dump(mode="json"), "--stage": only}, self.context)
        run = Run(self.options, self.modality, self.context)
        wanted = [stage for stage in self.stages if only in (None, stage.name)]
        self._check_inputs(run, wanted)
        with run.stop.listening(), ExitStack() as held:
            lock = locked(self.folder / LOCK, "another run works in this folder")
            self.context.on_main(lambda: held.enter_context(lock))
            check_shared(self.folder, self.context)
            book = self._begin(run, wanted, only)
            spoken = False
            for stage in wanted:
                if only is not None:
                    for before in self.stages[: self.stages.index(stage)]:
                        if not book.is_done(before.name):
                            raise UserError(
                                f"stage {stage.name!r} builds on {before.name!r}, which is not done in {self.folder}"
                            )
                    book.forget([stage.name])
                with dead_workers_explained():
                    self.context.barrier()  # a process that is late finds the files of the stage before
                    with book.doing(stage.name, self._settings(stage), self._files(stage), stage.extends) as due:
                        if due:
                            if stage.split is not None and not spoken:
                                say_opening(run)
                                spoken = True
                            run.seconds = book.seconds
                            stage.work(run)
                if due:
                    book.forget([after.name for after in self.stages[self.stages.index(stage) + 1 :]])
            if wanted[-1].name == "evaluate":
                say_closing(run)

    def _begin(self, run: Run, wanted: Sequence[Stage], only: str | None) -> StageBook:
        """Open the folder's log and its book of stages, once everything that will be trained can be."""
        if not wanted:
            missing = "; it needs several token grids, and the list that calibration.split names"
            raise UserError(
                f"this configuration has no stage {only!r}; its stages are "
                f"{', '.join(stage.name for stage in self.stages)}{missing if only == 'calibrate' else ''}"
            )
        starts_over = self.options.run.resume == "never" and only is None
        # What cannot be trained must not cost an older run either.
        remarks = self._check_trainings(run, self.stages) if starts_over else []
        if starts_over:
            self.context.on_main(lambda: clear(self.folder))
        board = self.folder / "tensorboard" if self.options.run.tensorboard else None
        run.log = RunLog(self.folder / "log.jsonl", self.context.is_main, board)
        book = StageBook(self.folder, run.log, self.context)
        if only is None:
            model = next(stage for stage in self.stages if stage.name == "model")
            if not starts_over:
                book.extend(model.name, self._settings(model))
            book.check(model.name, self._settings(model), self._files(model))
        if not starts_over:
            remarks = self._check_trainings(run, wanted if only is not None else self._due(book))
        self.context.on_main(lambda: write_text(self.folder / "config.yaml", dump(self.options)))
        checks = self.context.on_main(
            lambda: [quote(found) for found in self.modality.data_checks(self.options).values()]
        )
        for line in [*remarks, *(f"data check: {line}" for line in checks)]:
            run.log.say(line)
        return book

    def _due(self, book: StageBook) -> list[Stage]:
        """Return the stages that will be done: after one that is, all that build on it."""
        done = [book.stays(stage.name, self._settings(stage), self._files(stage)) for stage in self.stages]
        return self.stages[done.index(False) :] if False in done else []

    def _check_inputs(self, run: Run, wanted: Sequence[Stage]) -> None:
        """Build the model and read every list, which would otherwise fail after days of training."""
        options, modality = self.options, self.modality
        check_validated(options, modality)
        _ = run.model  # built now
        if options.makes_data:
            return
        splits = {stage.split for stage in wanted if stage.split is not None}
        trains = any(stage.name == "model" for stage in wanted)
        if trains and options.run.evaluate_every is not None and modality.has_split(options, "val"):
            splits.add("val")
        for split in sorted(splits):
            modality.split(options, split)
        if options.lengths.folds and any(stage.name == lengths.STAGE for stage in wanted):
            lengths.folds(run)

    def _check_trainings(self, run: Run, wanted: Sequence[Stage]) -> list[str]:
        """Check that the processes can train all that these stages train. UserError that names every contradiction; what is
        no contradiction but may surprise is returned."""
        options, names = self.options, [stage.name for stage in wanted]
        trainings: dict[str, tuple[TrainOptions, nn.Module, Split]] = {}
        if "model" in names or (options.lengths.folds and lengths.STAGE in names):
            train = options.train.model_copy(update={"optim": optim_of(options)})
            trainings["train"] = train, run.model, "train"
        if "assigner" in names:
            with torch.random.fork_rng(devices=[]):
                assigner = build_assigner(options.assigner, len(options.grids))
            trainings["assigner.train"] = options.assigner.train, assigner, options.lengths.split
        found: dict[str, None] = {}
        remarks: dict[str, None] = {}
        for section, (train, network, split) in trainings.items():
            try:
                num_samples = None if options.makes_data else len(self.modality.split(options, split))
                lines = check_training(
                    section, options.parallel, train, network, run.device, options.run.dtype, self.context, num_samples
                )
                remarks |= dict.fromkeys(lines)
            except UserError as error:
                found[str(error)] = None
        # Together, so that the first that ends, and its launcher then the others, is not ahead of the one that speaks.
        self.context.barrier()
        if found:
            raise UserError("\n".join(found))
        alone = overlooked(os.environ) if trainings and self.context.size == 1 else None
        return [*remarks, *([alone] if alone is not None else [])]

    def _files(self, stage: Stage) -> list[Path]:
        return [self.folder / name for name in stage.files]

    def _settings(self, stage: Stage) -> Settings:
        """Return what a stage's result depends on: its settings, and what its list says."""
        if stage.split is None or self.options.makes_data:
            return stage.settings
        return {**stage.settings, "list": self.modality.split(self.options, stage.split).fingerprint}
