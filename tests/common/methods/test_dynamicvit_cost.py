"""What dropping tokens costs: the published figures, and three counters that agree (count raises where they do not)."""

from __future__ import annotations

import json
from pathlib import Path

import flops
import pytest

from revit.common.costs.flops import count
from revit.common.methods.dynamicvit.method import DynamicViT, DynamicViTOptions
from revit.common.models.grid import TokenGrid
from revit.image.models.variants import VARIANTS
from revit.video.models.timesformer import TimeSformer

CONFIGS = Path(__file__).parents[3] / "configs" / "image"


def reduced(model, rate: float):
    """The model with another reducer."""
    model.reducer = None
    DynamicViT(DynamicViTOptions(keep_rate=rate)).attach(model)
    return model


PUBLISHED = {"deit_small": {0.9: 4.050, 0.8: 3.471, 0.6: 2.571, 0.5: 2.234}, "lvvit_s": {0.5: 3.801}}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_figures(name):
    """Of the other keeping ratios."""
    model = VARIANTS[name].build()
    for rate, wanted in PUBLISHED[name].items():
        assert count(reduced(model, rate), (1, 3, 224, 224)).gmacs == pytest.approx(wanted, rel=1e-3)


def test_flops_has_them_for_the_configurations(tmp_path):
    out = tmp_path / "flops.json"
    names = ("dynamicvit_deit_small_r0.7", "dynamicvit_lvvit_small_r0.7")
    assert flops.main(["--cfg", *(str(CONFIGS / f"{name}.yaml") for name in names), "--json", str(out)]) == 0
    rows = json.loads(out.read_text())
    assert [row["params"] for row in rows] == [22_774_414, 26_875_574]
    assert [row["gmacs"] for row in rows] == pytest.approx([2.988, 4.664], rel=1e-3)


@pytest.mark.parametrize("attention", ["divided_space_time", "joint_space_time", "space_only"])
@pytest.mark.parametrize("size", [(32, 32), (48, 32)])
def test_formula_and_counters_agree_for_clips(attention, size):
    """The formula has each block's own number of tokens, and decides once for all frames (or per frame)."""
    grid = TokenGrid(size[0] // 4, size[1] // 4)
    model = reduced(TimeSformer(size, [grid], 4, 5, 32, 8, 2, attention=attention), 0.6)
    check(model, (1, 3, 4, *size))


@pytest.mark.parametrize("name", ["deit_tiny", "lvvit_t", "deit_tiny_distilled"])
@pytest.mark.parametrize("sides", [(64, 64), (64, 96)])
def test_formula_and_counters_agree_for_pictures(name, sides):
    grid = TokenGrid(sides[0] // 16, sides[1] // 16)
    model = VARIANTS[name].build(img_size=sides, grids=[grid], embed_dim=32, num_heads=2, depth=5, num_classes=7)
    check(reduced(model, 0.7), (1, 3, *sides))


def check(model, shape) -> None:
    found, formula = count(model, shape), model.closed_form_macs(shape)
    for kind, macs in formula.items():
        assert found.macs[kind] == pytest.approx(macs, rel=1e-12)


def test_keeping_everything_costs_the_predictors_on_top():
    model, shape = VARIANTS["deit_tiny"].build(), (1, 3, 224, 224)
    plain = model.closed_form_macs(shape)["linear"]
    whole = reduced(model, 1.0).closed_form_macs(shape)["linear"]
    assert whole - plain == 3 * 196 * (192 * 192 + 192 * 96 + 96 * 48 + 48 * 2)
