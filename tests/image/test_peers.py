"""timm's DeiT gets our weights and gives our logits, or is not timed."""

from __future__ import annotations

import pytest
import torch

from revit.common.errors import UserError
from revit.common.report.peers import checked_twin
from revit.image.models.variants import VARIANTS
from revit.image.peers import TimmDeiT, TimmFlexiViT

SMALL = {"embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 5}


@pytest.mark.parametrize("name", ["deit_small", "deit_small_distilled"])
@pytest.mark.parametrize(("size", "grids"), [(64, ["4x4", "2x2"]), ((32, 48), ["4x6"])])
def test_timm_computes_the_same(name, size, grids):
    model = VARIANTS[name].build(img_size=size, grids=grids, **SMALL)
    pictures = torch.randn(2, 3, *((size, size) if isinstance(size, int) else size))
    twin = checked_twin(TimmDeiT, model, pictures)
    torch.testing.assert_close(twin(pictures), model.eval()(pictures).prediction, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("lvvit_s", {"grids": ["4x4"]}, "no such model"),
        ("deit_small", {"grids": ["4x4"], "patch_embed": "shared"}, "no such model or patch embedding"),
        ("deit_small", {"grids": ["5x5"]}, "not whole patches"),
    ],
)
def test_models_that_timm_lacks(name, settings, message):
    with pytest.raises(UserError, match=message):
        TimmDeiT(VARIANTS[name].build(img_size=64, **SMALL, **settings))


@pytest.mark.parametrize(("size", "grid"), [(64, "4x4"), (50, "6x6"), ((32, 48), "4x6")])
def test_timm_flexivit_computes_the_same(size, grid):
    build = VARIANTS["deit_small"].build
    model = build(img_size=size, grids=[grid], patch_embed="flexi", **SMALL)
    pictures = torch.randn(2, 3, *((size, size) if isinstance(size, int) else size))
    twin = checked_twin(TimmFlexiViT, model, pictures)
    torch.testing.assert_close(twin(pictures), model.eval()(pictures).prediction, atol=1e-5, rtol=1e-4)


def test_timm_flexivit_is_for_flexible_models():
    with pytest.raises(UserError, match="nothing to compare"):
        TimmFlexiViT(VARIANTS["deit_small"].build(img_size=64, grids=["4x4"], **SMALL))
