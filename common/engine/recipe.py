"""The whole recipe of a configuration, stage after stage: model, token-length labels, assigner, evaluation.

Pictures and clips share it; what differs comes through `Package`.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from revit.common.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from revit.common.config import dump
from revit.common.data.build import Split
from revit.common.data.flat import FlatStrings
from revit.common.data.loader import dead_workers_explained
from revit.common.engine.distributed import ALONE, World
from revit.common.engine.evaluate import Evaluation, grid_runners
from revit.common.engine.evaluator import Evaluator
from revit.common.engine.log import RunLog, hush
from revit.common.engine.package import Package
from revit.common.engine.run_options import RecipeOptions
from revit.common.engine.stages import LOCK, StageBook, clear
from revit.common.engine.state import seed_all
from revit.common.engine.stop import StopRequest
from revit.common.engine.task import AssignerTask
from revit.common.engine.trained import build_assigner
from revit.common.engine.training import states_of, train
from revit.common.errors import OwnError, UserError
from revit.common.files import locked, write_json, write_text
from revit.common.methods.apply import optim_of, start_of, task_of
from revit.common.tokens.adaptive import AdaptiveClassifier
from revit.common.tokens.grid import TokenGrid
from revit.common.tokens.labels import LengthLabels, class_balanced_weights
from revit.common.weights.start import without_trace


class Recipe:
    """Runs the stages of one configuration under its `run.dir`.

    Every process of `world` has one and does the same; rank 0 alone speaks and writes, and the others read what it wrote.
    """

    def __init__(self, options: RecipeOptions, package: Package, world: World = ALONE) -> None:
        self.options = options
        self.package = package
        self.world = world
        self.stop = StopRequest()
        self.folder = Path(options.run.dir)
        self.evaluator = Evaluator(options, package, world)
        self.model_file = self.folder / "model.safetensors"
        self.best_file = self.folder / "best.safetensors"
        self.labels_file = self.folder / "lengths.csv"
        self.checkpoint_file = self.folder / "checkpoint.safetensors"

    def run(self, only: str | None = None) -> None:
        """All stages, or the one called `only` (the stages it builds on must be done). UserError otherwise.

        Raises Stopped if the process is asked to end (SIGTERM, Ctrl-C) and the run can go on later.
        """
        if not self.world.is_main:
            hush()
        self._check_inputs(only)
        with self.stop.listening(), self._alone_in_folder():
            self._run(only)

    def _run(self, only: str | None) -> None:
        world, main = self.world, self.world.is_main
        stages = self.stages()
        if only is not None and only not in stages:
            raise UserError(f"this configuration has no stage {only!r}; its stages are {', '.join(stages)}")
        if self.options.run.resume == "never" and only is None:
            world.on_main(lambda: clear(self.folder))
        board = self.folder / "tensorboard" if self.options.run.tensorboard else None
        self.log = RunLog(self.folder / "log.jsonl", main, board)
        self.book = StageBook(self.folder, self.log, world)
        if only is None:
            self.book.check("model", self._settings_of("model"))
        settings = self.folder / "config.yaml"
        world.on_main(lambda: write_text(settings, dump(self.options)))
        if not settings.exists():
            raise OwnError(
                f"{socket.gethostname()} does not see {settings}, which rank 0 wrote; run.dir has to be a folder that all "
                "machines share"
            )
        names = list(stages)
        for position, (name, work) in enumerate(stages.items()):
            if only not in (None, name):
                if position < names.index(str(only)) and not self.book.is_done(name):
                    raise UserError(f"stage {only!r} builds on {name!r}, which is not done in {self.folder}")
                continue
            if name == only:
                self.book.forget([name])
            with dead_workers_explained():
                # A process that is late finds the files of the stage before.
                world.barrier()
                done = self.book.run(name, self._settings_of(name), work, self._results(name))
            if done:
                self.book.forget(names[position + 1 :])

    def stages(self) -> dict[str, Callable[[], None]]:
        """Stage name -> work, in order. Labels and assigner need more than one grid."""
        stages: dict[str, Callable[[], None]] = {}
        if self.options.makes_data:
            stages["data"] = lambda: self.world.on_main(lambda: self.package.make_data(self.options))
        stages["model"] = self.train_model
        if self.options.has_lengths:
            stages["lengths"] = self.label_lengths
            stages["assigner"] = self.train_assigner
        stages["evaluate"] = self.evaluate
        return stages

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
        options, package = self.options, self.package
        names = package.label_names(options)
        with torch.random.fork_rng(devices=[]):
            package.build_model(options, len(names))
        if options.makes_data:
            return
        stages = [name for name in self.stages() if only in (None, name)]
        splits = {split for name in stages if (split := self._split_of(name)) is not None}
        if "model" in stages and options.run.evaluate_every is not None and package.has_split(options, "val"):
            splits.add("val")
        for split in sorted(splits):
            package.split(options, split)

    def _split_of(self, stage: str) -> Split | None:
        """The list that a stage works on."""
        lengths = self.options.lengths.split
        splits: dict[str, Split] = {"model": "train", "lengths": lengths, "assigner": lengths}
        return splits.get(stage, self.options.test.split if stage == "evaluate" else None)

    def _settings_of(self, stage: str) -> dict[str, Any]:
        """What a stage's result depends on: settings, and what its lists say."""
        settings = self.options.settings_of(stage)
        split = self._split_of(stage)
        if split is not None and not self.options.makes_data:
            settings["list"] = self.package.split(self.options, split).fingerprint
        return settings

    def _results(self, stage: str) -> list[Path]:
        """The files without which a stage is not done."""
        files = {
            "model": [self.model_file],
            "lengths": [self.labels_file],
            "assigner": [self.checkpoint_file],
            "evaluate": [self.folder / "report.json", self.checkpoint_file],
        }
        return files.get(stage, [])

    # -- stages ------------------------------------------------------------------------------------------------------

    def train_model(self) -> None:
        """Train the model at all its grids (Algorithm 1) and write model.safetensors."""
        seed_all(self.options.run.seed)
        names = list(self.package.label_names(self.options))
        model = self.package.build_model(self.options, len(names))
        start = start_of(self.options)
        if start.source is not None:
            started = self.options.model_copy(update={"start": start})
            self.log.say(str(self.package.start(model, started, start.source)))
        extra = {"architecture": without_trace(model)}
        if self.world.is_main and not states_of(self.options.run, "model").exists():
            self.best_file.unlink(missing_ok=True)  # an earlier training's
        batch_size = self.options.train.batch_size
        parts = train(
            "model",
            model,
            task_of(self.options, self.package, model),
            lambda rank, num_ranks: self.package.train_loader(
                self.options, "train", batch_size, rank, num_ranks
            ),
            self.options.train.model_copy(update={"optim": optim_of(self.options)}),
            **self._training(),
            augment=self.package.batch_augment(self.options, len(names)),
            watch=lambda network: self.evaluator.watch(
                network, self.log, self._keeper(network, names, extra)
            ),
        )
        self._save(self.model_file, names, parts, extra)

    def label_lengths(self) -> None:
        """Retrieve every sample's token-length label from the trained model, in evaluation mode, one view."""
        options = self.options.lengths
        classifier = self.evaluator.fill(load_checkpoint(self.model_file), self.model_file)
        grids = classifier.model.grids
        evaluation = self.evaluator.evaluate(
            grid_runners(AdaptiveClassifier(classifier.model)), options.split, "lengths", one_view=True
        )
        if self.world.is_main:
            self._write_labels(evaluation, grids)
        self.world.barrier()

    def _write_labels(self, evaluation: Evaluation, grids: tuple[TokenGrid, ...]) -> None:
        options = self.options.lengths
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
        by_id = labels.by_id(self.package.paths(self.options, split), str(self.labels_file))
        weights = class_balanced_weights(labels.labels, len(labels.grids)) if options.balanced else None
        trained = train(
            "assigner",
            assigner,
            AssignerTask(by_id, weights, options.mirror),
            lambda rank, num_ranks: self.package.assigner_loader(
                self.options, split, options.train.batch_size, rank, num_ranks
            ),
            options.train,
            **self._training(),
        )["model"]
        checkpoint = load_checkpoint(self.model_file)
        parts = {**checkpoint.parts, "assigner": trained}
        extra = {**checkpoint.extra, "length_shares": labels.shares()}
        self._save(self.checkpoint_file, checkpoint.label_names, parts, extra)

    def evaluate(self) -> None:
        """Fixed grids, the assigner and the baselines on the test split: report.json."""
        start = time.perf_counter()
        file = self.checkpoint_file if self.options.has_lengths else self.model_file
        report = self.evaluator.report(self.evaluator.load(file))
        report["seconds"] = self.book.seconds | {"evaluate": round(time.perf_counter() - start, 3)}
        self.world.on_main(lambda: write_json(self.folder / "report.json", report))
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
            "engine": self.options.engine,
            "world": self.world,
            "stop": self.stop,
        }

    def _keeper(
        self, network: nn.Module, label_names: Sequence[str], extra: Mapping[str, Any]
    ) -> Callable[[int, float], None]:
        """What keeps the best model so far in best.safetensors, given the epoch and its top-1. The file itself knows how
        good it is, so that a run that goes on does too."""

        def keep(epoch: int, top1: float) -> None:
            known = load_checkpoint(self.best_file).extra["val"] if self.best_file.exists() else None
            if known is not None and known["top1"] >= top1:
                return
            facts = {**extra, "val": {"epoch": epoch, "top1": top1}}
            checkpoint = self._checkpoint(label_names, {"model": dict(network.state_dict())}, facts)
            save_checkpoint(self.best_file, checkpoint)

        return keep

    def _save(
        self,
        path: Path,
        label_names: Sequence[str],
        parts: Mapping[str, Mapping[str, Tensor]],
        extra: Mapping[str, Any],
    ) -> None:
        checkpoint = self._checkpoint(label_names, parts, extra)
        self.world.on_main(lambda: save_checkpoint(path, checkpoint))

    def _checkpoint(
        self,
        label_names: Sequence[str],
        parts: Mapping[str, Mapping[str, Tensor]],
        extra: Mapping[str, Any],
    ) -> Checkpoint:
        return Checkpoint(
            kind=self.options.kind,
            config=self.options.model_dump(mode="json"),
            label_names=list(label_names),
            parts=parts,
            extra=extra,
        )
