"""Identities of LV-ViT and ReViT-LV-ViT; the published numbers are in tests/parity."""

from __future__ import annotations

import pytest
import torch
from picture_models import SMALL, as_plain, pictures, randomise

from revit.common.models.grid import TokenGrid
from revit.image.models.transformers import LVViT, MixDraw

NARROW = {**SMALL, "stem_widths": (8, 8, 8)}
GRIDS = [4, 3, 2]


def test_the_longest_grid_of_a_revit_is_the_plain_model():
    plain = randomise(LVViT(grids=[4], **NARROW))
    revit = LVViT(grids=GRIDS, **NARROW).eval()
    assert not revit.load_state_dict(plain.state_dict(), strict=False).unexpected_keys
    x = pictures()
    assert torch.equal(revit(x).prediction, plain(x).prediction)


def test_each_grid_is_a_plain_model_of_that_grid():
    """A plain model of a 3x3 grid pads the map of its stem as the ReViT does."""
    revit = randomise(LVViT(grids=GRIDS, **NARROW))
    for grid in revit.grids:
        plain = LVViT(grids=[grid], distillation="every_grid", **NARROW)
        if grid == revit.grids[0]:
            plain = LVViT(grids=[grid], **NARROW)
        plain.load_state_dict(as_plain(revit, grid))
        x = pictures(64, 80)
        ours, theirs = revit(x, grid), plain.eval()(x)
        assert torch.allclose(ours.prediction, theirs.prediction, atol=1e-6)
        assert torch.allclose(ours.patch_logits, theirs.patch_logits, atol=1e-6)


def test_the_prediction_is_the_class_and_half_of_the_best_patch():
    model = randomise(LVViT(grids=GRIDS, **NARROW))
    for grid in model.grids:
        output = model(pictures(), grid)
        assert output.patch_logits.shape == (2, grid.num_positions, 5)
        heads = output.logits
        if output.distill_logits is not None:
            heads = (heads + output.distill_logits) / 2
        assert torch.equal(output.prediction, heads + 0.5 * output.patch_logits.max(dim=1).values)


def test_all_grids_share_the_aux_head():
    model = LVViT(grids=GRIDS, **NARROW)
    assert [name for name in model.state_dict() if "aux_head" in name] == ["aux_head.weight", "aux_head.bias"]
    assert float(model.aux_head.weight.detach().std()) == pytest.approx(0.02, rel=0.3)


@pytest.mark.parametrize("size", [(64, 64), (48, 80), (71, 53), (16, 16)])
def test_any_size_at_run_time(size):
    model = randomise(LVViT(grids=GRIDS, **NARROW))
    for grid in model.grids:
        output = model(pictures(*size), grid)
        assert output.prediction.isfinite().all()
        assert output.patch_logits.shape[1] == model.patch_embed.map_of(size, grid).num_positions


def test_without_classes_the_class_token_comes_out():
    model = LVViT(grids=[4], **{**NARROW, "num_classes": 0}).eval()
    output = model(pictures())
    assert output.prediction.shape == (2, 32)
    assert output.patch_logits is None


def test_every_parameter_is_trained_by_some_grid():
    model = randomise(LVViT(grids=GRIDS, **NARROW)).train()
    for grid in model.grids:
        model(pictures(), grid).prediction.square().sum().backward()
    assert [name for name, weight in model.named_parameters() if weight.grad is None] == []


def test_mixing_a_batch_with_itself_changes_nothing():
    """Partners are equal, so every grid's answer is the answer without a mix."""
    model = randomise(LVViT(grids=GRIDS, **NARROW))
    twice = pictures(batch=1).expand(2, -1, -1, -1)
    mix = MixDraw(0.4, 0.6, 0.3)
    for grid in model.grids:
        assert torch.allclose(model(twice, grid, mix).prediction, model(twice, grid).prediction, atol=1e-6)


def test_a_box_over_the_whole_map_exchanges_the_class_answers_only():
    model = randomise(LVViT(grids=[4], **NARROW))
    x, mix = pictures(), MixDraw(0.0, 0.5, 0.5)
    assert mix.box(TokenGrid(4, 4)).keep_share == 0
    mixed, plain = model(x, mix=mix), model(x)
    assert torch.allclose(mixed.logits, plain.logits.flip(0), atol=1e-6)
    assert torch.allclose(mixed.patch_logits, plain.patch_logits, atol=1e-6)


def test_with_no_blocks_the_patches_know_nothing_of_the_mix():
    """Without attention every patch logit depends on its own token alone, and it must be back in its own picture."""
    model = randomise(LVViT(grids=GRIDS, **{**NARROW, "depth": 0}))
    x, mix = pictures(batch=5), MixDraw(0.0, 0.2, 0.7)
    for grid in model.grids:
        assert 0 < mix.box(grid).keep_share < 1
        assert torch.allclose(model(x, grid, mix).patch_logits, model(x, grid).patch_logits, atol=1e-6)


def test_residual_branches_are_divided():
    """Output projections divided by hand, in a model that does not divide."""
    divided = randomise(LVViT(grids=[4], skip_lam=3.0, **NARROW))
    plain = LVViT(grids=[4], skip_lam=1.0, **NARROW).eval()
    state = divided.state_dict()
    for name, tensor in state.items():
        if "attn.proj" in name or "mlp.fc2" in name:
            state[name] = tensor / 3
    plain.load_state_dict(state)
    x = pictures()
    assert torch.allclose(divided(x).prediction, plain(x).prediction, atol=1e-5)
