"""The formula, fvcore and torch agree on every kind of TimeSformer, and give the published numbers."""

from __future__ import annotations

import pytest

from revit.common.costs.flops import CountError, count
from revit.video.models.timesformer import TimeSformer

SMALL = {"embed_dim": 32, "depth": 2, "num_heads": 4, "num_classes": 7}


@pytest.mark.parametrize("attention", ["divided_space_time", "joint_space_time", "space_only"])
@pytest.mark.parametrize("patch_embed", ["patchify", "stem", "shared"])
@pytest.mark.parametrize("sides", [(96, 96), (100, 132)])
def test_three_counts_agree(attention, patch_embed, sides):
    widths = {"stem_widths": (4, 8, 12)} if patch_embed == "stem" else {}
    model = TimeSformer(96, (12, 8), num_frames=3, attention=attention, patch_embed=patch_embed, **widths, **SMALL)
    longest, shortest = (count(model, (1, 3, 3, *sides), grid) for grid in model.grids)
    assert longest.gmacs > shortest.gmacs
    assert longest.params == shortest.params == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    "options", [{"remainder": "cut"}, {"mlp_ratio": 2.5}, {"num_classes": 0}, {"distillation": "none"}]
)
def test_odd_options(options):
    model = TimeSformer(64, (8, 4), num_frames=2, **{**SMALL, **options})
    for grid in model.grids:
        count(model, (1, 3, 2, 70, 64), grid)


@pytest.mark.parametrize(
    ("options", "frames", "gmacs", "params"),
    [
        ({}, 8, 196.05, 121_566_352),
        ({"img_size": 448, "grids": (28,), "num_frames": 16}, 16, 1704.47, 122_024_080),
        ({"attention": "joint_space_time"}, 8, 179.71, 86_112_000),
        ({"attention": "space_only"}, 8, 140.65, 86_106_000),
    ],
)
def test_published_costs(options, frames, gmacs, params):
    model = TimeSformer(**options)
    size = options.get("img_size", 224)
    found = count(model, (1, 3, frames, size, size))
    assert found.gmacs == pytest.approx(gmacs, abs=0.006)
    assert found.params == pytest.approx(params, abs=1000)


def test_a_formula_without_attention_is_refused(monkeypatch):
    monkeypatch.setattr(
        TimeSformer, "closed_form_macs", lambda self, shape, grid: {"linear": 1.0, "attention": 0.0, "convolution": 1.0}
    )
    with pytest.raises(CountError, match="closed formula"):
        count(TimeSformer(64, (8,), num_frames=2, **SMALL), (1, 3, 2, 64, 64))
