"""The whole recipe of a configuration, stage after stage: model, token-length labels, assigner, evaluation.

Pictures and clips share it; what differs comes through `Modality[Any]`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from revit.common.config.load import dump
from revit.common.config.sections import TrainOptions
from revit.common.data.build import Split
from revit.common.data.loader import dead_workers_explained
from revit.common.methods.apply import optim_of
from revit.common.methods.run_options import RecipeOptions
from revit.common.modality.load import build_assigner
from revit.common.modality.modality import Modality
from revit.common.system.device import pick_device
from revit.common.system.distributed import ALONE, World
from revit.common.system.errors import UserError
from revit.common.system.files import locked, write_text
from revit.common.system.launchers import overlooked
from revit.common.system.log import RunLog, hush
from revit.common.system.stop import StopRequest
from revit.common.training.parallel.backends import check_training
from revit.common.training.stage_work import RunFiles, StageWork
from revit.common.training.stages import LOCK, StageBook, clear
from revit.common.training.together import check_same, check_shared


class Recipe:
    """Runs the stages of one configuration under its `run.dir`.

    Every process of `world` has one and does the same; rank 0 alone speaks and writes, and the others read what it wrote.
    """

    def __init__(self, options: RecipeOptions, modality: Modality[Any], world: World = ALONE) -> None:
        self.options = options
        self.modality = modality
        self.world = world
        self.stop = StopRequest()
        self.folder = Path(options.run.dir)
        self.device = pick_device(options.run.device)

    def run(self, only: str | None = None) -> None:
        """All stages, or the one called `only` (the stages it builds on must be done). UserError otherwise.

        Raises Stopped if the process is asked to end (SIGTERM, Ctrl-C) and the run can go on later.
        """
        if not self.world.is_main:
            hush()
        check_same({**self.options.model_dump(mode="json"), "--stage": only}, self.world)
        self._check_inputs(only)
        with self.stop.listening(), self._alone_in_folder():
            check_shared(self.folder, self.world)
            self._run(only)

    def _run(self, only: str | None) -> None:
        world, main = self.world, self.world.is_main
        stages = self.stages()
        if only is not None and only not in stages:
            missing = "; it needs several token grids, and the list that calibration.split names"
            raise UserError(
                f"this configuration has no stage {only!r}; its stages are {', '.join(stages)}"
                f"{missing if only == 'calibrate' else ''}"
            )
        starts_over = self.options.run.resume == "never" and only is None
        # What cannot be trained must not cost an older run either.
        remarks = self._check_trainings(stages) if starts_over else []
        if starts_over:
            world.on_main(lambda: clear(self.folder))
        board = self.folder / "tensorboard" if self.options.run.tensorboard else None
        log = RunLog(self.folder / "log.jsonl", main, board)
        book = StageBook(self.folder, log, world)
        if only is None:
            book.check("model", self._settings_of("model"), RunFiles(self.folder).of("model"))
        if not starts_over:
            remarks = self._check_trainings(self._due(stages, only, book))
        world.on_main(lambda: write_text(self.folder / "config.yaml", dump(self.options)))
        for line in remarks:
            log.say(line)
        work = StageWork(self.options, self.modality, world, log, self.stop)
        for position, name in enumerate(stages):
            if only not in (None, name):
                if position < stages.index(str(only)) and not book.is_done(name):
                    raise UserError(f"stage {only!r} builds on {name!r}, which is not done in {self.folder}")
                continue
            if name == only:
                book.forget([name])
            with dead_workers_explained():
                # A process that is late finds the files of the stage before.
                world.barrier()
                done = book.run(
                    name, self._settings_of(name), self._work_of(name, work, book), work.files.of(name)
                )
            if done:
                book.forget(stages[position + 1 :])

    def _due(self, stages: list[str], only: str | None, book: StageBook) -> list[str]:
        """The stages that will be done: after one that is, all that build on it."""
        if only is not None:
            return [only]
        files = RunFiles(self.folder)
        done = [book.stays(name, self._settings_of(name), files.of(name)) for name in stages]
        return stages[done.index(False) :] if False in done else []

    def stages(self) -> list[str]:
        """Names, in order. Labels and assigner need more than one grid, calibration a list of its own."""
        options = self.options
        lengths = ["lengths", "assigner"] if options.has_lengths else []
        if lengths and options.calibration and self.modality.has_split(options, options.calibration.split):
            lengths.append("calibrate")
        return [*(["data"] if options.makes_data else []), "model", *lengths, "evaluate"]

    def _work_of(self, stage: str, work: StageWork, book: StageBook) -> Callable[[], None]:
        works: dict[str, Callable[[], None]] = {
            "data": lambda: self.world.on_main(lambda: self.modality.make_data(self.options)),
            "model": work.train_model,
            "lengths": work.label_lengths,
            "assigner": work.train_assigner,
            "calibrate": work.calibrate,
            "evaluate": lambda: work.evaluate(book.seconds),
        }
        return works[stage]

    @contextmanager
    def _alone_in_folder(self) -> Iterator[None]:
        """Inside, no other run works in the folder: rank 0 holds its lock. UserError if one does."""
        with ExitStack() as held:
            self.world.on_main(
                lambda: held.enter_context(locked(self.folder / LOCK, "another run works in this folder"))
            )
            yield

    def _check_inputs(self, only: str | None) -> None:
        """What would otherwise be found out after days of training: the model, and every list that a stage will read."""
        options, modality = self.options, self.modality
        names = modality.label_names(options)
        with torch.random.fork_rng(devices=[]):
            modality.build_model(options, len(names))
        if options.makes_data:
            return
        stages = [name for name in self.stages() if only in (None, name)]
        splits = {split for name in stages if (split := self._split_of(name)) is not None}
        if (
            "model" in stages
            and options.run.evaluate_every is not None
            and modality.has_split(options, "val")
        ):
            splits.add("val")
        for split in sorted(splits):
            modality.split(options, split)

    def _check_trainings(self, stages: Sequence[str]) -> list[str]:
        """Whether the processes can train all that these stages train. UserError that names every contradiction; what is
        no contradiction but may surprise is returned."""
        options, modality = self.options, self.modality
        trainings: dict[str, tuple[TrainOptions, nn.Module]] = {}
        with torch.random.fork_rng(devices=[]):
            if "model" in stages:
                model = modality.build_model(options, len(modality.label_names(options)))
                trainings["train"] = options.train.model_copy(update={"optim": optim_of(options)}), model
            if "assigner" in stages:
                assigner = build_assigner(options.assigner, len(options.grids))
                trainings["assigner.train"] = options.assigner.train, assigner
        found: dict[str, None] = {}
        remarks: dict[str, None] = {}
        for section, (train, network) in trainings.items():
            try:
                lines = check_training(
                    section, options.parallel, train, network, self.device, options.run.dtype, self.world
                )
                remarks |= dict.fromkeys(lines)
            except UserError as error:
                found[str(error)] = None
        # Together, so that the first that ends, and its launcher then the others, is not ahead of the one that speaks.
        self.world.barrier()
        if found:
            raise UserError("\n".join(found))
        alone = overlooked(os.environ) if trainings and self.world.size == 1 else None
        return [*remarks, *([alone] if alone is not None else [])]

    def _split_of(self, stage: str) -> Split | None:
        """The list that a stage works on."""
        lengths = self.options.lengths.split
        splits: dict[str, Split] = {"model": "train", "lengths": lengths, "assigner": lengths}
        if self.options.calibration is not None:
            splits["calibrate"] = self.options.calibration.split
        return splits.get(stage, self.options.test.split if stage == "evaluate" else None)

    def _settings_of(self, stage: str) -> dict[str, Any]:
        """What a stage's result depends on: settings, and what its lists say."""
        settings = self.options.settings_of(stage)
        split = self._split_of(stage)
        if split is not None and not self.options.makes_data:
            settings["list"] = self.modality.split(self.options, split).fingerprint
        return settings
