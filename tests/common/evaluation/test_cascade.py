"""The confidence cascade, and that a useless assigner is called useless."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from revit.common.evaluation.adaptive import Costs, adaptive_report, paired_interval
from revit.common.evaluation.cascade import CascadeTable, confidences, cumulative, exits, thresholds_for
from revit.common.evaluation.evaluate import Answers, Evaluation

PRICES = [4.0, 2.0, 1.0]
COSTS = Costs({"4x4": 4.0, "2x2": 2.0, "1x1": 1.0}, 0.1, 10, 2)


def made(number=600, views=1, seed=0, choice="good"):
    """Answers of a model whose shorter grids fail at the harder samples, and of an assigner."""
    generator = torch.Generator().manual_seed(seed)
    hardness = torch.rand(number, views, generator=generator)
    targets = torch.randint(0, 5, (number,), generator=generator)
    answers, names = {}, list(COSTS.grids)
    for name, limit in zip(names, (0.95, 0.7, 0.4)):
        margin = 4 * (limit - hardness)
        logits = torch.randn(number, views, 5, generator=generator) * 0.3
        logits[torch.arange(number), :, targets] += margin
        answers[name] = Answers(logits, torch.zeros(number, views), 1.0)
    grid_index = (hardness < 0.7).long() + (hardness < 0.4).long()
    if choice == "shuffled":
        grid_index = grid_index.flatten()[torch.randperm(grid_index.numel(), generator=generator)].view_as(grid_index)
    elif choice == "longest":
        grid_index = torch.zeros_like(grid_index)
    stacked = torch.stack([answers[name].logits for name in names])
    chosen = stacked.gather(0, grid_index[None, ..., None].expand(1, *stacked.shape[1:])).squeeze(0)
    answers["adaptive"] = Answers(chosen, grid_index, 1.0)
    return Evaluation(torch.arange(number), targets, answers, [])


def stacked(evaluation):
    return torch.stack([evaluation.answers[name].logits for name in COSTS.grids])


def test_an_input_leaves_where_it_is_sure_and_pays_for_all_it_ran():
    """Written out input by input, shortest grid first."""
    per_grid = torch.randn(3, 50, 1, 4)
    thresholds = [0.2, -0.3]
    found = exits(confidences(per_grid), thresholds)
    paid = cumulative(PRICES)
    assert paid == [7.0, 3.0, 1.0]
    for row in range(50):
        spent, position = 0.0, 3
        for position, threshold in zip((2, 1, 0), [*thresholds, -np.inf]):
            spent += PRICES[position]
            probability = float(per_grid[position, row, 0].double().softmax(0).max())
            if np.log(probability / (1 - probability)) >= threshold:
                break
        assert int(found[row, 0]) == position
        assert paid[position] == spent


@pytest.mark.parametrize("shares", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (0.2, 0.5, 0.3), (0.33, 0.33, 0.34)])
def test_thresholds_give_the_wanted_shares(shares):
    confidence = torch.randn(3, 300)
    left = exits(confidence, thresholds_for(confidence, shares))
    counts = torch.bincount(left, minlength=3).flip(0) / 300
    assert counts.tolist() == pytest.approx(shares, abs=1e-2)


def test_confidence_does_not_saturate():
    logits = torch.tensor([[60.0, 0.0], [90.0, 0.0]])
    assert logits.softmax(1).max(1).values.tolist() == [1.0, 1.0]
    first, second = confidences(logits).tolist()
    assert first < second


@pytest.mark.parametrize("gmacs", [1.0, 1.5, 3.0, 5.5, 7.0])
def test_the_table_reaches_every_cost(gmacs):
    per_grid = torch.randn(3, 2000, 1, 10)
    table = CascadeTable.of("val", per_grid, PRICES)
    found = exits(confidences(per_grid), table.at(gmacs))
    assert float(torch.tensor(cumulative(PRICES))[found].mean()) == pytest.approx(gmacs, rel=0.02)


@pytest.mark.parametrize("views", [1, 3])
def test_the_report_has_the_cascade_at_the_adaptive_cost(views):
    table = CascadeTable.of("val", stacked(made(seed=1, views=views)), PRICES)
    report = adaptive_report(made(2000, views), COSTS, "logits", cascade=table)
    cascade = report["cascade"]
    assert cascade["gmacs"] == pytest.approx(report["adaptive"]["gmacs"], rel=0.05)
    assert sum(cascade["share"].values()) == pytest.approx(1)
    assert cascade["calibrated_on"] == "val"
    assert list(cascade["thresholds"]) == ["1x1", "2x2"]
    costs = [point["gmacs"] for point in cascade["curve"]]
    assert costs == sorted(costs)
    assert costs[0] == pytest.approx(1.0)
    ends = (cascade["curve"][0]["top1"], cascade["curve"][-1]["top1"])
    assert ends == (report["fixed"][-1]["top1"], report["fixed"][0]["top1"])


def test_without_a_calibration_thresholds_come_from_the_samples():
    report = adaptive_report(made(), COSTS, "logits")
    assert report["cascade"]["calibrated_on"] == "the samples themselves"
    assert report["cascade"]["gmacs"] == pytest.approx(report["adaptive"]["gmacs"], rel=0.02)


@pytest.mark.parametrize("views", [1, 3])
def test_a_good_assigner_is_called_good(views):
    report = adaptive_report(made(views=views), COSTS, "logits")
    adaptive = report["adaptive"]
    assert adaptive["gain_over_random"] == pytest.approx(adaptive["top1"] - report["random"]["top1"])
    assert 0 < adaptive["interval"][0] < adaptive["gain_over_random"] < adaptive["interval"][1]
    assert report["verdict"].startswith("The assigner pays: ")
    assert report["good"]


@pytest.mark.parametrize("choice", ["shuffled", "longest"])
def test_a_useless_assigner_is_called_useless(choice):
    report = adaptive_report(made(choice=choice), COSTS, "logits")
    assert not report["good"]
    assert "pays" not in report["verdict"]
    assert "--grid " in report["verdict"]


def test_shuffled_assigners_are_seldom_called_good():
    """One in forty by the interval's own promise."""
    reports = [adaptive_report(made(200, seed=seed, choice="shuffled"), COSTS, "logits") for seed in range(60)]
    assert sum(report["adaptive"]["interval"][0] > 0 for report in reports) <= 5


def test_the_paired_interval_is_that_of_the_normal_for_many_samples():
    differences = torch.randint(-1, 2, (5000,)).double()
    low, high = paired_interval(differences)
    mean, half = float(differences.mean()), 1.96 * float(differences.std()) / 5000**0.5
    assert (low, high) == pytest.approx((mean - half, mean + half), abs=0.1 * half)


def test_a_handful_of_samples_that_differ_proves_nothing():
    """Four against none of 240 have p = 0.125 by McNemar's exact test, eight have 0.008."""
    differences = torch.zeros(240)
    differences[:4] = 1
    assert paired_interval(differences)[0] < 0
    differences[:8] = 1
    assert paired_interval(differences)[0] > 0


def from_counts(only_one, only_other, num, z=1.959964):
    """Bonett and Price 2012: the interval of a difference of paired proportions from McNemar's counts."""
    p12, p21 = (only_one + 1) / (num + 2), (only_other + 1) / (num + 2)
    half = z * math.sqrt((p12 + p21 - (p12 - p21) ** 2) / (num + 2))
    return p12 - p21 - half, p12 - p21 + half


@pytest.mark.parametrize(("one", "other", "num"), [(0, 0, 2), (3, 1, 12), (40, 10, 100), (150, 149, 1500)])
def test_the_paired_interval_is_bonett_and_prices(one, other, num):
    differences = torch.zeros(num)
    differences[:one] = 1
    differences[one : one + other] = -1
    assert paired_interval(differences) == pytest.approx(from_counts(one, other, num), abs=1e-12)


def test_the_paired_interval_is_the_bootstraps_where_many_samples_differ():
    generator = np.random.default_rng(0)
    differences = generator.choice([-1, -0.4, 0, 0.2, 1], 2000, p=[0.1, 0.1, 0.4, 0.2, 0.2])
    means = [generator.choice(differences, 2000).mean() for _ in range(2000)]
    assert paired_interval(torch.from_numpy(differences)) == pytest.approx(np.percentile(means, [2.5, 97.5]), abs=0.003)


@pytest.mark.parametrize("num", [20, 100])
@pytest.mark.parametrize(("one", "other"), [(0.02, 0.02), (0.1, 0.02), (0.3, 0.2)])
def test_the_paired_interval_holds_what_it_promises(num, one, other):
    """Of 2,000 made-up experiments the true difference lies inside in 95 %, or in more where hardly anything differs."""
    draws = np.random.default_rng(1).multinomial(num, [one, other, 1 - one - other], 2000)
    intervals = [from_counts(first, second, num) for first, second, _ in draws]
    assert np.mean([low <= one - other <= high for low, high in intervals]) > 0.935


def test_where_nobody_asked_the_assigner_it_is_not_judged():
    verdict = adaptive_report(made(choice="shuffled"), COSTS, "logits", asks=False)["verdict"]
    assert verdict.startswith("The assigner was not asked")
    assert "chance" not in verdict


def test_baselines_say_what_lengths_they_take():
    evaluation = made(views=3)
    report = adaptive_report(evaluation, COSTS, "logits")
    assert report["random"]["share"] == report["adaptive"]["share"]
    for name in ("random", "oracle"):
        share = report[name]["share"]
        assert sum(share.values()) == pytest.approx(1)
        mean = sum(part * COSTS.grids[grid] for grid, part in share.items())
        assert report[name]["gmacs"] == pytest.approx(mean, rel=1e-12)
