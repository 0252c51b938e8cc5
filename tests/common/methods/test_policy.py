"""Thresholds for a wanted mean cost, whatever an assigner says."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from revit.common.methods.revit.adaptive import (
    AdaptiveClassifier,
    LengthPolicy,
    Steps,
    assign_at_random,
    dither,
    dithered,
    grid_index_at,
    score_grids,
)

PRICES = {2: [4.0, 1.0], 3: [4.0, 2.0, 1.0], 4: [8.0, 4.0, 2.0, 1.0]}
ASSIGNER = 0.1


def inputs(number, seed=0):
    return torch.randn(number, 3, 12, 12, generator=torch.Generator().manual_seed(seed))


class Says(nn.Module):
    """An assigner that reads its logits off the first pixels, times a factor."""

    def __init__(self, num_grids, factor=1.0):
        super().__init__()
        self.num_grids, self.factor = num_grids, factor

    def forward(self, inputs):
        return self.factor * inputs[:, 0, 0, : self.num_grids]


ASSIGNERS = {"plain": 1.0, "saturated": 1e4, "constant": 0.0, "nearly constant": 1e-6}


@pytest.mark.parametrize("num_grids", PRICES)
@pytest.mark.parametrize("factor", ASSIGNERS.values(), ids=ASSIGNERS)
def test_every_mean_cost_is_reached_to_within_a_sample(num_grids, factor):
    prices, shown = PRICES[num_grids], inputs(300)
    scores = dithered(score_grids(Says(num_grids, factor)(shown)), dither(shown))
    steps = Steps.of(scores, prices, ASSIGNER)
    one = (prices[0] - prices[-1]) / len(shown)
    table = torch.tensor(prices)
    for share in torch.linspace(0, 1, 53).tolist():
        target = prices[-1] + share * (prices[0] - prices[-1]) + ASSIGNER
        grid_index = grid_index_at(scores, steps.threshold(target))
        assert float(table[grid_index].mean()) + ASSIGNER == pytest.approx(target, abs=1.01 * one)


def test_many_inputs_are_kept_in_fewer_steps():
    shown = inputs(9000)
    scores = dithered(score_grids(Says(3)(shown)), dither(shown))
    steps = Steps.of(scores, PRICES[3], 0.0)
    assert len(steps.gmacs) == 2000
    assert list(steps.gmacs) == sorted(steps.gmacs)
    assert list(steps.thresholds) == sorted(steps.thresholds)
    found = grid_index_at(scores, steps.threshold(2.5))
    assert float(torch.tensor(PRICES[3])[found].mean()) == pytest.approx(2.5, abs=3.0 * 5 / 9000)


@pytest.mark.parametrize("confidence", [0.05, 0.5, 0.85])
def test_scores_are_the_log_odds_of_the_rule_by_confidence(confidence):
    shown = inputs(200)
    classifier = AdaptiveClassifier(_Grids(3), Says(3), confidence=confidence)
    threshold = torch.tensor(confidence).logit()
    assert torch.equal(classifier.assign(shown), grid_index_at(score_grids(Says(3)(shown)), float(threshold)))


def test_scores_never_rise_along_a_row_and_tell_sure_from_surer():
    scores = score_grids(1e3 * torch.randn(100, 4))
    assert bool((scores[:, 1:] <= scores[:, :-1]).all())
    sure = score_grids(torch.tensor([[0.0, 60.0], [0.0, 90.0]])).flatten()
    assert sure[0] < sure[1]  # both probabilities are 1 in float32


def test_the_dither_is_even_and_an_inputs_own():
    shown = inputs(4000)
    spread = dither(shown)
    assert float(spread.min()) >= 0
    assert float(spread.max()) < 1
    counts = torch.histc(spread, 10, 0, 1)
    assert float((counts - 400).abs().max()) < 90  # four and a half standard deviations
    order = torch.randperm(4000)
    assert torch.equal(dither(shown[order]), spread[order])
    assert torch.equal(torch.cat([dither(part) for part in shown.split(7)]), spread)
    assert len(spread.unique()) > 3990


@pytest.mark.parametrize("target", [1.0, 1.3, 2.0, 3.1, 4.0])
def test_dealt_lengths_cost_what_is_asked(target):
    grid_index = assign_at_random(dither(inputs(20_000)), PRICES[3], target)
    assert float(torch.tensor(PRICES[3])[grid_index].mean()) == pytest.approx(target, abs=0.03)
    used = set(grid_index.tolist())
    assert used == {1.0: {2}, 1.3: {1, 2}, 2.0: {1}, 3.1: {0, 1}, 4.0: {0}}[target]


class _Grids(nn.Module):
    """As much of a model as assigning needs."""

    def __init__(self, number):
        super().__init__()
        self.grids = tuple(range(number))


def run(policy, shown, assigner, batch=16):
    parts = [policy(part, assigner) for part in shown.split(batch)]
    table = torch.tensor(policy.prices)
    return float(table[torch.cat(parts)].mean()) + policy.assigner_price


@pytest.mark.parametrize("factor", ASSIGNERS.values(), ids=ASSIGNERS)
@pytest.mark.parametrize("target", [1.3, 2.0, 3.5])
def test_a_cost_is_held_where_inputs_are_harder_than_calibrated(factor, target):
    """Everything later is two standard deviations harder; open, the policy would spend far more."""
    shown, prices = inputs(400), PRICES[2]
    steps = Steps.of(dithered(score_grids(Says(2, factor)(shown)), dither(shown)), prices, ASSIGNER)
    later = inputs(3000, seed=1)
    later[:, 0, 0, 0] += 2.0
    policy = LengthPolicy(target, prices, ASSIGNER, steps)
    assert run(policy, later, Says(2, factor)) == pytest.approx(target, rel=0.1)
    assert policy.mean == pytest.approx(run_mean(policy), rel=1e-9)
    if factor == 1.0:
        assert run(LengthPolicy(target, prices, ASSIGNER, steps, hold=False), later, Says(2)) > 1.15 * target


def run_mean(policy):
    total = sum(count * (price + policy.assigner_price) for count, price in zip(policy.counts, policy.prices))
    return total / policy.num_inputs


@pytest.mark.parametrize("target", [1.05, 1.7, 2.5, 3.9])
def test_a_held_cost_is_within_three_percent_on_alike_inputs(target):
    shown, later = inputs(500), inputs(1500, seed=1)
    steps = Steps.of(dithered(score_grids(Says(2)(shown)), dither(shown)), PRICES[2], 0.0)
    assert run(LengthPolicy(target, PRICES[2], 0.0, steps), later, Says(2)) == pytest.approx(target, rel=0.03)


def test_without_holding_an_input_gets_the_same_grid_in_any_company():
    shown = inputs(100)
    steps = Steps.of(dithered(score_grids(Says(2)(shown)), dither(shown)), PRICES[2], 0.0)
    policy = LengthPolicy(2.0, PRICES[2], 0.0, steps, hold=False)
    alone = torch.cat([policy(one, Says(2)) for one in shown.split(1)])
    assert torch.equal(policy(shown, Says(2)), alone)


@pytest.mark.parametrize("end", [0, 1])
def test_the_ends_are_the_fixed_grids_and_ask_nobody(end):
    policy = LengthPolicy(PRICES[2][end], PRICES[2], ASSIGNER, None, hold=False)
    classifier = AdaptiveClassifier(_Grids(2), None)
    classifier.policy = policy
    assert set(classifier.assign(inputs(500)).tolist()) == {end}
    assert policy.mean == PRICES[2][end]
