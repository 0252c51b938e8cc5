"""The threshold that calibration finds, and the grid that takes the assigner's place, against all there were to choose from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from revit.common.config.sections import RunOptions
from revit.common.costs.flops import Costs
from revit.common.data.batch import Batch
from revit.common.evaluation.adaptive import adaptive_report, paired_interval
from revit.common.evaluation.evaluate import Evaluation, evaluate, grid_runners
from revit.common.evaluation.length_rule import find_rule
from revit.common.evaluation.operating_points import calibration_runners, scores_of
from revit.common.methods.revit.adaptive import AdaptiveClassifier
from revit.common.methods.revit.rule import KEY, LengthRule, rule_of
from revit.common.methods.run_options import (
    AssignerOptions,
    CalibrationOptions,
    DataOptions,
    ModelOptions,
    RecipeOptions,
)
from revit.common.models.base import GridModel, ModelOutput
from revit.common.models.grid import TokenGrid
from revit.common.system.errors import UserError

COSTS = Costs({"4x4": 4.0, "3x3": 2.0, "2x2": 1.0}, 0.25, 10, 2)
LIMITS = {"4x4": 1.5, "3x3": 0.5, "2x2": -0.3}
ALIKE = dict.fromkeys(LIMITS, 0.5)
"""Every grid is right on the same inputs."""


class Knows(GridModel):
    """Right where pixel 0, how hard an input is, lies below what the grid can do; pixel 1 holds the class."""

    num_classes, embed_dim = 3, 1

    def __init__(self, limits: dict[str, float]) -> None:
        super().__init__()
        self.limits, self.grids = limits, tuple(map(TokenGrid.parse, limits))

    def check_grid(self, grid):
        return grid or self.grids[0]

    def forward(self, inputs, grid=None):
        hardness, target = inputs[:, 0, 0, 0], inputs[:, 1, 0, 0].long()
        said = torch.where(hardness < self.limits[self.check_grid(grid).name], target, (target + 1) % 3)
        return ModelOutput(2 * nn.functional.one_hot(said, 3).float())

    def no_weight_decay(self):
        return set()

    def set_grad_checkpointing(self, enable=True):
        pass


class Says(nn.Module):
    """Log odds of an assigner that sees how hard an input is, as far as `noise` lets it; `lean` to the longest grid."""

    def __init__(self, noise: float = 0.0, lean: float = 0.0) -> None:
        super().__init__()
        self.noise, self.lean = noise, lean

    def forward(self, inputs: Tensor) -> Tensor:
        seen = inputs[:, 0, 0, 0] + self.noise * inputs[:, 2, 0, 0]
        return torch.stack([4 * (seen - 0.5) + self.lean, torch.ones_like(seen), -4 * (seen + 0.3)], dim=1)


def classifier(limits=LIMITS, assigner=None, confidence=None) -> AdaptiveClassifier:
    return AdaptiveClassifier(Knows(limits), assigner or Says(), confidence=confidence).eval()


def batches(number: int, seed: int, views: int = 1) -> list[Batch]:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(number * views, 3, 8, 8, generator=generator)
    targets = torch.randint(0, 3, (number,), generator=generator)
    inputs[:, 1, 0, 0] = targets.repeat_interleave(views).float()
    return [Batch(inputs=inputs, targets=targets, ids=torch.arange(number), num_views=views)]


def asked(networks: AdaptiveClassifier, number: int = 200, seed: int = 2, views: int = 1) -> Evaluation:
    runners = calibration_runners(networks)
    return evaluate(runners, batches(number, seed, views), nn.Identity(), torch.device("cpu"))


def top1_and_cost(networks: AdaptiveClassifier, seed: int = 2, views: int = 1) -> tuple[float, float, Tensor]:
    """What the classifier does by itself to the same samples."""
    runners = {**grid_runners(networks), "adaptive": networks}
    evaluation = evaluate(runners, batches(200, seed, views), nn.Identity(), torch.device("cpu"))
    answers = evaluation.answers["adaptive"]
    spent = torch.tensor(list(COSTS.grids.values()))[answers.grid_index].mean()
    right = evaluation.correct(answers.logits, "logits")
    return 100 * float(right.double().mean()), float(spent), right


@pytest.mark.parametrize("views", [1, 3])
@pytest.mark.parametrize("max_drop", [0.0, 0.5, 3.0, 20.0, 100.0])
def test_the_threshold_is_the_cheapest_that_loses_no_more(max_drop, views):
    networks = classifier(confidence="auto")
    evaluation = asked(networks, views=views)
    options = CalibrationOptions(max_drop=max_drop, points=201)
    rule = find_rule(evaluation, COSTS, "logits", options, finds_threshold=True)
    longest = evaluation.percent(evaluation.answers["4x4"].logits, "logits")
    assert rule.longest_top1 == pytest.approx(longest)
    assert rule.assigner.top1 >= longest - max_drop - 1e-6
    # What it says it does is what the classifier does with it, and it is found again from the checkpoint.
    networks.policy = LengthRule.model_validate(rule.model_dump(mode="json")).policy()
    top1, spent, _ = top1_and_cost(networks, views=views)
    assert top1 == pytest.approx(rule.assigner.top1)
    assert spent + COSTS.assigner == pytest.approx(rule.assigner.gmacs)
    # Nothing that is cheaper by more than the distance of two points loses so little.
    scores = scores_of(evaluation)
    step = (4.0 - 1.0) / 200
    stacked = torch.stack([evaluation.answers[name].logits for name in COSTS.grids])
    prices = torch.tensor(list(COSTS.grids.values()))
    for threshold in scores.flatten().tolist():
        index = (scores > threshold).sum(dim=-1)
        if float(prices[index].mean()) + COSTS.assigner < rule.assigner.gmacs - step - 1e-6:
            logits = stacked.gather(0, index[None, ..., None].expand(1, *stacked.shape[1:])).squeeze(0)
            assert evaluation.percent(logits, "logits") < longest - max_drop


@pytest.mark.parametrize("confidence", [None, 0.6, 0.95])
def test_without_auto_the_assigner_is_measured_as_it_is_configured(confidence):
    networks = classifier(assigner=Says(noise=1.0), confidence=confidence)
    rule = find_rule(asked(networks), COSTS, "logits", CalibrationOptions(drop_assigner=True), finds_threshold=False)
    top1, spent, _ = top1_and_cost(networks)
    assert rule.threshold is None
    assert (rule.assigner.top1, rule.assigner.gmacs) == pytest.approx((top1, spent + COSTS.assigner))


def test_an_assigner_that_knows_stays():
    found = CalibrationOptions(drop_assigner=True)
    rule = find_rule(asked(classifier()), COSTS, "logits", found, finds_threshold=False)
    assert rule.assigner.top1 > 85
    assert rule.fixed is None
    assert str(rule).startswith("the assigner stays: on val (200 samples)")


@pytest.mark.parametrize("lean", [0.0, 50.0])
def test_where_all_grids_are_alike_the_shortest_takes_its_place(lean):
    """Also where the assigner gives every input the longest, as on little data."""
    networks = classifier(ALIKE, Says(lean=lean))
    found = CalibrationOptions(drop_assigner=True)
    rule = find_rule(asked(networks), COSTS, "logits", found, finds_threshold=False)
    assert rule.fixed is not None
    assert (rule.fixed.grid, rule.fixed.gain) == ("2x2", 0.0)
    low, high = rule.fixed.interval
    assert low < 0 < high
    assert "no assigner: 2x2 for every input" in str(rule)
    assert "as good as the assigner's choice (+0.00 points" in str(rule)
    networks.policy = rule.policy()
    _, spent, _ = top1_and_cost(networks)
    assert spent == 1.0


def test_a_grid_for_all_is_the_cheapest_of_those_that_are_no_worse_and_no_dearer():
    """An assigner that deals grids out: a longer one is better, and no dearer than what it spends, or it is not."""
    taken = []
    for noise, lean in ((3.0, 0.0), (3.0, 3.0), (10.0, -4.0), (0.5, 1.0), (0.0, 80.0)):
        networks = classifier(assigner=Says(noise, lean))
        evaluation = asked(networks)
        rule = find_rule(evaluation, COSTS, "logits", CalibrationOptions(drop_assigner=True), finds_threshold=False)
        top1, spent, right = top1_and_cost(networks)
        may = [
            name
            for name, price in COSTS.grids.items()
            if price <= spent + COSTS.assigner
            and evaluation.percent(evaluation.answers[name].logits, "logits") >= top1 - 1e-9
        ]
        taken.append(None if rule.fixed is None else rule.fixed.grid)
        assert taken[-1] == (may[-1] if may else None)
        if rule.fixed is not None:
            gains = evaluation.correct(evaluation.answers[may[-1]].logits, "logits").double() - right.double()
            assert rule.fixed.interval == pytest.approx([100 * limit for limit in paired_interval(gains)])
            assert ("better than" in str(rule)) == (rule.fixed.interval[0] > 0)
    assert None in taken
    assert {"3x3", "4x4"} < set(taken)


@pytest.mark.parametrize("grid", list(COSTS.grids))
def test_a_fixed_grid_is_every_inputs(grid):
    rule = find_rule(asked(classifier(ALIKE)), COSTS, "logits", CalibrationOptions(drop_assigner=True), False)
    fixed = rule.fixed.model_copy(update={"grid": grid})
    policy = rule.model_copy(update={"fixed": fixed}).policy()
    assert not policy.asks
    assert policy(torch.randn(500, 3, 8, 8), None).tolist() == [list(COSTS.grids).index(grid)] * 500


def test_the_report_says_who_decided():
    networks = classifier(ALIKE)
    rule = find_rule(asked(networks), COSTS, "logits", CalibrationOptions(drop_assigner=True), False)
    networks.policy = rule.policy()
    runners = {**grid_runners(networks), "adaptive": networks}
    evaluation = evaluate(runners, batches(200, 3), nn.Identity(), torch.device("cpu"))
    said = {"said": str(rule), **rule.model_dump(mode="json")}
    report = adaptive_report(evaluation, COSTS, "logits", asks=False, rule=said)
    assert report["verdict"].startswith("One length for all: ")
    assert report["verdict"].endswith(f"; {rule}")
    assert report["length_rule"]["fixed"]["grid"] == "2x2"
    assert "length_rule" not in adaptive_report(evaluation, COSTS, "logits", asks=False)


def run_of(confidence=None, **calibration) -> RecipeOptions:
    return RecipeOptions(
        kind="made",
        data=DataOptions(),
        model=ModelOptions(grids=tuple(COSTS.grids)),
        assigner=AssignerOptions(confidence=confidence),
        calibration=CalibrationOptions(**calibration),
        run=RunOptions(dir=Path("runs/made")),
    )


def test_a_checkpoints_rule_is_what_the_configuration_wants_of_it():
    both = CalibrationOptions(drop_assigner=True)
    rule = find_rule(asked(classifier(ALIKE, confidence="auto")), COSTS, "logits", both, finds_threshold=True)
    facts = {KEY: rule.model_dump(mode="json")}
    assert rule_of(facts, run_of("auto", drop_assigner=True), "a").fixed.grid == "2x2"
    assert rule_of(facts, run_of(0.7, drop_assigner=True), "a").fixed.grid == "2x2"
    threshold = rule_of(facts, run_of("auto"), "a")
    assert (threshold.fixed, threshold.threshold) == (None, rule.threshold)
    assert "assigner.confidence" in threshold.policy().why
    assert rule_of(facts, run_of(0.7), "a") is None
    assert rule_of(facts, run_of(), "a") is None
    assert rule_of({}, run_of("auto"), "a") is None


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda facts: facts.pop("grids"), "length_rule.grids"),
        (lambda facts: facts.update(grids={"9x9": 2.0, "2x2": 1.0}), "of the grids 9x9, 2x2, not 4x4, 3x3, 2x2"),
        (lambda facts: facts["fixed"].update(grid="9x9"), "calibrate it again"),
        (lambda facts: facts.update(threshold="high"), "length_rule.threshold"),
    ],
)
def test_a_damaged_rule_is_refused(spoil, reason):
    rule = find_rule(asked(classifier(ALIKE)), COSTS, "logits", CalibrationOptions(drop_assigner=True), False)
    facts = rule.model_dump(mode="json")
    spoil(facts)
    with pytest.raises(UserError, match=rf"a\.safetensors: .*{reason}"):
        rule_of({KEY: facts}, run_of(drop_assigner=True), "a.safetensors")


def test_auto_without_a_calibration_is_refused():
    with pytest.raises(UserError, match=r"assigner\.confidence is auto, and this checkpoint is not calibrated so"):
        classifier(confidence="auto").assign(torch.randn(4, 3, 8, 8))
    with pytest.raises(ValidationError, match=r"set calibration to \{\}, or give a number"):
        RecipeOptions(
            kind="made",
            data=DataOptions(),
            assigner=AssignerOptions(confidence="auto"),
            calibration=None,
            run=RunOptions(dir=Path("runs/made")),
        )
