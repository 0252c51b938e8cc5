"""DynamicViT's reducer inside real models: what it equals, what it keeps, where its gradients go."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from revit.common.methods.dynamicvit.reducer import (
    DynamicViTReducer,
    TokenPredictor,
    default_stages,
    geometric_rates,
    num_kept,
)
from revit.common.models.base import ModelOutput
from revit.common.models.grid import TokenGrid
from revit.common.models.layers import attention
from revit.common.models.reducer import Reducer, Shorter, TokenLayout, Weighted
from revit.common.models.vit import ResizableTransformer
from revit.image.models.transformers import DeiT, LVViT
from revit.video.models.timesformer import TimeSformer

SMALL = {"embed_dim": 16, "depth": 4, "num_heads": 2, "num_classes": 3, "drop_path_rate": 0.0}
CLIP = {**SMALL, "num_frames": 3, "pos_std": 0.5, "time_std": 0.5, "temporal_fc_std": 0.1, "linear_std": 0.3}
PICTURE = {**SMALL, "pos_std": 0.5, "linear_std": 0.3}
MODELS = {
    "deit": lambda: DeiT(32, [4], **PICTURE),
    "distilled": lambda: DeiT(32, [4], distillation="every_grid", **PICTURE),
    "lvvit": lambda: LVViT(32, [4], **PICTURE),
    "divided_space_time": lambda: TimeSformer(32, [4], attention="divided_space_time", **CLIP),
    "joint_space_time": lambda: TimeSformer(32, [4], attention="joint_space_time", **CLIP),
    "space_only": lambda: TimeSformer(32, [4], attention="space_only", **CLIP),
}
every_model = pytest.mark.parametrize("kind", MODELS)
clips = pytest.mark.parametrize("kind", ["divided_space_time", "joint_space_time"])


def make(kind: str, rate: float = 0.7) -> tuple[ResizableTransformer, Tensor]:
    """A model with a reducer, in float64 and evaluation mode, and inputs."""
    torch.manual_seed(0)
    model = MODELS[kind]()
    stages = default_stages(len(model.blocks))
    model.reducer = DynamicViTReducer(model.embed_dim, stages, geometric_rates(rate, len(stages)))
    for predictor in model.reducer.score_predictor:
        for layer in predictor.modules():
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
    shape = (2, 3, 3, 32, 32) if isinstance(model, TimeSformer) else (2, 3, 32, 32)
    return model.double().eval(), torch.randn(shape, dtype=torch.float64)


def always(model: ResizableTransformer, answer: float) -> None:
    """Have every predictor be sure: 1 keeps everything, -1 drops everything."""
    for predictor in model.reducer.score_predictor:
        last = predictor.out_conv[4]
        nn.init.zeros_(last.weight)
        last.bias.data = torch.tensor([1e3 * answer, 0.0], dtype=last.bias.dtype)


def without(model: ResizableTransformer, inputs: Tensor) -> ModelOutput:
    reducer, model.reducer = model.reducer, None
    try:
        return model(inputs)
    finally:
        model.reducer = reducer


@every_model
@torch.no_grad()
def test_keeping_everything_equals_the_plain_model(kind):
    model, inputs = make(kind, rate=1.0)
    output, plain = model(inputs), without(model, inputs)
    assert float((output.prediction - plain.prediction).abs().max()) < 1e-6


@every_model
@torch.no_grad()
def test_training_that_keeps_everything_equals_the_plain_model(kind):
    model, inputs = make(kind)
    always(model, 1)
    model.train()
    output, plain = model(inputs), without(model, inputs)
    assert all(bool((keep == 1).all()) for keep in output.reduction.weights)
    assert float((output.prediction - plain.prediction).abs().max()) < 1e-6
    assert float((output.patch_features - plain.patch_features).abs().max()) < 1e-5


class Told(Reducer):
    """Does what it is told before each block."""

    def __init__(self, plans) -> None:
        super().__init__()
        self.plans = plans

    def plan(self, number, patches, layout):
        return self.plans.get(number)


@every_model
@torch.no_grad()
@pytest.mark.parametrize(("eps", "tolerance"), [(0.0, 1e-12), (1e-6, 1e-5)])
def test_gathering_equals_masking_with_the_same_kept_set(monkeypatch, kind, eps, tolerance):
    """Evaluation drops what training only hides: both routes end in the same class logits and kept tokens, but for eps."""
    monkeypatch.setattr(attention, "masked_softmax", partial(attention.masked_softmax, eps=eps))
    model, inputs = make(kind)
    short = model(inputs)
    stages = model.reducer.before_blocks
    rows = len(short.reduction.token_source_map)
    masks = [torch.zeros(rows, 16).double().scatter(1, kept, 1) for kept in short.reduction.kept]
    model.reducer = Told({block: Weighted(mask) for block, mask in zip(stages, masks)})
    masked = model(inputs)
    if kind != "lvvit":  # whose prediction looks at patches too
        assert float((short.prediction - masked.prediction).abs().max()) < tolerance
    assert float((short.logits - masked.logits).abs().max()) < tolerance
    if kind == "space_only":  # every frame keeps other places, and their mean is no token
        return
    frames = masked.patch_features.shape[1] // 16
    kept = short.reduction.kept[-1].repeat_interleave(frames, 1) * frames
    kept = kept + torch.arange(frames).repeat(short.reduction.kept[-1].shape[1])
    left = masked.patch_features.gather(1, kept[..., None].expand(-1, -1, 16))
    assert float((short.patch_features - left).abs().max()) < tolerance


@every_model
def test_the_kept_are_those_with_the_highest_scores_in_their_order(kind):
    model, inputs = make(kind)
    seen: list[Tensor] = []
    for predictor in model.reducer.score_predictor:
        predictor.register_forward_hook(lambda _, __, output: seen.append(output[..., 0]))
    kept = model(inputs).reduction.kept
    assert [one.shape[1] for one in kept] == [11, 7, 5]  # int(16 * 0.7), int(16 * 0.49), int(16 * 0.343)
    before = torch.arange(16).expand(len(kept[0]), -1)
    for scores, now in zip(seen, kept):
        best = scores.topk(now.shape[1]).indices
        assert torch.equal(before.gather(1, best), now)
        before = now


@clips
def test_clips_are_decided_on_for_all_frames_at_once(kind):
    model, inputs = make(kind)
    assert model(inputs).reduction.token_source_map.shape == (2, 16)
    model.train()
    assert model(inputs).reduction.weights[-1].shape == (2, 16)


def test_frames_of_their_own_are_decided_on_one_by_one():
    model, inputs = make("space_only")
    assert model(inputs).reduction.token_source_map.shape == (6, 16)


@every_model
def test_in_training_what_is_dropped_stays_dropped_and_all_tokens_stay(kind):
    model, inputs = make(kind)
    model.train()
    output = model(inputs)
    first, second, third = (keep.detach() for keep in output.reduction.weights)
    for keep in (first, second, third):
        assert set(keep.round(decimals=6).unique().tolist()) <= {0.0, 1.0}
    assert not second[first == 0].any()
    assert not third[second == 0].any()
    assert output.patch_features.shape[1] == without(model, inputs).patch_features.shape[1]


@every_model
@pytest.mark.parametrize("recomputed", [False, True])
def test_gradients_reach_every_predictor(kind, recomputed):
    gradients = []
    for checkpointing in (False, recomputed):
        model, inputs = make(kind)
        model.train()
        model.set_grad_checkpointing(checkpointing)
        torch.manual_seed(1)
        model(inputs).logits.square().sum().backward()
        gradients.append([parameter.grad for parameter in model.reducer.parameters()])
        assert all(bool(gradient.any()) for gradient in gradients[-1])
    for one, other in zip(*gradients):
        assert torch.allclose(one, other, atol=1e-12)


@every_model
def test_a_sample_that_loses_every_token_stays_finite(kind):
    model, inputs = make(kind)
    always(model, -1)
    model.train()
    output = model(inputs)
    assert not output.reduction.weights[0].any()
    output.prediction.sum().backward()
    assert bool(output.prediction.isfinite().all())
    assert all(bool(parameter.grad.isfinite().all()) for parameter in model.reducer.parameters())


def test_autocast_decides_in_float32():
    model, inputs = make("deit")
    model.float().train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(inputs.float())
    assert output.reduction.weights[0].dtype == torch.float32
    output.logits.float().sum().backward()


def test_the_predictor_is_the_papers():
    """Two branches of half the width, their layers cut out of the one; global features are the mean over kept tokens."""
    torch.manual_seed(0)
    predictor = TokenPredictor(8).double()
    tokens = torch.randn(2, 5, 8, dtype=torch.float64)
    keep = torch.tensor([[1.0, 0, 1, 1, 0], [1, 1, 1, 1, 1]], dtype=torch.float64)
    norm, linear, _ = predictor.in_conv
    found = predictor(tokens, keep)
    for b in range(2):
        normed = nn.functional.layer_norm(tokens[b], (8,), norm.weight, norm.bias, 1e-5)
        local = nn.functional.gelu(normed @ linear.weight[:4].T + linear.bias[:4])
        everyone = nn.functional.gelu(normed @ linear.weight[4:].T + linear.bias[4:])
        whole = everyone[keep[b] == 1].mean(dim=0)
        for n in range(5):
            logits = predictor.out_conv[:5](torch.cat([local[n], whole]))
            assert torch.allclose(found[b, n], logits.log_softmax(-1), atol=1e-12)


@pytest.mark.parametrize(("depth", "stages"), [(12, (3, 6, 9)), (16, (4, 8, 12)), (20, (5, 10, 15)), (24, (6, 12, 18))])
def test_stages_of_published_depths(depth, stages):
    assert default_stages(depth) == stages


@pytest.mark.parametrize("depth", range(1, 40))
def test_stages_of_any_depth_are_blocks_in_rising_order_and_not_the_first(depth):
    stages = default_stages(depth)
    assert list(stages) == sorted({*stages} & {*range(1, depth)})
    assert len(stages) == min(3, depth - 1)


@pytest.mark.parametrize(
    ("rate", "counts"), [(0.7, [137, 96, 67]), (0.5, [98, 49, 24]), (0.9, [176, 158, 142]), (1.0, [196] * 3)]
)
def test_kept_counts_of_the_published_models(rate, counts):
    reducer = DynamicViTReducer(8, (3, 6, 9), geometric_rates(rate, 3))
    assert [num_kept(196, one) for one in reducer.rates] == counts
    per_block = reducer.positions_per_block(196, 12)
    assert per_block == [count for count in [196, *counts] for _ in range(3)]


def test_at_least_one_token_is_left():
    reducer = DynamicViTReducer(8, (1, 2), (0.1, 0.01))
    patches, layout = torch.randn(2, 4, 1, 8), TokenLayout(TokenGrid(2, 2), 1, 4)
    reducer.eval()
    decision = reducer.plan(1, patches, layout)
    assert isinstance(decision, Shorter)
    assert decision.kept.shape == (2, 1)
    assert reducer.positions_per_block(4, 3) == [4, 1, 1]


def test_draws_follow_the_probabilities():
    """Straight through: the decision is 0 or 1, and its gradient that of a soft one."""
    torch.manual_seed(0)
    reducer = DynamicViTReducer(4, (0,), (0.5,)).train()
    last = reducer.score_predictor[0].out_conv[4]
    nn.init.zeros_(last.weight)
    last.bias.data = torch.tensor([math.log(0.8), math.log(0.2)])
    decision = reducer.plan(0, torch.randn(20, 1000, 1, 4), TokenLayout(TokenGrid(10, 100), 1, 1000))
    assert isinstance(decision, Weighted)
    assert float(decision.keep.detach().mean()) == pytest.approx(0.8, abs=0.01)
    decision.keep.sum().backward()
    assert float(last.bias.grad[0]) > 0
    assert float(last.bias.grad[0]) == pytest.approx(-float(last.bias.grad[1]), rel=1e-3)


def test_any_input_size():
    model, _ = make("deit")
    output = model(torch.randn(1, 3, 40, 48, dtype=torch.float64))  # 5x6 patches
    assert [kept.shape[1] for kept in output.reduction.kept] == [21, 14, 10]
