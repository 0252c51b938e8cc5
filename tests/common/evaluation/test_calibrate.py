"""Calibration and report on a model whose accuracy is known, with an assigner that sees how hard an input is or a shuffled one."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from revit.common.data.batch import Batch
from revit.common.evaluation.adaptive import Costs, adaptive_report
from revit.common.evaluation.evaluate import evaluate, grid_runners
from revit.common.evaluation.operating_points import Calibration, calibrated, calibration_runners
from revit.common.methods.revit.adaptive import AdaptiveClassifier
from revit.common.methods.revit.budget import Budget, BudgetCurve, Milliseconds
from revit.common.models.base import GridModel, ModelOutput
from revit.common.models.grid import TokenGrid
from revit.common.serving.budgets import budget_line, check_costs, measure_milliseconds, reported_budget
from revit.common.system.errors import UserError

COSTS = Costs({"4x4": 4.0, "2x2": 1.0}, 0.2, 10, 2)
LIMITS = {"4x4": 1.5, "2x2": 0.0}
CPU = torch.device("cpu")


class Knows(GridModel):
    """Right where pixel 0, how hard an input is, lies below what the grid can do; pixel 1 holds the class."""

    num_classes, embed_dim = 3, 1

    def __init__(self):
        super().__init__()
        self.grids = tuple(map(TokenGrid.parse, COSTS.grids))

    def check_grid(self, grid):
        return grid or self.grids[0]

    def forward(self, inputs, grid=None):
        grid = self.check_grid(grid)
        hardness, target = inputs[:, 0, 0, 0], inputs[:, 1, 0, 0].long()
        said = torch.where(hardness < LIMITS[grid.name], target, (target + 1) % 3)
        return ModelOutput(2 * nn.functional.one_hot(said, 3).float())

    def no_weight_decay(self):
        return set()

    def set_grad_checkpointing(self, enable=True):
        pass


class LinearAssigner(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, inputs):
        return self.linear(inputs[:, :, 0, 0])


def samples(number, seed):
    """inputs (N, 3, 8, 8) and targets (N,)."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(number, 3, 8, 8, generator=generator)
    targets = torch.randint(0, 3, (number,), generator=generator)
    inputs[:, 1, 0, 0] = targets.float()
    return inputs, targets


class Shuffled(nn.Module):
    """What another assigner says, dealt out anew among the inputs of a batch."""

    def __init__(self, assigner):
        super().__init__()
        self.assigner = assigner

    def forward(self, inputs):
        return self.assigner(inputs)[torch.randperm(len(inputs))]


def learned():
    """An assigner, trained to tell where the long grid is needed."""
    inputs, _ = samples(500, 1)
    labels = (inputs[:, 0, 0, 0] < LIMITS["2x2"]).long()
    assigner = LinearAssigner()
    optimizer = torch.optim.Adam(assigner.parameters(), lr=0.05)
    for _ in range(150):
        loss = nn.functional.cross_entropy(assigner(inputs), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return assigner.eval()


def batches(number, seed):
    inputs, targets = samples(number, seed)
    return [
        Batch(inputs=some, targets=targets[rows], ids=rows)
        for rows, some in zip(torch.arange(number).split(50), inputs.split(50))
    ]


def answers(runners, seed, number=600):
    return evaluate(runners, batches(number, seed), nn.Identity(), CPU)


@pytest.fixture(scope="module", params=[False, True], ids=["trained", "shuffled"])
def made(request) -> tuple[bool, AdaptiveClassifier, Calibration]:
    torch.manual_seed(0)
    assigner = Shuffled(learned()) if request.param else learned()
    classifier = AdaptiveClassifier(Knows(), assigner, max_batch=50).eval()
    evaluation = answers(calibration_runners(classifier), seed=2)
    return request.param, classifier, calibrated(evaluation, COSTS, "logits", "val", 31)


def reported(classifier, calibration, budget=None):
    classifier.policy = None
    costs, choice = COSTS, None
    if budget is not None:
        choice = calibration.curve.choose(Budget.parse(budget), lambda: Milliseconds((8.0, 2.0), 1.0, "made up"))
        classifier.policy = calibration.curve.policy(choice.point, hold=choice.holds)
        if not classifier.policy.asks:
            costs = replace(COSTS, assigner=0.0)
    evaluation = answers({**grid_runners(classifier), "adaptive": classifier}, seed=3)
    report = adaptive_report(evaluation, costs, "logits", cascade=calibration.cascade)
    figures = None if choice is None else reported_budget(choice, calibration.curve, report, classifier.policy)
    return report, figures


@pytest.mark.parametrize("budget", [None, "gmacs:2.6"])
def test_an_assigner_whose_answers_are_shuffled_is_called_useless(made, budget):
    shuffled, classifier, calibration = made
    report, _ = reported(classifier, calibration, budget)
    assert (report["adaptive"]["gain_over_random"] > 15) == (not shuffled)
    assert report["good"] != shuffled


def test_a_useless_assigner_is_not_paid_for(made):
    shuffled, _, calibration = made
    asked = [point.how for point in calibration.curve.points].count("assigner")
    assert asked == 0 if shuffled else asked > 20


@pytest.mark.parametrize("gmacs", [1.0, 1.1, 1.5, 2.2, 3.0, 3.7, 4.0])
def test_predicted_and_achieved_agree(made, gmacs):
    _, classifier, calibration = made
    _, figures = reported(classifier, calibration, f"gmacs:{gmacs}")
    assert figures["predicted"]["gmacs"] == pytest.approx(gmacs)
    assert figures["achieved"]["gmacs"] == pytest.approx(gmacs, rel=0.03)
    assert figures["achieved"]["top1"] == pytest.approx(figures["predicted"]["top1"], abs=6)
    assert "achieved" in budget_line(figures)


def test_a_time_is_kept_by_the_shares(made):
    _, classifier, calibration = made
    _, figures = reported(classifier, calibration, "ms:6")
    assert figures["predicted"]["ms"] == pytest.approx(6, rel=0.01)
    assert figures["achieved"]["ms"] == pytest.approx(6, rel=0.03)
    assert "made up" in budget_line(figures)
    # The longest grid alone takes 8; the assigner's milliseconds on top are never worth it there.
    times = [calibration.curve.milliseconds_of(point, MADE_UP) for point in calibration.curve.points]
    most = calibration.curve.choose(Budget.parse(f"ms:{max(times)}"), lambda: MADE_UP)
    assert calibration.curve.milliseconds_of(most.point, MADE_UP) <= max(times) * 1.005
    with pytest.raises(ValueError, match=r"out of reach: 2 .*made up"):
        calibration.curve.choose(Budget.parse("ms:1"), lambda: MADE_UP)


MADE_UP = Milliseconds((8.0, 2.0), 1.0, "made up")


def test_the_clocks_milliseconds_stand_beside_those_by_shares(made):
    _, classifier, calibration = made
    report, figures = reported(classifier, calibration, "ms:6")
    per_second = report["adaptive"]["per_second"]
    assert figures["achieved"]["ms_clock"] == pytest.approx(1000 / per_second)
    choice = calibration.curve.choose(Budget.parse("ms:6"), lambda: MADE_UP)
    twice = reported_budget(choice, calibration.curve, report, classifier.policy, num_views=2)
    assert twice["achieved"]["ms_clock"] == pytest.approx(500 / per_second)
    assert "(by the clock " in budget_line(figures)
    _, other = reported(classifier, calibration, "gmacs:2.2")
    assert "ms_clock" not in other["achieved"]


@pytest.mark.parametrize("ms", [2.0, 2.5, 4.0, 6.0, 7.9])
def test_what_is_predicted_of_a_time_is_not_more_than_was_asked_for(made, ms):
    """And is the mean of the grids' times by the point's shares, with the assigner's where it is asked."""
    curve = made[2].curve
    choice = curve.choose(Budget.parse(f"ms:{ms}"), lambda: MADE_UP)
    share = choice.point.share
    asked = MADE_UP.assigner if choice.point.how == "assigner" else 0
    took = 8 * share["4x4"] + 2 * share["2x2"] + asked
    assert choice.predicted(curve)["ms"] == pytest.approx(took)
    assert took <= ms * 1.005 + 1e-9
    assert sum(share.values()) == pytest.approx(1)


@pytest.mark.parametrize("drop", [0.0, 1.0, 10.0, 200.0])
def test_a_loss_gives_the_cheapest_point_that_keeps_it(made, drop):
    curve = made[2].curve
    point = curve.choose(Budget.parse(f"drop:{drop}"), lambda: MADE_UP).point
    longest = curve.points[-1].top1
    assert point.top1 >= longest - drop - 1e-6
    assert all(cheaper.top1 < longest - drop for cheaper in curve.points if cheaper.gmacs < point.gmacs)


def test_the_curve_survives_json_and_fits_its_intervals(made):
    _, classifier, calibration = made
    again = BudgetCurve.read(calibration.facts(), classifier.grids)
    assert again == calibration.curve
    top1 = [point.top1 for point in again.points]
    assert top1 == sorted(top1)
    assert again.fits
    assert again.points[0].share["2x2"] == again.points[-1].share["4x4"] == 1


def test_a_curve_of_other_grids_is_refused(made):
    with pytest.raises(ValueError, match="of the grids 4x4, 2x2, not 3x3"):
        BudgetCurve.read(made[2].facts(), [TokenGrid(3, 3)])


def test_milliseconds_where_shorter_is_no_faster_are_refused(made, monkeypatch):
    times = iter([1.0, 2.0, 0.1] * 7)
    monkeypatch.setattr("revit.common.serving.budgets.seconds_of", lambda run, device: next(times))
    with pytest.raises(ValueError, match="shorter grids take no less time here"):
        measure_milliseconds(made[1], (1, 3, 8, 8), CPU, "float32", 4)


def test_milliseconds_are_of_one_input(made, monkeypatch):
    times = iter([0.4, 0.1, 0.02] * 7)
    monkeypatch.setattr("revit.common.serving.budgets.seconds_of", lambda run, device: next(times))
    found = measure_milliseconds(made[1], (1, 3, 8, 8), CPU, "float32", 4)
    assert found.grids == pytest.approx((100.0, 25.0))
    assert found.assigner == pytest.approx(5.0)
    assert "batches of 4" in found.how


def test_costs_of_inputs_of_another_size_are_refused(made):
    curve = made[2].curve
    check_costs(curve, {"4x4": 4.0, "2x2": 1.0}, "a.safetensors")
    with pytest.raises(
        UserError, match=r"a\.safetensors: .* inputs of another size .*then: 4x4 4, 2x2 1; now: 4x4 8, 2x2 2"
    ):
        check_costs(curve, {"4x4": 8.0, "2x2": 2.0}, "a.safetensors")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda curve: curve.update(points=curve["points"][::-1]), "costs do not rise"),
        (lambda curve: curve["points"][0].update(top1=100.0), "accuracies fall"),
        (lambda curve: curve["points"][0].update(share={"9x9": 1.0}), "shares are not of its grids"),
        (lambda curve: curve.update(grids={"4x4": 1.0, "2x2": 4.0}), "from the dearest to the cheapest"),
        (lambda curve: curve.update(steps_gmacs=[]), "steps_gmacs"),
        (lambda curve: curve.update(steps_gmacs=curve["steps_gmacs"][:5]), "differ in number"),
        (lambda curve: curve["steps_gmacs"].reverse(), "steps' costs fall"),
        (lambda curve: curve.clear(), "budget_curve"),
    ],
)
def test_a_damaged_curve_is_refused(made, spoil, reason):
    _, classifier, calibration = made
    facts = calibration.facts()
    spoil(facts["budget_curve"])
    with pytest.raises(ValueError, match=reason):
        BudgetCurve.read(facts, classifier.grids)
