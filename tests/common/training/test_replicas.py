"""A replica per token length trains what Algorithm 1 trains, with two, three and four processes."""

from __future__ import annotations

import json

import pytest
import run_replicas
import torch
import torch.distributed as dist
from ranks import run_ranks
from torch import nn

from revit.common.config.sections import ReplicaOptions
from revit.common.models.grid import longest_first
from revit.common.system.errors import UserError
from revit.common.training.parallel.gradient_sum import BufferMean, GradientSum
from revit.common.training.parallel.replicas import ReplicaBackend, block_cost, place_grids

PAPER = longest_first([14, 10, 7])


@pytest.mark.parametrize("processes", [2, 3, 4])
def test_replicas_equal_one_process(processes, tmp_path):
    out = tmp_path / "found.json"
    run_ranks(processes, run_replicas.main, str(out), folder=tmp_path)
    found = json.loads(out.read_text())
    assert found.pop("random", 0.0) < 1e-5
    assert found
    for name, case in found.items():
        assert case["same"], name
        assert all(case["ran"]), name
        assert case["updates"] == [5] * processes, name
        assert min(case["moved"]) > 1e-3, name
        for key in ("weights", "buffers", "losses", "gone on"):
            assert max(case[key]) < 1e-5, (name, key, case[key])


def names(placement) -> list[list[str]]:
    return [[grid.name for grid in grids] for grids in placement.grids_per_rank]


def options(**given) -> ReplicaOptions:
    return ReplicaOptions.model_validate(given)


def test_the_longest_grid_is_the_bottleneck():
    for size in (2, 4, 8):  # 10x10 and 7x7 cost less than 14x14 together
        placement = place_grids(PAPER, 384, options(), size - 1, size)
        assert names(placement) == [["14x14"], ["10x10", "7x7"]]
        assert (placement.num_groups, placement.group) == (size // 2, size // 2 - 1)
        assert placement.own == PAPER[1:]
        assert placement.owner(PAPER[0]) == size - 2
    assert str(placement) == "4 groups of 2 with token grids 14x14; 10x10 and 7x7"
    assert names(place_grids(PAPER, 384, options(), 0, 3)) == [["14x14"], ["10x10"], ["7x7"]]
    many = longest_first([14, 12, 10, 8, 7])
    placement = place_grids(many, 384, options(), 0, 4)
    longest, *others = (sum(block_cost(grid, 384) for grid in grids) for grids in placement.grids_per_rank)
    assert placement.ranks_per_group == 4
    assert all(load <= longest for load in others)
    assert sorted(name for mine in names(placement) for name in mine) == sorted(grid.name for grid in many)


def test_what_cannot_be_balanced_is_shared_all_the_same():
    grids = longest_first([14, 13, 12])  # three ranks would be balanced, and two processes are no multiple of three
    assert names(place_grids(grids, 384, options(), 0, 2)) == [["14x14"], ["13x13", "12x12"]]


def test_keys_decide():
    listed = options(grids_per_rank=[["7x7", "14x14"], [10]])
    assert names(place_grids(PAPER, 384, listed, 0, 2)) == [["14x14", "7x7"], ["10x10"]]
    assert names(place_grids(PAPER, 384, options(ranks_per_group=3), 0, 6)) == [["14x14"], ["10x10"], ["7x7"]]
    alone = place_grids(PAPER, 384, options(ranks_per_group=1), 2, 5)
    assert (alone.own, alone.group, alone.num_groups) == (PAPER, 2, 5)


def test_one_grid_or_none_is_data_parallelism():
    for grids in ((), PAPER[:1]):
        placement = place_grids(grids, 384, options(), 2, 3)
        assert (placement.own, placement.group, placement.num_groups) == (tuple(grids), 2, 3)


@pytest.mark.parametrize(
    ("given", "size", "part"),
    [
        ({}, 5, "groups of 2 ranks, and 5 processes"),
        ({"ranks_per_group": 2}, 3, "groups of 2 ranks, and 3 processes"),
        ({"ranks_per_group": 4}, 4, "more than the model has grids"),
        ({"grids_per_rank": [["14x14"], ["7x7"]]}, 2, "belongs to exactly one rank"),
        ({"grids_per_rank": [["14x14"], ["10x10", "7x7"], []]}, 3, "every rank has one"),
        ({"grids_per_rank": [["14x14"], ["10x10", "7x7", "7x7"]]}, 2, "belongs to exactly one rank"),
        ({"grids_per_rank": [["14x14"], ["many"]]}, 2, "not a token grid"),
        ({"grids_per_rank": [["14x14"], ["10x10", "7x7"]], "ranks_per_group": 3}, 3, "leave one of them out"),
    ],
)
def test_contradictions_name_the_numbers(given, size, part):
    with pytest.raises(UserError, match=part):
        place_grids(PAPER, 384, options(**given), 0, size)


@pytest.fixture
def world_of_one():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


class Towers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.unused = (nn.Linear(3, 3) for _ in range(3))


def test_buckets_leave_while_the_last_backward_pass_runs(world_of_one, monkeypatch):
    network, sent = Towers(), []
    sums = GradientSum(network, bucket_bytes=1)
    reduce = dist.all_reduce
    monkeypatch.setattr(
        dist, "all_reduce", lambda tensor, **given: sent.append(tensor.numel()) or reduce(tensor, **given)
    )
    x = torch.randn(2, 3)

    def update(*layers):
        for layer in layers:
            sums.backward_begins()
            layer(x).sum().backward()
        before_the_end = list(sent)
        sums.finish()
        grads = [None if one.grad is None else one.grad.clone() for one in network.parameters()]
        sums.restart()
        sent.clear()
        return before_the_end, grads

    early, first = update(network.first, network.second, network.second)
    assert early == []
    early, second = update(network.first, network.second, network.second)
    assert sorted(early) == [3, 3, 9, 9]
    for one, two in zip(first[:4], second[:4]):
        assert torch.equal(one, two)
    assert first[4:] == second[4:] == [None, None]  # what nobody needs stays without a gradient, and so unmoved


@pytest.mark.parametrize(("late", "order"), [("second", ("first", "second")), ("unused", ("unused", "first"))])
def test_a_gradient_that_comes_too_late_is_no_silent_error(world_of_one, late, order):
    network, x = Towers(), torch.randn(2, 3)
    sums = GradientSum(network, bucket_bytes=1)

    def update(*names):
        for name in names:
            sums.backward_begins()
            getattr(network, name)(x).sum().backward()
        sums.finish()
        sums.restart()

    update("second", "first")
    with pytest.raises(RuntimeError, match=late + r"\.(weight|bias) got a gradient"):
        update(*order)


def test_buffers_take_what_changed(world_of_one):
    network = nn.Sequential(nn.BatchNorm1d(2), nn.BatchNorm1d(2))
    mean = BufferMean(network, num_groups=1)
    network[0](torch.randn(4, 2))
    wanted = {key: value.clone() for key, value in network.state_dict().items()}
    mean.synchronise()
    assert all(torch.equal(value, wanted[key]) for key, value in network.state_dict().items())
    BufferMean(nn.Linear(1, 1), 1).synchronise()


def test_a_task_that_cannot_share_is_refused(monkeypatch):
    monkeypatch.setattr("revit.common.training.parallel.replicas.GroupExchange", lambda *given: None)
    placement = place_grids(PAPER, 384, options(), 0, 2)
    with pytest.raises(TypeError, match="no exchange"):
        ReplicaBackend(torch.device("cpu"), placement=placement).share(object())
