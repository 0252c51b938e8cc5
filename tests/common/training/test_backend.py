"""One process: recomputed blocks, the loss scale of float16, states by parameter name."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounter, CompileCounterWithBackend

from revit.common.config.sections import OptimOptions, ParallelOptions, ScheduleOptions
from revit.common.data.batch import Batch
from revit.common.methods.revit.task import ResizableTask
from revit.common.models.grid import TokenGrid
from revit.common.training.optim import build_optimizer, build_scheduler
from revit.common.training.parallel.backend import LocalBackend, equip
from revit.common.training.parallel.optimizer_state import load_optimizer_state
from revit.image.models.transformers import DeiT
from revit.video.models.timesformer import TimeSformer

CPU = torch.device("cpu")


def small_model() -> TimeSformer:
    torch.manual_seed(3)
    return TimeSformer(16, [4, 2], 2, 3, 16, 2, 2, drop_path_rate=0.5, pos_std=0.5, time_std=0.5)


def prepared(network: nn.Module, dtype: str = "float32", **options) -> LocalBackend:
    backend = LocalBackend(CPU, dtype, options=ParallelOptions(**options))
    optimizer = build_optimizer(network, OptimOptions(name="adamw", lr=1e-3))
    backend.prepare(network, optimizer, build_scheduler(optimizer, ScheduleOptions(name="constant"), 1))
    return backend


def update(backend: LocalBackend, network: nn.Module, factor: float = 1.0) -> bool:
    clips = torch.randn(4, 3, 2, 16, 16, generator=torch.Generator().manual_seed(0))
    with backend.autocast():
        backend.backward(factor * network(clips).logits.square().mean())
    return backend.step()


def test_recomputed_blocks_draw_the_same_random_numbers():
    """Stochastic depth is on: a second draw in the backward pass would give another gradient."""
    states = []
    for recompute in (False, True):
        network = small_model().train()
        backend = prepared(network, activation_checkpointing=recompute)
        torch.manual_seed(7)
        for _ in range(3):
            assert update(backend, network)
        states.append(backend.state_dict())
        states[-1]["draw"] = torch.rand(1)
    assert torch.equal(states[0]["draw"], states[1]["draw"])
    for name, weight in states[0]["model"].items():
        assert torch.equal(weight, states[1]["model"][name]), name


class OneLayerPerGrid(nn.Module):
    """Of as many grids as a compiler makes no graphs for unasked."""

    def __init__(self) -> None:
        super().__init__()
        self.grids = tuple(TokenGrid(side, side) for side in range(12, 0, -1))
        self.layers = nn.ModuleDict({grid.name: nn.Linear(2, 2) for grid in self.grids})

    def forward(self, inputs: torch.Tensor, grid: TokenGrid) -> torch.Tensor:
        return self.layers[grid.name](inputs)


def test_every_token_grid_is_compiled(monkeypatch):
    """In training and in evaluation, and never again."""
    counter = CompileCounter()
    compiled = partial(torch.compile, backend=counter)
    monkeypatch.setattr(torch, "compile", lambda function, *given, **more: compiled(function))
    torch.compiler.reset()
    network = OneLayerPerGrid()
    # The last: instead of going on uncompiled.
    limits = {"recompile_limit": 8, "accumulated_recompile_limit": 8, "fail_on_recompile_limit_hit": True}
    with torch._dynamo.config.patch(limits):
        equip(network, ParallelOptions(compile=True))
        for _ in range(2):
            for grid in network.grids:
                network.train()(torch.ones(1, 2), grid)
                with torch.no_grad():
                    network.eval()(torch.ones(1, 2), grid)
    assert counter.frame_count == 2 * len(network.grids)


@pytest.mark.parametrize(("kind", "dtype"), [("pictures", "float32"), ("clips", "bfloat16")])
def test_one_graph_per_token_grid_in_training_and_one_in_evaluation(monkeypatch, kind, dtype):
    """With accumulated batches, a last short batch of evaluation, and later epochs: nothing is compiled again."""
    counter = CompileCounterWithBackend("eager")
    compiled = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function, **_: compiled(function, backend=counter))
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    grids, frames = ["4x4", "3x3", "2x2"], (2,) if kind == "clips" else ()
    model: nn.Module = DeiT(12, grids, 3, 16, 1, 2)
    if kind == "clips":
        model = TimeSformer(12, grids, 2, 3, 16, 2, 2, drop_path_rate=0.5)
    backend = LocalBackend(CPU, dtype, accumulate=2, clip_grad_norm=1.0, options=ParallelOptions(compile=True))
    optimizer = build_optimizer(model, OptimOptions(name="adamw", lr=1e-3))
    backend.prepare(model, optimizer, build_scheduler(optimizer, ScheduleOptions(name="constant"), 1))
    for _ in range(2):
        model.train()
        for _ in range(4):
            numbers = torch.arange(4) % 3
            with backend.autocast():
                batch = Batch(torch.empty(0), numbers, numbers)
                for _, loss in ResizableTask().losses(model, torch.randn(4, 3, *frames, 12, 12), batch):
                    backend.backward(loss)
            backend.step()
        assert counter.frame_count in (len(grids), 2 * len(grids))
        model.eval()
        with torch.inference_mode(), backend.autocast():
            for size in (5, 5, 2):
                for grid in model.grids:
                    assert model(torch.randn(size, 3, *frames, 12, 12), grid).logits.isfinite().all()
        assert counter.frame_count == 2 * len(grids)
    assert not torch._dynamo.utils.counters["graph_break"]
    torch.compiler.reset()


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_bfloat16_learns_and_keeps_float32_weights(name):
    torch.manual_seed(0)
    network = TimeSformer(16, [4, 2], 2, 3, 16, 2, 2)
    backend = LocalBackend(CPU, "bfloat16")
    optimizer = build_optimizer(network, OptimOptions(name=name, lr={"sgd": 0.05, "adamw": 5e-3}[name]))
    called = backend.prepare(network, optimizer, build_scheduler(optimizer, ScheduleOptions(name="constant"), 1))
    classes = torch.arange(12) % 3
    clips = classes.view(-1, 1, 1, 1, 1) - 1 + 0.1 * torch.randn(12, 3, 2, 16, 16)
    first, last = {}, {}
    for _ in range(40):
        with backend.autocast():
            for grid, loss in ResizableTask().losses(called, clips, Batch(clips, classes, classes)):
                backend.backward(loss)
                last[grid] = float(loss.detach())
        first = first or dict(last)
        assert backend.step()
    assert all(last[grid] < 0.5 * first[grid] for grid in ("4x4", "2x2"))
    state = backend.state_dict()
    tensors = [*state["model"].values(), *(one for kept in state["optimizer"].values() for one in kept.values())]
    assert {tensor.dtype for tensor in tensors} == {torch.float32}


def test_recomputing_calls_every_block_twice():
    network, calls = small_model().train(), []
    network.blocks[0].mlp.fc1.register_forward_hook(lambda *_: calls.append(1))
    update(prepared(network, activation_checkpointing=True), network)
    assert len(calls) == 2
    with torch.no_grad():
        network(torch.randn(1, 3, 2, 16, 16))
    assert len(calls) == 3


def test_a_network_without_blocks_is_left_as_it_is():
    """The assigner is trained with the same engine."""
    prepared(nn.Linear(2, 2), activation_checkpointing=True)


def test_float16_skips_what_overflows_and_keeps_its_scale():
    network = small_model().train()
    backend = prepared(network, "float16")
    before = backend.state_dict()
    assert not update(backend, network, factor=float(torch.finfo(torch.float32).max) / 2**14)
    after = backend.state_dict()
    assert backend.num_updates == 0
    assert after["scaler"] == {"scale": before["scaler"]["scale"] / 2, "good_updates": 0}
    for name, weight in before["model"].items():
        assert torch.equal(weight, after["model"][name])
    assert update(backend, network)
    again = prepared(small_model(), "float16")
    again.load_state_dict(backend.state_dict())
    assert again.state_dict()["scaler"] == {"scale": before["scaler"]["scale"] / 2, "good_updates": 1}


def test_a_state_is_by_name_and_stays_as_it_was_saved():
    network = small_model().train()
    backend = prepared(network)
    assert backend.state_dict()["optimizer"] == {}
    update(backend, network)
    state = backend.state_dict()
    assert set(state["optimizer"]["head.weight"]) == {"step", "exp_avg", "exp_avg_sq"}
    kept = state["optimizer"]["head.weight"]["exp_avg"].clone()
    other_network = small_model().train()
    other = prepared(other_network)
    other.load_state_dict(state)
    update(other, other_network)
    update(backend, network)
    assert torch.equal(state["optimizer"]["head.weight"]["exp_avg"], kept)


def test_a_state_of_other_parameters_is_refused():
    network = nn.Linear(2, 2)
    optimizer = build_optimizer(network, OptimOptions())
    with pytest.raises(ValueError, match="neck"):
        load_optimizer_state(optimizer, network, {"neck": {"momentum_buffer": torch.zeros(2)}})
