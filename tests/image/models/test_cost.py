"""Costs of DeiT, LV-ViT and their ReViT forms; three counts have to agree on each of them (`count` checks it)."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from revit.common.costs.flops import count
from revit.common.methods.revit.adaptive import TokenLengthAssigner
from revit.common.models.embed.patch_embed import LVViTStem
from revit.common.models.grid import TokenGrid
from revit.image.models.variants import VARIANTS


@pytest.fixture(autouse=True)
def without_random_weights(monkeypatch):
    """Costs do not depend on them, and they take most of the time of building a model."""
    for name in ("trunc_normal_", "kaiming_uniform_"):
        monkeypatch.setattr(torch.nn.init, name, lambda tensor, *_, **__: tensor)


def gmacs_of(model: Any, size: int, grid: int) -> float:
    return count(model, (1, 3, size, size), TokenGrid(grid, grid)).gmacs


@pytest.mark.parametrize(
    ("name", "size", "gmacs", "params"),
    [
        ("deit_tiny", 224, 1.258, 5_717_416),
        ("deit_small", 224, 4.608, 22_050_664),
        ("deit_base", 224, 17.583, 86_567_656),
        ("deit_small_distilled", 224, 4.634, 22_436_432),
        ("deit_base_distilled", 384, 55.647, 87_630_032),
        ("lvvit_t", 224, 2.879, 8_534_720),
        ("lvvit_s", 224, 6.569, 26_151_824),
        ("lvvit_m", 224, 12.704, 55_830_544),
    ],
)
def test_published_costs(name, size, gmacs, params):
    model = VARIANTS[name].build(img_size=size, grids=(size // 16,))
    found = count(model, (1, 3, size, size))
    assert found.gmacs == pytest.approx(gmacs, rel=1e-3)
    assert found.params == params


# GMACs of the blocks and the heads, of the grid 14x14 with the class token, of the others with the students' token too.
TRUNK = {"deit_small": {14: 4.541, 10: 2.263, 7: 1.108}, "lvvit_s": {14: 5.125, 10: 2.535, 7: 1.236}}
PLAIN = {"deit_small": 4.608, "lvvit_s": 6.569}
LIGHT_STEM = {14: 0.121, 10: 0.098, 7: 0.086}
LVVIT_STEM = {14: 1.351, 10: 1.397, 7: 1.351}


@pytest.mark.parametrize("name", TRUNK)
def test_every_grid_costs_what_its_trunk_and_stem_do(name):
    embed = {"patch_embed": "stem"} if name == "deit_small" else {}
    model = VARIANTS[name].build(grids=(14, 10, 7), **embed)
    stem = LVVIT_STEM if isinstance(model.patch_embed, LVViTStem) else LIGHT_STEM
    for grid, trunk in TRUNK[name].items():
        found = gmacs_of(model, 224, grid)
        assert found == pytest.approx(trunk + stem[grid], rel=0.03)
        if grid == 14:
            assert found == pytest.approx(PLAIN[name], rel=0.03)


def test_the_assigner_costs_at_most_a_hundredth_of_deit_small():
    assigner = count(TokenLengthAssigner(3), (1, 3, 224, 224)).gmacs
    assert assigner <= 0.01 * PLAIN["deit_small"]


@pytest.mark.parametrize(
    ("name", "size", "grids", "embed"),
    [
        ("deit_tiny", 288, (18, 12, 9), {"patch_embed": "stem"}),
        ("deit_tiny", 288, (18, 12, 9), {}),
        ("lvvit_t", 448, (28, 19, 14), {}),
        ("lvvit_t", 448, (28, 14), {}),
    ],
)
def test_larger_pictures_reach_their_grids(name, size, grids, embed):
    model = VARIANTS[name].build(img_size=size, grids=grids, depth=2, **embed)
    costs = []
    for grid in model.grids:
        assert model.patch_embed.map_of((size, size), grid) == grid
        costs.append(count(model, (1, 3, size, size), grid).gmacs)
    assert costs == sorted(costs, reverse=True)


@pytest.mark.parametrize("patch_embed", ["patchify", "stem", "shared", "lvvit"])
@pytest.mark.parametrize("sides", [(96, 96), (100, 131)])
def test_three_counts_agree(patch_embed, sides):
    widths = {"stem": {"stem_widths": (4, 8, 12)}, "lvvit": {"stem_widths": (4, 6, 8)}}.get(patch_embed, {})
    small = {"img_size": 96, "embed_dim": 32, "depth": 2, "num_heads": 4, "num_classes": 7, "head_dim": 6}
    for name in ("lvvit_s", "deit_small_distilled"):
        model = VARIANTS[name].build(grids=(12, 8), patch_embed=patch_embed, **widths, **small)
        for grid in model.grids:
            count(model, (1, 3, *sides), grid)
