"""What the stages of a recipe do: train the model, label token lengths, train the assigner, evaluate."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from revit.common.data.flat import FlatStrings
from revit.common.evaluation.evaluate import Evaluation, grid_runners
from revit.common.evaluation.evaluator import Evaluator
from revit.common.evaluation.examples import make_examples
from revit.common.evaluation.record import IN_RUN, Seen, save_seen
from revit.common.methods.base import optim_of, start_of, task_of
from revit.common.methods.revit.adaptive import AdaptiveClassifier
from revit.common.methods.revit.labels import LengthLabels, class_balanced_weights
from revit.common.methods.revit.task import AssignerTask
from revit.common.methods.run_options import RecipeOptions
from revit.common.modality.load import build_assigner
from revit.common.modality.modality import Modality
from revit.common.models.grid import TokenGrid
from revit.common.serving.budgets import budget_line
from revit.common.system.distributed import World
from revit.common.system.files import write_json
from revit.common.system.log import RunLog
from revit.common.system.stop import StopRequest
from revit.common.timing.speed import measure_speed
from revit.common.training.state import seed_all
from revit.common.training.training import states_of, train
from revit.common.weights.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from revit.common.weights.start import architecture_facts


class RunFiles:
    """Where a run's results lie."""

    def __init__(self, folder: Path) -> None:
        self.model = folder / "model.safetensors"
        self.best = folder / "best.safetensors"
        self.labels = folder / "lengths.csv"
        self.checkpoint = folder / "checkpoint.safetensors"
        self.report = folder / "report.json"
        self.seen = folder / IN_RUN

    def of(self, stage: str) -> list[Path]:
        """The files without which a stage is not done."""
        files = {
            "model": [self.model],
            "lengths": [self.labels],
            "assigner": [self.checkpoint],
            "calibrate": [self.checkpoint],
            "evaluate": [self.report, self.checkpoint],
        }
        return files.get(stage, [])


class StageWork:
    """The work of each stage; which of them are due is the recipe's business.

    Every process of `world` has one and does the same; rank 0 alone writes.
    """

    def __init__(
        self,
        options: RecipeOptions,
        modality: Modality[Any],
        world: World,
        log: RunLog,
        stop: StopRequest,
    ) -> None:
        self.options = options
        self.modality = modality
        self.world = world
        self.log = log
        self.stop = stop
        self.files = RunFiles(Path(options.run.dir))
        self.evaluator = Evaluator(options, modality, world)

    def train_model(self) -> None:
        """Train the model at all its grids (Algorithm 1) and write model.safetensors."""
        seed_all(self.options.run.seed)
        names = list(self.modality.label_names(self.options))
        model = self.modality.build_model(self.options, len(names))
        start = start_of(self.options)
        if start.source is not None:
            started = self.options.model_copy(update={"start": start})
            self.log.say(str(self.modality.start(model, started, start.source)))
        extra = {"architecture": architecture_facts(model)}
        if self.world.is_main and not states_of(self.options.run, "model").exists():
            self.files.best.unlink(missing_ok=True)  # an earlier training's
        batch_size = self.options.train.batch_size
        parts = train(
            "model",
            model,
            task_of(self.options, self.modality.task(self.options), self.modality, model),
            lambda rank, num_ranks: self.modality.train_loader(
                self.options, "train", batch_size, rank, num_ranks
            ),
            self.options.train.model_copy(update={"optim": optim_of(self.options)}),
            **self._training(),
            augment=self.modality.batch_augment(self.options, len(names)),
            watch=lambda network: self.evaluator.watch(
                network, self.log, self._keeper(network, names, extra)
            ),
        )
        self._save(self.files.model, names, parts, extra)

    def label_lengths(self) -> None:
        """Retrieve every sample's token-length label from the trained model, in evaluation mode, one view."""
        options = self.options.lengths
        classifier = self.evaluator.fill(load_checkpoint(self.files.model), self.files.model)
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
        paths = self.modality.paths(self.options, options.split)
        labels = LengthLabels(
            grids=grids,
            ids=evaluation.ids,
            paths=FlatStrings.of(paths[id] for id in evaluation.ids.tolist()),
            targets=evaluation.targets,
            correct=torch.stack(correct, dim=1),
            none_correct=options.none_correct,
        )
        labels.save(self.files.labels)
        failed = len(evaluation.failures)
        self.log.write("lengths", split=options.split, shares=labels.shares(), failed=failed)
        shares = ", ".join(f"{name} {share:.1%}" for name, share in labels.shares().items())
        self.log.say(f"lengths: {len(labels.ids)} labels on {options.split}: {shares}; failed {failed}")

    def train_assigner(self) -> None:
        """Train the Token-Length Assigner on the labels and write checkpoint.safetensors with both networks."""
        seed_all(self.options.run.seed)
        labels = LengthLabels.load(self.files.labels, self.options.lengths.none_correct)
        options, split = self.options.assigner, self.options.lengths.split
        assigner = build_assigner(options, len(labels.grids))
        by_id = labels.by_id(self.modality.paths(self.options, split), str(self.files.labels))
        weights = class_balanced_weights(labels.labels, len(labels.grids)) if options.balanced else None
        trained = train(
            "assigner",
            assigner,
            AssignerTask(by_id, weights, options.mirror),
            lambda rank, num_ranks: self.modality.assigner_loader(
                self.options, split, options.train.batch_size, rank, num_ranks
            ),
            options.train,
            **self._training(),
        )["model"]
        checkpoint = load_checkpoint(self.files.model)
        parts = {**checkpoint.parts, "assigner": trained}
        extra = {**checkpoint.extra, "length_shares": labels.shares()}
        self._save(self.files.checkpoint, checkpoint.label_names, parts, extra)

    def calibrate(self) -> None:
        """Find out what the assigner's thresholds cost and gain, and keep it in checkpoint.safetensors."""
        options = self.options.calibration
        assert options is not None
        checkpoint = load_checkpoint(self.files.checkpoint)
        classifier = self.evaluator.fill(checkpoint, self.files.checkpoint)
        found = self.evaluator.calibrate(classifier, options.split, options.points)
        if found is not None:
            cheapest, *_, dearest = found.curve.points
            self.log.write("calibrate", **found.curve.summary())
            self.log.say(
                f"calibrate: {found.curve.num_samples} samples of {options.split}: top-1 {cheapest.top1:.2f} % at "
                f"{cheapest.gmacs:.4g} GMACs to {dearest.top1:.2f} % at {dearest.gmacs:.4g}; model.budget: {found.curve.ranges()}"
            )
            if not found.curve.fits:
                self.log.say(
                    "calibrate: somewhere more tokens do worse, by more than the interval; the curve there is a mean"
                )
            facts = found.facts()
        self._save(
            self.files.checkpoint,
            checkpoint.label_names,
            checkpoint.parts,
            {**checkpoint.extra, **(facts if found is not None else {})},
        )

    def evaluate(self, seconds: Mapping[str, float]) -> None:
        """Fixed grids, the assigner and the baselines on the test split: report.json. `seconds`: of the stages before."""
        start = time.perf_counter()
        file = self.files.checkpoint if self.options.has_lengths else self.files.model
        classifier = self.evaluator.load(file)
        if self.options.model.budget is not None:
            self.evaluator.choose(classifier, self.options.model.budget, file)
        evaluations: list[Evaluation] = []  # one, on rank 0
        report = self.evaluator.report(classifier, evaluations.append)
        if "budget" in report:
            self.log.say(budget_line(report["budget"]))
        report["seconds"] = {**seconds, "evaluate": round(time.perf_counter() - start, 3)}
        self.world.on_main(lambda: self._write_report(report, evaluations[0], classifier))
        if not self.options.has_lengths:
            checkpoint = load_checkpoint(self.files.model)
            self._save(self.files.checkpoint, checkpoint.label_names, checkpoint.parts, checkpoint.extra)

    # -- parts -------------------------------------------------------------------------------------------------------

    def _write_report(
        self, report: dict[str, Any], evaluation: Evaluation, classifier: AdaptiveClassifier
    ) -> None:
        """report.json with the speed measured, and what its page needs of every sample."""
        options, evaluator = self.options, self.evaluator
        names = self.modality.label_names(options)
        seen = Seen.of(evaluation, [grid.name for grid in classifier.model.grids], names, options.test.merge)
        if seen.lengths is not None:
            samples = self.modality.eval_loader(options, options.test.split, 1, one_view=True).dataset
            paths = self.modality.paths(options, options.test.split)
            seen = seen.with_examples(make_examples(seen, samples.__getitem__, paths))
        save_seen(self.files.seen, seen)
        if options.run.speed_seconds:
            shares = report.get("adaptive", {}).get("share")
            shape = self.modality.input_shape(options)
            report["speed"] = measure_speed(
                classifier, shape, evaluator.device, evaluator.dtype, shares, options.run.speed_seconds
            )
        write_json(self.files.report, report)

    def _training(self) -> dict[str, Any]:
        """What all trainings of a run share."""
        return {
            "run": self.options.run,
            "device": self.evaluator.device,
            "normalizer": self.modality.normalizer(self.options),
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
            known = load_checkpoint(self.files.best).extra["val"] if self.files.best.exists() else None
            if known is not None and known["top1"] >= top1:
                return
            facts = {**extra, "val": {"epoch": epoch, "top1": top1}}
            checkpoint = self._checkpoint(label_names, {"model": dict(network.state_dict())}, facts)
            save_checkpoint(self.files.best, checkpoint)

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
