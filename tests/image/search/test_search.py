"""The policy, its rewards, and the space it draws from."""

from __future__ import annotations

import math

import pytest
import torch

from revit.image.models.genotype import SEED_TOPOLOGY
from revit.image.search.search import (
    CHOICES,
    PAPER_MEANS,
    UNIFORM_ENTROPY,
    MovingBaseline,
    Policy,
    RangeReward,
    topology,
    values_of,
)


def test_the_space_is_the_papers():
    assert len(CHOICES) == 12
    assert pytest.approx(5 * math.log(5) + 6 * math.log(3) + math.log(2)) == UNIFORM_ENTROPY
    assert pytest.approx(15.3, abs=0.05) == UNIFORM_ENTROPY
    assert PAPER_MEANS.keys() == CHOICES.keys()


def test_topologies_read_back():
    values = {name: choices[-1] for name, choices in CHOICES.items()}
    assert values_of(topology(list(values.values()))) == values
    assert topology(list(values_of(SEED_TOPOLOGY).values())) == SEED_TOPOLOGY


def test_a_new_policy_is_nearly_uniform():
    policy = Policy([len(values) for values in CHOICES.values()], seed=8)
    assert policy.entropy() == pytest.approx(UNIFORM_ENTROPY, abs=1e-4)
    drawn = [Policy([4, 2], seed).draw(0) for seed in range(400)]
    shares = [sum(one[0] == value for one in drawn) / 400 for value in range(4)]
    assert all(0.15 < share < 0.35 for share in shares)


def test_draws_depend_on_seed_step_and_logits_alone():
    one, other = Policy([5, 3], 1), Policy([5, 3], 1)
    assert [one.draw(step) for step in (3, 1, 2)] == [other.draw(step) for step in (3, 1, 2)]
    assert [one.draw(step) for step in range(20)] != [Policy([5, 3], 2).draw(step) for step in range(20)]


def test_the_gradient_is_that_of_the_policy():
    """softmax - one-hot, times the advantage."""
    policy = Policy([3], 0)
    before = policy.logits[0].detach().softmax(0)
    policy.update((1,), 2.0)
    expected = 2.0 * (before - torch.tensor([0.0, 1.0, 0.0]))
    torch.testing.assert_close(policy.logits[0].grad, expected.double())


def test_a_policy_learns_what_is_rewarded():
    policy = Policy([4, 4], 3)
    for step in range(150):
        drawn = policy.draw(step)
        policy.update(drawn, float(drawn[0] == 2) - float(drawn[1] == 1))
    assert policy.best()[0] == 2
    assert policy.draw(1000)[1] != 1
    assert policy.entropy() < 2.0


def test_rewards_are_changes_over_the_range():
    reward = RangeReward("all")
    assert reward(1.0, 10.0) == 0
    assert reward(3.0, 10.0) == pytest.approx(1.0, abs=1e-5)  # 2 / 2 - 0
    assert reward(2.0, 30.0) == pytest.approx(-0.5 - 1, abs=1e-5)


def test_the_range_is_of_the_last_twenty_or_of_all():
    recent, every = RangeReward("recent"), RangeReward("all")
    for rewards in (recent, every):
        rewards(100.0, 1.0)
        for number in range(20):
            rewards(float(number % 2), 1.0)
    assert (recent.window, every.window) == ("recent", "all")
    assert recent(0.0, 1.0) == pytest.approx(-1, abs=1e-5)
    assert every(0.0, 1.0) == pytest.approx(-1 / 100, abs=1e-5)


def test_what_cannot_be_measured_is_the_worst_so_far():
    reward, same = RangeReward("all"), RangeReward("all")
    assert reward(math.nan, math.nan) == 0  # nothing to compare with yet
    for rewards in (reward, same):
        rewards(1.0, 5.0)
        rewards(3.0, 2.0)
    assert reward(math.nan, 1.0) == same(1.0, 5.0) == pytest.approx(-2, abs=1e-5)
    assert reward(3.0, math.inf) == 0  # as bad as the one before
    assert reward(3.0, 2.0) == pytest.approx(2, abs=1e-5)


def test_the_baseline_is_an_average_corrected_for_its_start():
    baseline = MovingBaseline(0.9)
    assert baseline.advantage(4.0) == pytest.approx(0)
    average = (0.9 * 0.1 * 4 + 0.1 * 1) / (0.9 * 0.1 + 0.1)
    assert baseline.advantage(1.0) == pytest.approx(1 - average)
    assert MovingBaseline(0).advantage(2.0) == 0
