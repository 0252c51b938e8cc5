"""Token Expansion in DeiT, LV-ViT and their ReViTs: what it changes in training, and that it changes nothing else."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from revit.common.data.batch import Batch
from revit.common.methods.revit.task import ResizableTask
from revit.common.methods.toe import ToE, ToEOptions
from revit.common.models.reducer import Reducer, Shorter
from revit.common.training.parallel.backend import LocalBackend
from revit.image.models.transformers import DeiT, LVViT, MixDraw
from revit.image.tasks import TokenLabelTask

SMALL = {"img_size": 32, "num_classes": 5, "embed_dim": 16, "depth": 3, "num_heads": 2, "drop_path_rate": 0.0}
TARGETS = torch.tensor([0, 1, 2, 3])


def images() -> torch.Tensor:
    return torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def build(kind: str, grids=(8,), **more) -> nn.Module:
    torch.manual_seed(0)
    distillation = "every_grid" if kind == "distilled" else "shared"
    model_class = LVViT if kind == "lvvit" else DeiT
    return model_class(grids=grids, distillation=distillation, pos_std=0.5, **{**SMALL, **more}).train()


def with_toe(model: nn.Module, stage: int = 1, **settings) -> nn.Module:
    model = copy.deepcopy(model)
    ToE(ToEOptions(**settings)).attach(model)
    model.reducer.train()
    model.reducer.stage = stage
    return model


def batch() -> Batch:
    return Batch(torch.empty(0), TARGETS, TARGETS)


def gradients(model: nn.Module, task=None) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Of all losses of a task on one batch."""
    torch.manual_seed(4)
    model.zero_grad()
    losses = []
    for _, loss in (task or ResizableTask()).losses(model, images(), batch()):
        loss.backward()
        losses.append(float(loss.detach()))
    return losses, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_equal_training(one: nn.Module, two: nn.Module, task=None) -> None:
    (losses, first), (again, second) = gradients(one, task), gradients(two, task)
    assert losses == pytest.approx(again, abs=1e-6)
    assert first.keys() == second.keys()
    for name, gradient in first.items():
        assert torch.allclose(gradient, second[name], atol=1e-6), name


@pytest.mark.parametrize("kind", ["deit", "distilled", "lvvit"])
@pytest.mark.parametrize("settings", [{"keep_rates": (1.0,)}, {"stage": 3}, {"first_rate": 1.0, "stage": 2}])
def test_everything_kept_is_the_plain_model(kind, settings):
    plain = build(kind)
    task = TokenLabelTask() if kind == "lvvit" else None
    assert_equal_training(plain, with_toe(plain, **settings), task)


class Shuffle(Reducer):
    """All positions are selected, in another order."""

    def plan(self, number, patches, layout):
        if number != 1:
            return None
        order = torch.randperm(layout.num_positions, generator=torch.Generator().manual_seed(2))
        kept = order.expand(len(patches), -1)
        return Shorter(kept, layout.num_positions, kept.argsort(dim=1))


@pytest.mark.parametrize("kind", ["deit", "distilled", "lvvit"])
def test_the_order_of_tokens_does_not_matter(kind):
    """So the identity at the last stage is what the selection of all tokens would give, and tokens find back."""
    plain = build(kind)
    shuffled = copy.deepcopy(plain)
    shuffled.reducer = Shuffle()
    assert_equal_training(plain, shuffled, TokenLabelTask() if kind == "lvvit" else None)


@pytest.mark.parametrize("kind", ["deit", "distilled", "lvvit"])
def test_evaluation_uses_all_tokens_unless_asked(kind):
    plain = build(kind).eval()
    toe = with_toe(plain).eval()
    with torch.no_grad():
        whole, same = plain(images()), toe(images())
        assert torch.equal(whole.prediction, same.prediction)
        assert same.reduction is None
        sparse = with_toe(plain, evaluation_stage=1).eval()(images())
    assert sparse.patch_features.shape[1] == 32
    assert sparse.reduction.token_source_map.shape == (4, 64)
    assert not torch.allclose(sparse.prediction, whole.prediction, atol=1e-4)


@pytest.mark.parametrize("kind", ["deit", "distilled"])
@pytest.mark.parametrize(("stage", "kept"), [(1, 32), (2, 48)])
def test_blocks_from_the_second_on_see_fewer_tokens_and_the_same_prefix_length(kind, stage, kept):
    model = with_toe(build(kind), stage)
    seen = []
    for block in model.blocks:
        block.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[1]))
    output = model(images())
    P = 2 if kind == "distilled" else 1
    assert seen == [P + 64, P + kept, P + kept]
    assert output.reduction.kept[0].shape == (4, kept)
    assert set(output.reduction.token_source_map.unique().tolist()) >= set(range(0, 64, 4))  # the seeds


def test_merged_places_of_lvvit_hold_zeros_and_come_back_in_order():
    model = with_toe(build("lvvit"))
    output = model(images())
    assert output.patch_logits.shape == (4, 64, 5)
    kept = output.reduction.kept[0]
    logits = model.aux_head(output.patch_features)
    for b in range(4):
        for slot, place in enumerate(kept[b].tolist()):
            assert torch.allclose(output.patch_logits[b, place], logits[b, slot], atol=1e-6)
        gone = sorted(set(range(64)) - set(kept[b].tolist()))
        assert torch.equal(output.patch_logits[b, gone], model.aux_head.bias.expand(32, -1))


def test_mix_token_puts_all_places_back_after_merging():
    model = with_toe(build("lvvit"))
    mix = MixDraw(0.5, 0.5, 0.5)
    box = mix.box(model.grids[0])
    output = model(images(), None, mix)
    places = torch.zeros(4, 64, model.embed_dim)
    index = output.reduction.kept[0][..., None].expand(-1, -1, model.embed_dim)
    own = model.aux_head(places.scatter(1, index, output.patch_features)).unflatten(1, (8, 8))
    wanted = own.clone()
    rows, cols = slice(box.top, box.bottom), slice(box.left, box.right)
    wanted[:, rows, cols] = own.flip(0)[:, rows, cols]
    assert torch.allclose(output.patch_logits, wanted.flatten(1, 2), atol=1e-6)


@pytest.mark.parametrize("kind", ["deit", "lvvit"])
def test_every_grid_of_a_revit_reduces_its_own_positions(kind):
    model = with_toe(build(kind, grids=(8, 4)))
    reductions = [model(images(), grid).reduction for grid in model.grids]
    assert [reduction.token_source_map.shape[1] for reduction in reductions] == [64, 16]
    assert [reduction.kept[0].shape[1] for reduction in reductions] == [32, 8]
    losses, found = gradients(model, TokenLabelTask() if kind == "lvvit" else None)
    assert len(losses) == 2
    assert all(torch.isfinite(gradient).all() for gradient in found.values())


def test_another_input_size_is_reduced_too():
    model = with_toe(build("deit"))
    assert model(torch.randn(2, 3, 48, 24)).reduction.kept[0].shape == (2, 36)


@pytest.mark.parametrize("kind", ["deit", "lvvit"])
def test_activation_checkpointing_changes_nothing(kind):
    model = with_toe(build(kind))
    again = copy.deepcopy(model)
    again.set_grad_checkpointing(True)
    assert_equal_training(model, again, TokenLabelTask() if kind == "lvvit" else None)


def test_compilation_follows_the_stages():
    """One graph a stage, and the same numbers."""
    model = with_toe(build("deit"))
    compiled = copy.deepcopy(model)
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    torch.compiler.reset()
    compiled.compile(backend=backend)
    for stage, most in ((1, 1), (1, 1), (2, 2), (3, 3), (3, 3)):
        model.reducer.stage = compiled.reducer.stage = stage
        assert torch.allclose(model(images()).logits, compiled(images()).logits, atol=1e-6)
        assert len(graphs) <= most
    torch.compiler.reset()


def test_mixed_precision_trains():
    model = with_toe(build("deit"))
    backend = LocalBackend(torch.device("cpu"), "bfloat16")
    with backend.autocast():
        output = model(images())
    plain = model(images())
    assert (output.reduction.token_source_map == plain.reduction.token_source_map).float().mean() > 0.5
    output.logits.sum().backward()
