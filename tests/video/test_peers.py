"""The Hugging Face port gets our weights and gives our logits, or is not timed."""

from __future__ import annotations

import sys

import pytest
import torch

from revit.common.system.errors import UserError
from revit.common.timing.peers import checked_twin
from revit.video.models.timesformer import TimeSformer
from revit.video.peers import HuggingFaceTimeSformer

SMALL = {"img_size": 32, "num_frames": 2, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 5}


@pytest.mark.parametrize("attention", ["divided_space_time", "joint_space_time"])
def test_the_port_computes_the_same(attention):
    model = TimeSformer(grids=(4, 2), attention=attention, **SMALL)
    clips = torch.randn(2, 3, 2, 32, 32)
    twin = checked_twin(HuggingFaceTimeSformer, model, clips)
    assert all(parameter.any() for parameter in model.parameters())
    torch.testing.assert_close(twin(clips), model.eval()(clips).logits, atol=1e-5, rtol=1e-4)


def test_a_flexible_model_has_a_twin_of_its_longest_grid():
    """Kernel and positions resized once, and 30 of 32 pixels where the grid leaves some over."""
    model = TimeSformer(grids=(5, 2), patch_embed="flexi", kernel_size=8, position_grid=3, **SMALL)
    clips = torch.randn(2, 3, 2, 32, 32)
    twin = checked_twin(HuggingFaceTimeSformer, model, clips)
    assert twin.side == 30
    torch.testing.assert_close(twin(clips), model.eval()(clips).logits, atol=1e-5, rtol=1e-4)


def test_no_peer_without_transformers(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match="transformers is not installed"):
        HuggingFaceTimeSformer(TimeSformer(grids=(4,), **SMALL))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"attention": "space_only"}, "space_only attention"),
        ({"patch_embed": "stem", "stem_widths": (4, 4, 8)}, "with ConvStem as its patch embedding"),
        ({"grids": (5,)}, "5x5 tokens are not whole patches of 32x32 pixels"),
        ({"img_size": (32, 48), "grids": ("4x6",)}, "square frames in square patches, and these are of 32x48"),
    ],
)
def test_models_that_the_port_lacks(settings, message):
    with pytest.raises(UserError, match=f"{message}.*nothing to compare"):
        HuggingFaceTimeSformer(TimeSformer(**{"grids": (4,), **SMALL, **settings}))


def test_a_difference_stops_the_comparison(monkeypatch):
    monkeypatch.setattr("revit.common.timing.peers.LARGEST_DIFFERENCE", -1.0)
    with pytest.raises(RuntimeError, match="differ from ours"):
        checked_twin(HuggingFaceTimeSformer, TimeSformer(grids=(4,), **SMALL), torch.zeros(1, 3, 2, 32, 32))
