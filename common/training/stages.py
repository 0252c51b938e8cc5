"""Work of the stages of a recipe: train the model, train the assigner, calibrate, evaluate; labels are in `lengths`."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from revit.common.evaluation import predictions
from revit.common.evaluation.evaluate import Evaluation, grid_runners
from revit.common.evaluation.evaluator import Evaluator
from revit.common.evaluation.examples import make_examples
from revit.common.evaluation.label_sets import best_thresholds
from revit.common.evaluation.record import IN_RUN, EvaluationRecord, save_record
from revit.common.methods.base import optim_of, start_of, task_of
from revit.common.methods.label_limits import THRESHOLDS, limits_in
from revit.common.methods.revit.adaptive import AdaptiveClassifier
from revit.common.methods.revit.labels import LengthLabels, class_balanced_weights
from revit.common.methods.revit.rule import KEY as RULE_KEY
from revit.common.methods.revit.task import AssignerTask
from revit.common.methods.run_options import RecipeOptions
from revit.common.modality.load import build_assigner
from revit.common.modality.modality import Modality
from revit.common.models.base import GridModel
from revit.common.serving.budgets import budget_line
from revit.common.system.device import counted, pick_device
from revit.common.system.distributed import DistributedContext
from revit.common.system.files import write_json
from revit.common.system.log import RunLog
from revit.common.system.processes import StopRequest
from revit.common.timing.speed import measure_speed
from revit.common.training.best import best_so_far, patience_ended
from revit.common.training.outlook import seconds_beside
from revit.common.training.run_folder import states_folder
from revit.common.training.state import random_states, restore_random_states, seed_all
from revit.common.training.trainer import Trainer, Watch
from revit.common.weights.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from revit.common.weights.start import architecture_facts


class Run:
    """One run of a recipe, as its stages see it. Every process of `context` has one; rank 0 alone writes."""

    log: RunLog
    """Log of the run, once its folder is this run's alone."""

    def __init__(self, options: RecipeOptions, modality: Modality[Any], context: DistributedContext) -> None:
        self.options, self.modality, self.context = options, modality, context
        self.device = pick_device(options.run.device)
        self.stop = StopRequest()
        self.evaluator = Evaluator(options, modality, context)
        self.seconds: Mapping[str, float] = {}
        """Seconds of the stages done so far."""
        folder = Path(options.run.dir)
        self.model_file = folder / "model.safetensors"
        self.best_file = folder / "best.safetensors"
        self.labels_file = folder / "lengths.csv"
        self.checkpoint_file = folder / "checkpoint.safetensors"
        self.report_file = folder / "report.json"
        self.record_file = folder / IN_RUN
        self.predictions_file = folder / predictions.IN_RUN

    @property
    def label_names(self) -> list[str]:
        """Names of the classes."""
        return list(self.modality.label_names(self.options))

    @cached_property
    def model(self) -> GridModel:
        """The model to train, built with the run's seed. The random states stay as they were; `after_building` has those after
        it."""
        before = random_states()
        seed_all(self.options.run.seed)
        model = self.modality.build_model(self.options, len(self.label_names))
        self.after_building = random_states()
        restore_random_states(before)
        return model

    def model_to_train(self) -> GridModel:
        """Return a copy of the untrained model, and set the random states as they are after building it."""
        model = copy.deepcopy(self.model)
        restore_random_states(self.after_building)
        return model

    def trainer_settings(self) -> dict[str, Any]:
        """Return the arguments of `Trainer` that all trainings of the run share."""
        return {
            "run": self.options.run,
            "device": self.device,
            "normalizer": self.modality.normalizer(self.options),
            "log": self.log,
            "parallel": self.options.parallel,
            "context": self.context,
            "stop": self.stop,
        }

    def checkpoint(
        self, label_names: Sequence[str], parts: Mapping[str, Mapping[str, Tensor]], extra: Mapping[str, Any]
    ) -> Checkpoint:
        """Make a checkpoint with the run's configuration."""
        config = self.options.model_dump(mode="json")
        return Checkpoint(self.options.kind, config, list(label_names), parts, extra)

    def save(self, path: Path, *content: Any) -> None:
        """Save a `checkpoint` of this content on rank 0."""
        checkpoint = self.checkpoint(*content)
        self.context.on_main(lambda: save_checkpoint(path, checkpoint))


def make_data(run: Run) -> None:
    """Make the data set of `data.demo`."""
    run.context.on_main(lambda: run.modality.make_data(run.options))


def train_model(run: Run) -> None:
    """Train the model at all its grids (Algorithm 1); write model.safetensors."""
    run.save(run.model_file, run.label_names, *fitted(run, "model", run.best_file))


def fitted(
    run: Run, name: str, best_file: Path, part: Modality[Any] | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Train the model by the run's recipe and return its weights and facts: the best on val where `run.keep` says so.

    name: its states are kept under it. best_file: keeps the best so far. part: knows the samples to train on, if not all.
    """
    options, modality = run.options, run.modality if part is None else part
    model = run.model_to_train()
    start = start_of(options)
    if start.source is not None:
        started = options.model_copy(update={"start": start})
        run.log.say(str(modality.start(model, started, start.source)))
    facts = {"architecture": architecture_facts(model)}
    if said := modality.balance_line(options):
        run.log.say(f"{name}: {said}")
    if run.context.is_main and not states_folder(options.run.dir, name).exists():
        best_file.unlink(missing_ok=True)  # an earlier training's
    keeps_best = options.run.keep == "best"
    # What is trained on a part is looked at between epochs where something depends on it.
    watches = part is None or keeps_best or options.train.early_stop is not None

    def watch(network: GridModel) -> Watch | None:
        return run.evaluator.watch(network, run.log, keeper(run, best_file, network, facts)) if watches else None

    trainer = Trainer(
        name,
        model,
        task_of(options, modality.task(options), modality, model),
        lambda rank, num_ranks: modality.train_loader(options, "train", options.train.batch_size, rank, num_ranks),
        options.train.model_copy(update={"optim": optim_of(options)}),
        **run.trainer_settings(),
        augment=modality.batch_augment(options, len(run.label_names)),
        watch=watch,
        enough=lambda epoch: enough_epochs(run, name, best_file, epoch),
        rest=None if part is not None else lambda data, step: seconds_beside(options, modality, data, step),
    )
    parts = trainer.train()
    return kept_best(run, name, best_file, parts, facts) if keeps_best and run.context.is_main else (parts, facts)


def keeper(run: Run, best_file: Path, network: nn.Module, facts: Mapping[str, Any]) -> Callable[[int, float], None]:
    """Return what keeps the best model so far, with these facts, in its file, given the epoch and its top-1."""

    def keep(epoch: int, top1: float) -> None:
        known = best_so_far(best_file)
        if known is None or known["top1"] < top1:
            weights = {"model": dict(network.state_dict())}
            best = run.checkpoint(run.label_names, weights, {**facts, "val": {"epoch": epoch, "top1": top1}})
            save_checkpoint(best_file, best)

    return keep


def enough_epochs(run: Run, name: str, best_file: Path, epoch: int) -> bool:
    """Say whether the training ends after these epochs, as `train.early_stop` has it. Asked by all processes."""
    patience = run.options.train.early_stop
    if patience is None or epoch >= run.options.train.schedule.total_epochs:
        return False
    best = run.context.on_main(lambda: patience_ended(best_file, epoch, patience))
    if best is not None:
        run.log.say(
            f"{name}: ends after epoch {epoch} of {run.options.train.schedule.total_epochs}: nothing better on val "
            f"for {counted(epoch - best['epoch'], 'epoch')}; the best is {best['top1']:.2f} % after epoch {best['epoch']}. A greater "
            "train.early_stop goes on"
        )
    return best is not None


def kept_best(
    run: Run, name: str, best_file: Path, parts: dict[str, Any], facts: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the best model on val, and its facts, instead of the last one; that if no evaluation succeeded."""
    if not best_file.exists():
        run.log.say(f"{name}: no evaluation on val succeeded, so the last model is kept")
        return parts, facts
    best = load_checkpoint(best_file)
    run.log.say(f"{name}: keeps the one after epoch {best.extra['val']['epoch']}, the best on val")
    return dict(best.parts), dict(best.extra)


def choose_thresholds(run: Run, model_file: Path | None = None) -> None:
    """Choose on the val list, at every grid, the probability from which on each class is said; keep it in model.safetensors, or
    in another model's file."""
    model_file = run.model_file if model_file is None else model_file
    checkpoint = load_checkpoint(model_file)
    classifier = AdaptiveClassifier(run.evaluator.fill(checkpoint, model_file).model)
    evaluation = run.evaluator.evaluate(grid_runners(classifier), "val", "thresholds")
    extra = dict(checkpoint.extra)
    if run.context.is_main:
        # By the views' mean log odds, as classes are said however views are merged.
        values = {
            name: best_thresholds(evaluation.probabilities(name, "logits"), evaluation.targets)
            for name in evaluation.answers
        }
        extra[THRESHOLDS] = {"split": "val", "values": values}
        chosen = replace(evaluation, limits=limits_in(extra, classifier.grids, classifier.model.num_classes))
        shares = {
            name: [float(one.correct(one.decided(name), "logits").mean()) for one in (evaluation, chosen)]
            for name in values
        }
        run.log.write("thresholds", values=values, overlap=shares)
        said = ", ".join(f"{name} {before:.1%} -> {after:.1%}" for name, (before, after) in shares.items())
        run.log.say(
            f"thresholds: from 0.5 for every class to those best on val; what is said overlaps the labels: {said}"
        )
    run.save(model_file, checkpoint.label_names, checkpoint.parts, extra)


def train_assigner(run: Run) -> None:
    """Train the Token-Length Assigner on the labels; write checkpoint.safetensors with both networks."""
    seed_all(run.options.run.seed)
    options, split = run.options.assigner, run.options.lengths.split
    labels = LengthLabels.load(run.labels_file, run.options.lengths.none_correct)
    assigner = build_assigner(options, len(labels.grids))
    by_id = labels.by_id(run.modality.paths(run.options, split), str(run.labels_file))
    balance = class_balanced_weights(labels.labels, len(labels.grids)) if options.balanced else None
    trainer = Trainer(
        "assigner",
        assigner,
        AssignerTask(by_id, balance, options.mirror),
        lambda rank, num_ranks: run.modality.assigner_loader(
            run.options, split, options.train.batch_size, rank, num_ranks
        ),
        options.train,
        **run.trainer_settings(),
    )
    weights = trainer.train()["model"]
    model = load_checkpoint(run.model_file)
    extra = {**model.extra, "length_shares": labels.shares()}
    run.save(run.checkpoint_file, model.label_names, {**model.parts, "assigner": weights}, extra)


def calibrate(run: Run) -> None:
    """Measure what the assigner's thresholds cost and gain, and keep it in checkpoint.safetensors."""
    options = run.options.calibration
    assert options is not None
    checkpoint = load_checkpoint(run.checkpoint_file)
    classifier = run.evaluator.fill(checkpoint, run.checkpoint_file)
    found = run.evaluator.calibrate(classifier, options)
    extra = {key: value for key, value in checkpoint.extra.items() if key != RULE_KEY}
    if found is not None:  # on rank 0
        curve, (cheapest, *_, dearest) = found.curve, found.curve.points
        run.log.write("calibrate", **curve.summary())
        what = "overlap" if run.options.data.source.several_labels else "top-1"
        run.log.say(
            f"calibrate: {curve.num_samples} samples of {options.split}: {what} {cheapest.top1:.2f} % at "
            f"{cheapest.gmacs:.4g} GMACs to {dearest.top1:.2f} % at {dearest.gmacs:.4g}; model.budget: {curve.ranges()}"
        )
        if not curve.fits:
            run.log.say(
                "calibrate: somewhere more tokens do worse, by more than the interval; the curve there is a mean"
            )
        if found.rule is not None:
            run.log.say(f"calibrate: {found.rule}")
        extra |= found.facts()
    run.save(run.checkpoint_file, checkpoint.label_names, checkpoint.parts, extra)


def evaluate(run: Run) -> None:
    """Evaluate fixed grids, the assigner and the baselines on the test split; write report.json."""
    start = time.perf_counter()
    options, evaluator = run.options, run.evaluator
    file = run.checkpoint_file if options.has_lengths else run.model_file
    classifier = evaluator.load(file)
    if options.model.budget is not None:
        evaluator.choose(classifier, options.model.budget, file)
    report, evaluation = evaluator.report(classifier)
    if options.data.source.several_labels and evaluator.limits(classifier) is None:
        run.log.say("evaluate: every class is said from 0.5 on; with data.source.val its threshold is chosen there")
    if "budget" in report:
        run.log.say(budget_line(report["budget"]))
    report["seconds"] = {**run.seconds, "evaluate": round(time.perf_counter() - start, 3)}
    run.context.on_main(lambda: _write_report(run, report, evaluation, classifier))
    if not options.has_lengths:
        checkpoint = load_checkpoint(run.model_file)
        run.save(run.checkpoint_file, checkpoint.label_names, checkpoint.parts, checkpoint.extra)


def _write_report(run: Run, report: dict[str, Any], evaluation: Evaluation, classifier: AdaptiveClassifier) -> None:
    """Write report.json, with the speed measured, and the record of every sample that its page needs."""
    options, modality = run.options, run.modality
    grids = [grid.name for grid in classifier.model.grids]
    record = EvaluationRecord.of(evaluation, grids, modality.label_names(options), options.test.merge)
    samples = modality.eval_loader(options, options.test.split, 1, one_view=True).dataset
    paths = modality.paths(options, options.test.split)
    save_record(run.record_file, replace(record, examples=make_examples(record, samples.__getitem__, paths)))
    samples_tested = modality.split(options, options.test.split)
    predictions.write_predictions(
        run.predictions_file, evaluation, grids, samples_tested, modality.label_names(options), options.test.merge
    )
    if checks := modality.data_checks(options):
        report["data"] = checks
    if options.run.speed_seconds:
        shares = report.get("adaptive", {}).get("share")
        shape, seconds = modality.input_shape(options), options.run.speed_seconds
        report["speed"] = measure_speed(classifier, shape, run.device, run.evaluator.dtype, shares, seconds)
    write_json(run.report_file, report)
