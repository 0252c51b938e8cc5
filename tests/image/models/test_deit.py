"""Identities of DeiT and ReViT-DeiT, and timm's DeiT as a second implementation."""

from __future__ import annotations

import pytest
import timm
import torch
from picture_models import SMALL, as_plain, pictures, randomise
from torch import nn
from torch.nn.functional import pad

from revit.common.models.grid import TokenGrid
from revit.image.models.transformers import DeiT


def of_timm(name: str, **changes: object) -> nn.Module:
    facts = {"img_size": 64, "patch_size": 16, "embed_dim": 32, "depth": 2, "num_heads": 4, "num_classes": 5}
    return randomise(timm.create_model(name, pretrained=False, **{**facts, **changes}))


@pytest.mark.parametrize("grids", [[4], [4, 3, 2]])
def test_the_longest_grid_is_timms_deit(grids):
    theirs = of_timm("deit_small_patch16_224")
    ours = DeiT(grids=grids, **SMALL).eval()
    missing, unexpected = ours.load_state_dict(theirs.state_dict(), strict=False)
    assert not unexpected
    assert len(grids) > 1 or not missing
    x = pictures()
    assert torch.allclose(ours(x).prediction, theirs(x), atol=1e-6)


@pytest.mark.parametrize("grids", [[4], [4, 2]])
def test_the_distilled_variant_is_timms(grids):
    theirs = of_timm("deit_small_distilled_patch16_224")
    ours = DeiT(grids=grids, distillation="every_grid", **SMALL).eval()
    assert not ours.load_state_dict(theirs.state_dict(), strict=False).unexpected_keys
    x = pictures()
    assert torch.allclose(ours(x).prediction, theirs(x), atol=1e-6)
    theirs.set_distilled_training(True)
    both = theirs.train()(x)
    assert torch.allclose(ours(x).logits, both[0], atol=1e-6)
    assert torch.allclose(ours(x).distill_logits, both[1], atol=1e-6)


@pytest.mark.parametrize(("grid", "patch", "border"), [(3, 24, 4), (2, 32, 0)])
def test_each_short_grid_is_timms_distilled_deit_of_that_grid(grid, patch, border):
    """Patch kernel, positions, norms, token and head of the grid in timm's model, which sees the padded picture."""
    revit = randomise(DeiT(grids=[4, 3, 2], **SMALL))
    side = grid * patch
    theirs = of_timm("deit_small_distilled_patch16_224", img_size=side, patch_size=patch)
    theirs.load_state_dict(as_plain(revit, TokenGrid(grid, grid)))
    x = pictures()
    ours = revit(x, TokenGrid(grid, grid))
    assert torch.allclose(ours.prediction, theirs(pad(x, [border] * 4)), atol=1e-6)


@pytest.mark.parametrize("embed", [{}, {"patch_embed": "stem", "stem_widths": (8, 8, 16, 16)}])
@pytest.mark.parametrize("distillation", ["shared", "none", "every_grid"])
def test_each_grid_is_a_plain_model_of_that_grid(embed, distillation):
    revit = randomise(DeiT(grids=[4, 3, 2], distillation=distillation, **embed, **SMALL))
    for grid in revit.grids:
        has_token = revit.num_prefix(grid) == 2
        plain = DeiT(grids=[grid], distillation="every_grid" if has_token else "none", **embed, **SMALL)
        state = as_plain(revit, grid)
        if distillation == "every_grid":
            state |= {name: value for name, value in revit.state_dict().items() if "dist" in name}
        plain.load_state_dict(state)
        x = pictures(64, 80)
        assert torch.allclose(revit(x, grid).prediction, plain.eval()(x).prediction, atol=1e-6)


def test_every_grid_of_a_distilled_model_has_the_one_token():
    model = randomise(DeiT(grids=[4, 2], distillation="every_grid", **SMALL))
    model.start_short_grids()
    assert torch.equal(model.short_pos_embed["2x2"][:, :2], model.pos_embed[:, :2])
    assert not torch.equal(model.dist_token, model.cls_token)
    for grid in model.grids:
        assert model(pictures(), grid).distill_logits.shape == (2, 5)


@pytest.mark.parametrize("positions", ["shared_zero_pad", "shared_interpolate"])
def test_a_distilled_model_with_shared_positions_owns_one_table(positions):
    model = randomise(DeiT(grids=[4, 2], distillation="every_grid", positions=positions, **SMALL))
    table = model.position_table(TokenGrid(2, 2), TokenGrid(2, 2))
    assert table.shape == (1, 6, 32)
    assert torch.equal(table[:, :2], model.pos_embed[:, :2])


@pytest.mark.parametrize("distillation", ["none", "shared", "per_grid", "every_grid"])
def test_tokens_and_tables_are_not_decayed(distillation):
    model = DeiT(grids=[4, 2], distillation=distillation, **SMALL)
    exempt = model.no_weight_decay()
    assert {"cls_token", "pos_embed", "short_pos_embed.2x2"} <= exempt
    assert exempt == {name for name, _ in model.named_parameters() if "token" in name or "pos_embed" in name}


@pytest.mark.parametrize("size", [(64, 64), (48, 80), (70, 50), (16, 16)])
def test_any_size_at_run_time(size):
    model = randomise(DeiT(grids=[4, 3, 2], **SMALL))
    for grid in model.grids:
        assert model(pictures(*size), grid).prediction.isfinite().all()


def test_every_parameter_is_trained_by_some_grid():
    model = randomise(DeiT(grids=[4, 3, 2], **SMALL)).train()
    for grid in model.grids:
        model(pictures(), grid).prediction.square().sum().backward()
    assert [name for name, weight in model.named_parameters() if weight.grad is None] == []
