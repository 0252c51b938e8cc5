"""Token Expansion: how many tokens, which ones, and when."""

from __future__ import annotations

import copy
from fractions import Fraction

import numpy as np
import pytest
import torch
from reference_toe import added_at, chosen_of, merged, seeds_of, table_of

from revit.common.methods.toe import Growth, TokenExpansion, select, stage_rates
from revit.common.models.grid import TokenGrid
from revit.common.models.reducer import Shorter, TokenLayout

HALF = Growth((0.5, 0.75, 1.0), 0.25)


def layout_of(S: int, T: int = 1, P: int = 1) -> TokenLayout:
    return TokenLayout(TokenGrid(1, S), num_prefix=P, num_positions=S, num_frames=T)


def at_stage(growth: Growth, stage: int, width: int = 8, **settings) -> TokenExpansion:
    reducer = TokenExpansion(growth, width, **settings).train()
    reducer.stage = stage
    return reducer


def test_rates_rise_in_equal_steps_to_one():
    assert stage_rates(0.5, 3) == (0.5, 0.75, 1.0)
    assert stage_rates(0.4, 3) == (0.4, 0.7, 1.0)
    assert stage_rates(0.5, 4) == pytest.approx((1 / 2, 2 / 3, 5 / 6, 1))
    assert stage_rates(0.6, 1) == (0.6,)
    assert stage_rates(1.0, 3) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("first_rate", "paper", "published"),
    [
        (0.4, [78, 137, 196], [78, 136, 196]),
        (0.5, [98, 147, 196], [98, 147, 196]),
        (0.6, [117, 156, 196], [116, 155, 196]),
    ],
)
def test_counts_of_the_papers_rates(first_rate, paper, published):
    for rounding, counts in (("paper", paper), ("published", published)):
        growth = Growth(stage_rates(first_rate, 3), first_rate / 2, 2, rounding)
        assert [growth.num_kept(196, stage) for stage in (1, 2, 3)] == counts


def test_seeds_of_the_papers_rates():
    for rate, step, count in ((0.25, 4, 49), (0.2, 5, 39), (0.3, 3, 58)):
        assert Growth((0.5,), rate).seeds(196) == range(0, step * count, step)
    published = Growth((0.5,), 0.2, rounding="published").seeds(196)
    assert (len(published), published.step, published[-1]) == (39, 4, 152)


def test_paper_counts_are_exact_floors_and_repetitions_share_them():
    for N in range(1, 260, 7):
        for first in (0.3, 0.4, 0.5, 0.6, 0.7, 2 / 3):
            growth = Growth(stage_rates(first, 4), first / 2, 3)
            for stage, rate in enumerate(growth.keep_rates, start=1):
                wanted = max(1, Fraction(rate).limit_denominator(1000) * N // 1)
                assert growth.num_kept(N, stage) == wanted
                steps = growth.additions(N, stage)
                assert len(steps) == 3 * stage
                for a, b, last in zip(steps[::3], steps[1::3], steps[2::3]):
                    assert a == b <= last <= a + 2


@pytest.mark.parametrize("rounding", ["paper", "published"])
def test_any_number_of_positions_is_counted_without_overflow(rounding):
    for N in range(1, 40):
        for rates in ((0.5, 0.75, 1.0), (0.1, 0.2, 0.9), (1.0,), (0.3, 1.0, 1.0)):
            growth = Growth(rates, min(rates) / 2, 2, rounding)
            counts = [growth.num_kept(N, stage) for stage in range(1, len(rates) + 1)]
            assert counts == sorted(counts)
            assert 1 <= counts[0] <= counts[-1] <= N
            assert all(count >= 0 for count in growth.additions(N, len(rates)))


@pytest.mark.parametrize("rounding", ["paper", "published"])
def test_selection_equals_the_loop_written_one(rounding):
    draw = np.random.default_rng(5)
    compared = 0
    for _ in range(60):
        N, D, stages, k = (int(draw.integers(*ends)) for ends in ((4, 30), (3, 12), (1, 5), (1, 4)))
        rates = np.sort(draw.uniform(0.25, 1, stages + 1)).round(2).tolist()
        stage = int(draw.integers(1, stages + 1))
        growth = Growth(tuple(rates[1:]), rates[0], k, rounding)
        sample = draw.standard_normal((N, D))
        table = table_of(sample)
        wanted, gap = chosen_of(table, rates[0], rates[1:], stage, k, rounding)
        tokens, merge_gap = merged(sample, table, wanted)
        if min(gap, merge_gap) < 1e-6:
            continue
        compared += 1
        assert list(growth.seeds(N)) == seeds_of(N, rates[0], rounding)
        added = [added_at(N, rates[0], rates[1:], number, rounding) for number in range(1, stage + 1)]
        assert [sum(growth.additions(N, number)) for number in range(1, stage + 1)] == np.cumsum(added).tolist()
        features = torch.from_numpy(sample)[None]
        kept, slots = select(features, growth.seeds(N), growth.additions(N, stage))
        assert kept[0].tolist() == wanted
        assert torch.allclose(Shorter(kept, N, slots).apply(features)[0], torch.from_numpy(tokens))
    assert compared > 50


def test_every_position_goes_to_the_selected_one_it_is_most_similar_to():
    features = torch.randn(3, 40, 16)
    kept, slots = select(features, HALF.seeds(40), HALF.additions(40, 2))
    unit = torch.nn.functional.normalize(features, dim=2)
    similarity = (unit @ unit.mT).gather(2, kept[:, None].expand(-1, 40, -1))
    similarity.scatter_(1, kept[..., None].expand(-1, -1, similarity.shape[2]), -2.0)
    own = torch.arange(kept.shape[1]).expand(3, -1)
    similarity.scatter_(1, kept[..., None].expand(-1, -1, kept.shape[1]), torch.eye(kept.shape[1]).expand(3, -1, -1))
    assert torch.equal(slots, similarity.argmax(dim=2))
    assert torch.equal(slots.gather(1, kept), own)
    assert all(len(set(row.tolist())) == kept.shape[1] for row in kept)


def test_samples_are_chosen_for_one_by_one():
    features = torch.randn(4, 30, 8)
    together = select(features, HALF.seeds(30), HALF.additions(30, 2))
    for number in range(4):
        alone = select(features[number : number + 1], HALF.seeds(30), HALF.additions(30, 2))
        assert all(torch.equal(a[number], b[0]) for a, b in zip(together, alone))


def test_of_equals_the_earlier_is_taken_and_zeros_are_similar_to_none():
    kept, slots = select(torch.ones(1, 8, 4), range(0, 2, 1), [2])
    assert kept.tolist() == [[0, 1, 2, 3]]
    assert slots.tolist() == [[0, 1, 2, 3, 0, 0, 0, 0]]
    features = torch.tensor([[[1.0, 0], [1, 0.1], [0, 0], [1, 0.2]]])
    kept, _ = select(features, range(0, 1), [1])
    assert kept.tolist() == [[0, 2]]


def test_autocast_does_not_change_the_choice():
    features = torch.randn(2, 60, 32)
    plain = select(features, HALF.seeds(60), HALF.additions(60, 1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = select(features, HALF.seeds(60), HALF.additions(60, 1))
    assert all(torch.equal(a, b) for a, b in zip(plain, low))


@pytest.mark.parametrize("P", [0, 1, 2])
@pytest.mark.parametrize("T", [1, 3])
def test_the_prefix_is_not_touched_and_frames_share_one_choice(P, T):
    tokens = torch.randn(2, P + 20 * T, 8, requires_grad=True)
    after, layout = at_stage(HALF, 1)(1, tokens, layout_of(20, T, P))
    assert after.shape == (2, P + 10 * T, 8)
    assert torch.equal(after[:, :P], tokens[:, :P])
    assert (layout.num_positions, layout.num_frames) == (10, T)
    after.sum().backward()
    # The mean gives every member of a group the same share, and all groups' shares add up.
    assert torch.allclose(tokens.grad[:, :P], torch.ones(2, P, 8))
    assert torch.allclose(tokens.grad[:, P:].sum(dim=1), torch.full((2, 8), 10.0 * T), atol=1e-4)


def test_frames_count_side_by_side_and_not_by_their_mean():
    """Positions 1 and 2 have the same mean over frames as position 0, but only 2 is like it in every frame."""
    first, second = torch.tensor([1.0, 0, 0]), torch.tensor([0.0, 1, 0])
    patches = torch.stack(
        [torch.stack([first, second]), torch.stack([second, first]), torch.stack([first, second]) * 2]
    )
    kept, slots = select(patches.flatten(1)[None], range(0, 1), [1])
    assert kept.tolist() == [[0, 1]]
    assert slots.tolist() == [[0, 1, 0]]


def test_the_last_stage_of_rate_one_plans_nothing():
    tokens, layout = torch.randn(2, 21, 8), layout_of(20)
    after, same = at_stage(HALF, 3)(1, tokens, layout)
    assert after is tokens
    assert same is layout
    whole = at_stage(Growth((0.5, 0.9), 0.25), 2)(1, tokens, layout)[1]
    assert whole.num_positions == 18


def test_it_plans_before_its_block_and_in_training_only():
    patches, layout = torch.randn(2, 20, 1, 8), layout_of(20)
    reducer = at_stage(HALF, 1, before_block=2)
    assert [reducer.plan(number, patches, layout) is not None for number in range(4)] == [False, False, True, False]
    assert reducer.eval().plan(2, patches, layout) is None
    assert reducer.positions_per_block(20, 4) == [20] * 4
    assert reducer.macs(20) == {}
    sparse = at_stage(HALF, 1, before_block=2, evaluation_stage=2).eval()
    assert sparse.plan(2, patches, layout).kept.shape == (2, 15)
    assert sparse.positions_per_block(20, 4) == [20, 20, 15, 15]
    assert sparse.macs(20, 3) == {"attention": 20 * 15 * 3 * 8}


@pytest.mark.parametrize("S", [1, 2, 3, 4, 5])
def test_few_positions_do_not_fail(S):
    for rounding in ("paper", "published"):
        for stage in (1, 2, 3):
            growth = Growth((0.5, 0.75, 1.0), 0.25, 2, rounding)
            tokens, layout = at_stage(growth, stage)(1, torch.randn(2, 1 + S, 8), layout_of(S))
            assert tokens.shape[1] == 1 + layout.num_positions
            assert 1 <= layout.num_positions <= S


def test_it_has_no_weights_and_can_be_copied():
    reducer = at_stage(HALF, 2)
    assert not reducer.state_dict()
    assert copy.deepcopy(reducer).growth == HALF


@pytest.mark.parametrize("rounding", ["paper", "published"])
@pytest.mark.parametrize("rate", [1e-7, 1e-300])
def test_the_smallest_rates_keep_one_token(rounding, rate):
    growth = Growth((rate, 1.0), rate, rounding=rounding)
    assert list(growth.seeds(49)) == [0]
    assert growth.num_kept(49, 1) == 1
