"""Decisions about positions, against references that go through samples and positions one by one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from revit.common.models.grid import TokenGrid
from revit.common.models.reducer import (
    Decision,
    Shorter,
    TokenLayout,
    Weighted,
    kept_positions,
    restore_merged,
    rows_of,
    token_source_maps,
)

B = 3


def draw(generator: torch.Generator, high: int, low: int = 0) -> int:
    return int(torch.randint(low, high, (), generator=generator))


def shorter(generator: torch.Generator, S: int, merges: bool) -> Shorter:
    """Some of S positions in any order; the others dropped, or each merged into any of them."""
    K = draw(generator, S + 1, 1)
    kept = torch.stack([torch.randperm(S, generator=generator)[:K] for _ in range(B)])
    if not merges:
        return Shorter(kept, S)
    slots = torch.randint(0, K, (B, S), generator=generator)
    return Shorter(kept, S, slots.scatter(1, kept, torch.arange(K).expand(B, -1)))


def weighted(generator: torch.Generator, S: int) -> Weighted:
    return Weighted(torch.randint(0, 2, (B, S), generator=generator).float())


def layout_of(S: int, T: int = 1, P: int = 1) -> TokenLayout:
    return TokenLayout(TokenGrid(1, S), num_prefix=P, num_positions=S, num_frames=T)


def applied_one_by_one(decision: Shorter, x: Tensor) -> Tensor:
    rows = []
    for b in range(B):
        sample = []
        for slot, position in enumerate(decision.kept[b].tolist()):
            members = [position]
            if decision.slots is not None:
                members = [s for s in range(x.shape[1]) if int(decision.slots[b, s]) == slot]
            sample.append(torch.stack([x[b, s] for s in members]).mean(dim=0))
        rows.append(torch.stack(sample))
    return torch.stack(rows)


def followed(decisions: list[Decision], b: int, position: int) -> list[int]:
    """One position of one sample through all decisions: after each, who stands for it."""
    S = decisions[0].slot_map().shape[1]
    tokens: list[int] = list(range(S))  # positions of the first sequence, in the order of the present tokens
    owner: int | None = position
    fates = []
    for decision in decisions:
        if isinstance(decision, Shorter):
            kept = [tokens[k] for k in decision.kept[b].tolist()]
            if owner is not None:
                now = tokens.index(owner)
                if decision.slots is not None:
                    owner = kept[int(decision.slots[b, now])]
                elif owner not in kept:
                    owner = None
            tokens = kept
        else:
            assert isinstance(decision, Weighted)
            if owner is not None and float(decision.keep[b, tokens.index(owner)]) == 0:
                owner = None
        fates.append(-1 if owner is None else owner)
    return fates


@pytest.mark.parametrize("merges", [False, True])
@pytest.mark.parametrize("shape", [(), (5,), (2, 4)])
def test_applying_is_picking_and_averaging(merges, shape):
    for seed in range(10):
        generator = torch.Generator().manual_seed(seed)
        S = draw(generator, 9, 1)
        decision = shorter(generator, S, merges)
        x = torch.randn(B, S, *shape, generator=generator, dtype=torch.float64, requires_grad=True)
        y = x.detach().clone().requires_grad_()
        ours, theirs = decision.apply(x), applied_one_by_one(decision, y)
        assert torch.allclose(ours, theirs)
        weights = torch.randn(ours.shape, generator=generator, dtype=torch.float64)
        (ours * weights).sum().backward()
        (theirs * weights).sum().backward()
        assert torch.allclose(x.grad, y.grad)


def test_merging_keeps_the_sum_of_all_tokens():
    decision = shorter(torch.Generator().manual_seed(0), 12, merges=True)
    x = torch.randn(B, 12, 4)
    counts = torch.zeros_like(decision.kept).scatter_add(1, decision.slots, torch.ones_like(decision.slots))
    assert torch.allclose((decision.apply(x) * counts[..., None]).sum(dim=1), x.sum(dim=1), atol=1e-5)


def test_many_tokens_are_averaged_exactly_in_low_precision():
    S = 600
    decision = Shorter(torch.zeros(1, 1, dtype=torch.long), S, torch.zeros(1, S, dtype=torch.long))
    assert decision.apply(torch.zeros(1, S, 2, dtype=torch.bfloat16)).tolist() == [[[0, 0]]]
    counted = decision.apply(torch.eye(S).unsqueeze(0))
    assert torch.allclose(counted, torch.full((1, 1, S), 1 / S))


def test_restoring_puts_every_token_back_and_zeros_elsewhere():
    for seed in range(10):
        generator = torch.Generator().manual_seed(seed)
        decision = shorter(generator, 7, merges=False)
        x = torch.randn(B, 7, 3, generator=generator)
        back = decision.restore(decision.apply(x))
        for b in range(B):
            for s in range(7):
                wanted = x[b, s] if s in decision.kept[b].tolist() else torch.zeros(3)
                assert torch.equal(back[b, s], wanted)


@pytest.mark.parametrize("T", [1, 3])
@pytest.mark.parametrize("P", [1, 2])
def test_carrying_out_leaves_the_prefix_and_keeps_frames_together(T, P):
    generator = torch.Generator().manual_seed(1)
    decision = shorter(generator, 6, merges=True)
    tokens = torch.randn(B, P + 6 * T, 4, generator=generator)
    after, layout = decision.carry_out(tokens, layout_of(6, T, P))
    assert torch.equal(after[:, :P], tokens[:, :P])
    assert (layout.num_positions, layout.num_frames, layout.decisions) == (decision.kept.shape[1], T, (decision,))
    for t in range(T):
        frame = applied_one_by_one(decision, tokens[:, P + t :: T])
        assert torch.allclose(after[:, P + t :: T], frame, atol=1e-6)


def test_weights_go_with_their_tokens():
    generator = torch.Generator().manual_seed(2)
    first, second = weighted(generator, 6), shorter(generator, 6, merges=True)
    tokens, layout = first.carry_out(torch.randn(B, 7, 2), layout_of(6))
    assert torch.equal(layout.keep, first.keep)
    _, layout = second.carry_out(tokens, layout)
    assert torch.equal(layout.keep, first.keep.gather(1, second.kept))


def test_source_maps_and_kept_positions_after_any_sequence_of_decisions():
    for seed in range(60):
        generator = torch.Generator().manual_seed(seed)
        S = size = draw(generator, 9, 1)
        decisions: list[Decision] = []
        for _ in range(draw(generator, 5, 1)):
            kind = draw(generator, 3)
            decision = weighted(generator, size) if kind == 2 else shorter(generator, size, kind == 1)
            decisions.append(decision)
            if isinstance(decision, Shorter):
                size = decision.kept.shape[1]
        wanted = torch.tensor([[followed(decisions, b, s) for s in range(S)] for b in range(B)])
        assert torch.equal(torch.stack(token_source_maps(decisions), dim=-1), wanted)

        numbers = torch.arange(S).expand(B, -1)
        held = []
        for decision in decisions:
            if isinstance(decision, Shorter):
                numbers = torch.tensor([[int(row[k]) for k in kept] for row, kept in zip(numbers, decision.kept)])
                held.append(numbers)
        found = kept_positions(decisions)
        assert len(found) == len(held)
        assert all(torch.equal(a, b) for a, b in zip(found, held))


def test_the_way_back_undoes_what_merged_and_ends_at_what_dropped():
    generator = torch.Generator().manual_seed(3)
    dropped = shorter(generator, 9, merges=False)
    merged = shorter(generator, dropped.kept.shape[1], merges=True)
    again = shorter(generator, merged.kept.shape[1], merges=True)
    weigh = weighted(generator, merged.kept.shape[1])
    x = torch.randn(B, again.kept.shape[1], 2)
    back = restore_merged(x, [dropped, merged, weigh, again])
    assert torch.equal(back, merged.restore(again.restore(x)))
    assert torch.equal(restore_merged(x, []), x)
    assert torch.equal(restore_merged(x, [merged, dropped]), x)


def test_no_decision_has_no_maps():
    assert token_source_maps([]) == []


def test_rows_are_gathered_with_gradients():
    x = torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True)
    index = torch.tensor([[3, 3], [0, 2]])
    assert torch.equal(rows_of(x, index), torch.stack([x[0, [3, 3]], x[1, [0, 2]]]))
    assert torch.autograd.gradcheck(lambda y: rows_of(y, index), x)
