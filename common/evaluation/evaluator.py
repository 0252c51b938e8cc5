"""Evaluation of a run's networks: on a split, in figures, between epochs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from revit.common.costs.flops import Costs, count_costs
from revit.common.data.formats.base import Split
from revit.common.evaluation.adaptive import adaptive_report, versions
from revit.common.evaluation.evaluate import Evaluation, Runner, Streamed, evaluate, grid_runners
from revit.common.evaluation.figures import accuracy, answer_figures
from revit.common.evaluation.length_rule import find_rule
from revit.common.evaluation.operating_points import Calibration, calibrated, calibration_of, calibration_runners
from revit.common.methods.base import check_installed
from revit.common.methods.label_limits import limits_in
from revit.common.methods.revit.adaptive import AdaptiveClassifier
from revit.common.methods.revit.budget import Choice
from revit.common.methods.revit.rule import KEY as RULE_KEY
from revit.common.methods.run_options import CalibrationOptions, RecipeOptions
from revit.common.modality.load import check_same_classes, fill_classifier
from revit.common.modality.modality import Modality
from revit.common.models.base import GridModel
from revit.common.serving.budgets import check_costs, choose, curve_of, reported_budget
from revit.common.serving.options import Compile
from revit.common.serving.plan import Plan, choose_plan
from revit.common.serving.runtime import Runtime
from revit.common.system.device import pick_device
from revit.common.system.distributed import ALONE, DistributedContext
from revit.common.system.errors import UserError
from revit.common.system.log import RunLog, console
from revit.common.weights.checkpoint import Checkpoint, is_checkpoint, load_checkpoint


class Evaluator:
    """Loads networks for one configuration and evaluates them on its data.

    With several processes each evaluates a share of the samples, and rank 0 knows the result.
    """

    def __init__(self, options: RecipeOptions, modality: Modality[Any], context: DistributedContext = ALONE) -> None:
        self.options = options
        self.modality = modality
        self.context = context
        self.device = pick_device(options.run.device)
        self.dtype = "float32" if options.run.dtype == "auto" else options.run.dtype
        self._choice: Choice | None = None
        self._served: AdaptiveClassifier | None = None
        self._plan: Plan | None = None
        self._counted: tuple[AdaptiveClassifier, Costs] | None = None

    def load(self, path: str | Path) -> AdaptiveClassifier:
        """Load the model, and the assigner where there is one, in eval mode: from our checkpoint file or from a published one.

        Raises UserError if the file does not fit the configuration, or its head other classes than the data's.
        """
        if is_checkpoint(path):
            checkpoint = load_checkpoint(path)
            check_installed(str(path), checkpoint.config)
            check_same_classes(str(path), checkpoint.label_names, self.modality.label_names(self.options))
            source = checkpoint.config.get("data", {}).get("source", {})
            trained, wanted = bool(source.get("several_labels")), self.options.data.source.several_labels
            if trained != wanted:
                raise UserError(
                    f"{path} was trained with data.source.several_labels={str(trained).lower()}, and its answers mean something "
                    f"else with {str(wanted).lower()}; set it as it was"
                )
            return self.fill(checkpoint, path)
        model = self.modality.build_model(self.options, len(self.modality.label_names(self.options)))
        report = self.modality.start(model, self.options, str(path))
        console.print(str(report), markup=False)
        if report.remade:
            raise UserError(
                f"{path} does not fill the whole model, and the rest would answer at random: {'; '.join(report.remade)}; "
                "set the model, and the data's classes, to those of the weights"
            )
        return AdaptiveClassifier(model.to(self.device).eval(), max_batch=self.options.test.batch_size)

    def fill(self, checkpoint: Checkpoint, path: str | Path) -> AdaptiveClassifier:
        """Make the networks of a checkpoint that was read, in eval mode. UserError as `load`."""
        model = self.modality.build_model(self.options, len(checkpoint.label_names))
        return fill_classifier(checkpoint, str(path), model, self.options).to(self.device)

    def serve(self, classifier: AdaptiveClassifier, dtype: str | None = None, compile: Compile = "auto") -> None:
        """Have `report` measure `classifier`, which `load` gave, as the inference engine serves it; before `choose`.

        dtype: of `revit.common.serving.options.PRECISIONS`, or auto; None is the run's own precision. UserError for one
        that the device does not have.
        """
        test, model = self.options.test, classifier.model
        num_inputs = len(self.modality.paths(self.options, test.split)) * self.modality.num_views(self.options)
        shape = self.modality.input_shape(self.options)
        # What is measured differs from process to process; all have to serve alike.
        plan = self.context.on_main(
            lambda: choose_plan(model, shape, self.device, dtype or self.dtype, compile, test.batch_size, num_inputs)
        )
        runtime = Runtime(model, self.device, plan.dtype, plan.compiled, plan.max_batch)
        self._served, self._plan = classifier.served_by(runtime).to(self.device), plan

    @property
    def precision(self) -> str:
        """Words for what `report` measures in."""
        return self.dtype if self._plan is None else str(self._plan)

    def evaluate(
        self,
        runners: dict[str, Runner],
        split: Split,
        name: str,
        one_view: bool = False,
        dtype: str | None = None,
        limits: Tensor | None = None,
    ) -> Evaluation:
        """Return every runner's answers on a split; on another rank than 0 only to its share. dtype: of autocast, instead of
        the run's. limits: see `Evaluation`. UserError if no sample can be read."""
        options, context = self.options, self.context
        loader = self.modality.eval_loader(
            options, split, options.test.batch_size, one_view, context.rank, context.size
        )
        pixels = self.modality.normalizer(self.options).to(self.device)
        try:
            answers = evaluate(
                runners, loader, pixels, self.device, dtype or self.dtype, loader.num_samples, name, context
            )
            return replace(answers, limits=limits)
        except ValueError as error:
            with context.own_errors():  # another process may have good answers
                raise UserError(f"split {split}: {error}") from error

    def report(self, classifier: AdaptiveClassifier) -> tuple[dict[str, Any], Evaluation]:
        """Evaluate on the test split: the figures of report.json, all but the stages' seconds, and the answers they come from.
        On other ranks than 0 there are no figures, and its own answers.

        A budget (`choose`) decides how grids are assigned. UserError if it cannot be met.
        """
        networks, plan, test, policy = self._served or classifier, self._plan, self.options.test, classifier.policy
        runners: dict[str, Runner] = grid_runners(networks)
        if classifier.assigner is not None:
            pixels = self.modality.normalizer(self.options).to(self.device)
            runners["adaptive"] = Streamed(networks, pixels, self.device)
        # What is served computes in a dtype of its own.
        dtype, limits = None if plan is None else "float32", self.limits(classifier)
        evaluation = self.evaluate(runners, test.split, "evaluate", dtype=dtype, limits=limits)
        if not self.context.is_main:
            return {}, evaluation
        costs, calibration = self.costs(classifier), calibration_of(classifier)
        asks = policy is None or policy.asks
        if not asks:
            costs = replace(costs, assigner=0.0)
        if calibration is not None and not calibration.curve.is_of(costs.grids):
            calibration = None  # of inputs of another size, as the settings may say
        cascade = None if calibration is None else calibration.cascade
        inputs = self.modality.plural
        rule = {"said": policy.why, **classifier.facts[RULE_KEY]} if policy is not None and policy.why else None
        report = adaptive_report(evaluation, costs, test.merge, test.num_random_draws, cascade, asks, inputs, rule)
        views = next(iter(evaluation.answers.values())).logits.shape[1]
        if calibration is not None:
            report["calibration"] = calibration.curve.summary()
            if self._choice is not None and policy is not None:
                report["budget"] = reported_budget(self._choice, calibration.curve, report, policy, views)
        report |= answer_figures(evaluation, test.merge, self.modality.label_names(self.options))
        report |= {"method": self.options.method_name, "model": self.options.model_name}
        report["protocol"] = {
            "data": self._data_name(),
            "split": test.split,
            "num_views": views,
            "merge": test.merge,
            **({"labels": "several"} if evaluation.several else {}),
            "device": str(self.device),
            "dtype": self.dtype if plan is None else plan.dtype,
            **({} if plan is None else {"served": str(plan)}),
            "seed": self.options.run.seed,
        }
        return report | {"versions": versions()}, evaluation

    def choose(self, classifier: AdaptiveClassifier, budget: str, source: str | Path) -> None:
        """Have `classifier`, which came from the checkpoint `source`, assign grids for a budget, as `model.budget` has it.

        UserError, which names what can be asked for, if there is no such operating point.
        """
        curve = curve_of(classifier, str(source))
        check_costs(curve, self.costs(classifier).grids, str(source))
        shape, batch = self.modality.input_shape(self.options), self.options.test.batch_size
        networks, served = self._served or classifier, None if self._plan is None else self._plan.how
        # Measured milliseconds differ from process to process; all have to choose alike.
        self._choice = choice = self.context.on_main(
            lambda: choose(budget, curve, networks, shape, self.device, self.dtype, batch, served)
        )
        policy = curve.policy(choice.point, choice.holds and self.options.test.hold_budget)
        classifier.policy = networks.policy = policy

    def calibrate(self, classifier: AdaptiveClassifier, calibration: CalibrationOptions) -> Calibration | None:
        """Find the operating points of the assigner, with the test's views, and what gives inputs their grids by default where
        the configuration wants that found; None on other ranks than 0."""
        limits = self.limits(classifier)
        evaluation = self.evaluate(calibration_runners(classifier), calibration.split, "calibrate", limits=limits)
        if not self.context.is_main:
            return None
        costs, merge = self.costs(classifier), self.options.test.merge
        found = calibrated(evaluation, costs, merge, calibration.split, calibration.points)
        if not self.options.wants_calibration:
            return found
        finds_threshold = classifier.confidence == "auto"
        return replace(found, rule=find_rule(evaluation, costs, merge, calibration, finds_threshold))

    def limits(self, classifier: AdaptiveClassifier) -> Tensor | None:
        """Return the log odds (grids, K) from which on classes are said, where the classifier's checkpoint keeps them."""
        if not self.options.data.source.several_labels:
            return None
        return limits_in(classifier.facts, classifier.grids, classifier.model.num_classes)

    def _data_name(self) -> str:
        """Name the samples of the test split, unlike all others."""
        made = self.options.data.demo
        if made is None:
            return self.modality.split(self.options, self.options.test.split).fingerprint
        # Equal options give equal files.
        settings = made.model_dump_json(exclude={"num_workers"})
        return f"made, {hashlib.sha256(settings.encode()).hexdigest()[:12]}"

    def costs(self, classifier: AdaptiveClassifier) -> Costs:
        """Count GMACs of one view at every grid, and of the assigner; once for the classifier that was asked of last."""
        if self._counted is None or self._counted[0] is not classifier:
            shape = self.modality.input_shape(self.options)
            self._counted = classifier, count_costs(classifier.model, classifier.assigner, shape)
        return self._counted[1]

    def watch(self, model: GridModel, log: RunLog, keep: Callable[[int, float], None]) -> Callable[[int], None] | None:
        """Return what to call after every epoch: evaluation on the val list, one line each. None if none is wanted.

        keep: gets the epoch and the longest grid's top-1 in percent, on rank 0; with several labels a sample its mAP.
        """
        every = self.options.run.evaluate_every
        if every is None or not self.modality.has_split(self.options, "val"):
            return None
        runners = grid_runners(AdaptiveClassifier(model))

        def evaluate_epoch(epoch: int) -> None:
            if epoch % every:
                return
            model.eval()
            try:
                evaluation = self.evaluate(runners, "val", "val")
            except UserError as error:
                # Nothing of the training depends on it, so it does not end it.
                log.write("val", epoch=epoch, error=str(error))
                log.say(f"val: epoch {epoch}  none: {error}")
                return
            if not self.context.is_main:
                return
            key, what = ("map", "mAP") if evaluation.several else ("top1", "top-1")
            merge, failed = self.options.test.merge, len(evaluation.failures)
            found = {name: accuracy(evaluation, name, merge)[key] for name in evaluation.answers}
            log.write("val", epoch=epoch, **{key: found}, failed=failed)
            shown = "  ".join(f"{name} {value:.2f} %" for name, value in found.items())
            log.say(f"val: epoch {epoch}  {what} {shown}  ({evaluation.num_evaluated} evaluated, {failed} failed)")
            keep(epoch, found[model.grids[0].name])

        return evaluate_epoch
