"""timm's DeiT gets our weights and gives our logits, or is not timed."""

from __future__ import annotations

import pytest
import torch

from revit.common.models.reducer import Reducer
from revit.common.system.errors import UserError
from revit.common.timing.peers import checked_twin
from revit.image.models.variants import VARIANTS
from revit.image.peers import TimmViT

SMALL = {"embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 5}


@pytest.mark.parametrize("name", ["deit_small", "deit_small_distilled"])
@pytest.mark.parametrize(("size", "grids"), [(64, ["4x4", "2x2"]), ((32, 48), ["4x6"])])
def test_timm_computes_the_same(name, size, grids):
    model = VARIANTS[name].build(img_size=size, grids=grids, **SMALL)
    pictures = torch.randn(2, 3, *((size, size) if isinstance(size, int) else size))
    twin = checked_twin(TimmViT, model, pictures)
    torch.testing.assert_close(twin(pictures), model.eval()(pictures).prediction, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("lvvit_s", {"grids": ["4x4"]}, "timm has no LVViT"),
        ("deit_small", {"grids": ["4x4"], "patch_embed": "shared"}, "no DeiT with SharedPatchify"),
        ("deit_small", {"grids": ["5x5"]}, "5x5 tokens are not whole patches of 64x64"),
    ],
)
def test_models_that_timm_lacks(name, settings, message):
    with pytest.raises(UserError, match=message):
        TimmViT(VARIANTS[name].build(img_size=64, **SMALL, **settings))


@pytest.mark.parametrize(("rates", "has_twin"), [((1.0, 1.0, 1.0), True), ((1.0, 0.7, 0.7), False)])
def test_tokens_taken_away_leave_no_twin(rates, has_twin):
    """What keeps all of them in evaluation has one: the plain model."""

    class Dropping(Reducer):
        def plan(self, number, patches, layout):
            return None

        def positions_per_block(self, num_positions, depth):
            return [round(rate * num_positions) for rate in rates[:depth]]

    model = VARIANTS["deit_small"].build(img_size=64, grids=["4x4"], **SMALL)
    model.reducer = Dropping()
    if has_twin:
        assert checked_twin(TimmViT, model, torch.randn(1, 3, 64, 64))
    else:
        with pytest.raises(UserError, match="takes no tokens away between blocks, as Dropping does"):
            TimmViT(model)


@pytest.mark.parametrize(("size", "grid"), [(64, "4x4"), (50, "6x6"), ((32, 48), "4x6")])
def test_timm_flexivit_computes_the_same(size, grid):
    build = VARIANTS["deit_small"].build
    model = build(img_size=size, grids=[grid], patch_embed="flexi", **SMALL)
    pictures = torch.randn(2, 3, *((size, size) if isinstance(size, int) else size))
    twin = checked_twin(TimmViT, model, pictures)
    torch.testing.assert_close(twin(pictures), model.eval()(pictures).prediction, atol=1e-5, rtol=1e-4)
