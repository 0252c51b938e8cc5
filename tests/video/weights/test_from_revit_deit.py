"""A ReViT-DeiT as the start of a ReViT-TimeSformer: at step 0 every grid answers what the image model answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from revit.common.models.load_report import LoadReport
from revit.common.models.vit import ResizableTransformer
from revit.common.system.errors import UserError
from revit.common.weights.checkpoint import Checkpoint, save_checkpoint
from revit.common.weights.start import architecture_facts
from revit.image.models.transformers import DeiT, LVViT
from revit.video.models.timesformer import TimeSformer
from revit.video.weights.start import start_from

NAMES = ("a", "b", "c", "d", "e")
SIZES: dict[str, Any] = {"img_size": 48, "num_classes": len(NAMES), "embed_dim": 32, "depth": 2, "num_heads": 4}
GRIDS = ("6x6", "4x4", "3x3")
STEM = {"patch_embed": "stem", "stem_widths": (4, 8, 8)}


def shaken(model: Any) -> Any:
    """In evaluation mode, every parameter and BN statistic random."""
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 1.5)
            elif tensor.is_floating_point():
                tensor.add_(0.2 * torch.randn_like(tensor))
    return model.eval()


def saved(model: ResizableTransformer, path: Path) -> str:
    """As a run stores it: what a variant's name stands for is null in its configuration."""
    config = {
        "model": {"grids": [grid.name for grid in model.grids], "num_heads": None},
        "data": {"pixels": {"mean": [0.5, 0.5, 0.5]}},
    }
    extra = {"architecture": architecture_facts(model)}
    save_checkpoint(path, Checkpoint("image", config, NAMES, {"model": model.state_dict()}, extra))
    return str(path)


def video(**changes: Any) -> TimeSformer:
    return TimeSformer(**{**SIZES, "grids": GRIDS, "num_frames": 3, **changes}).eval()


def started(image: DeiT, path: Path, **changes: Any) -> tuple[TimeSformer, LoadReport]:
    model = video(**changes)
    return model, start_from(model, saved(image, path / "image.safetensors"), label_names=NAMES)


@torch.no_grad()
def assert_same(model: TimeSformer, image: ResizableTransformer, grids: tuple[Any, ...]) -> None:
    pictures = torch.randn(2, 3, 48, 48)
    clips = pictures.unsqueeze(2).expand(-1, -1, 3, -1, -1)
    for grid in grids:
        found, expected = model(clips, grid), image(pictures, grid)
        assert torch.allclose(found.logits, expected.logits, atol=1e-5)
        assert (found.distill_logits is None) == (expected.distill_logits is None)
        if expected.distill_logits is not None:
            assert torch.allclose(found.distill_logits, expected.distill_logits, atol=1e-5)


@pytest.mark.parametrize("distillation", ["shared", "per_grid", "none"])
@pytest.mark.parametrize(
    "parts",
    [{}, STEM, {"patch_embed": "shared"}, {"positions": "shared_zero_pad"}, {"positions": "shared_interpolate"}],
)
def test_every_grid_answers_the_same(tmp_path: Path, parts: dict[str, Any], distillation: str) -> None:
    parts = {**parts, "distillation": distillation}
    image = shaken(DeiT(**SIZES, grids=GRIDS, **parts))
    model, report = started(image, tmp_path, **parts)
    assert_same(model, image, image.grids)
    assert len(report.loaded) == len(image.state_dict())
    assert report.label_names == NAMES
    assert any("set data.pixels.mean" in note for note in report.notes)


def test_norms_over_time_start_from_those_over_space(tmp_path: Path) -> None:
    image = shaken(DeiT(**SIZES, grids=GRIDS))
    model, _ = started(image, tmp_path)
    for ours, theirs in zip(model.blocks, image.blocks):
        assert torch.equal(ours.temporal_norm1.weight, theirs.norm1.weight)
        for grid in GRIDS[1:]:
            assert torch.equal(ours.temporal_norm1.short[grid].bias, theirs.norm1.short[grid].bias)


def test_a_distilled_model_teaches_its_token_to_the_students(tmp_path: Path) -> None:
    image = shaken(DeiT(**SIZES, grids=GRIDS, distillation="every_grid"))
    model, _ = started(image, tmp_path)
    assert_same(model, image, image.grids[1:])


def test_fewer_grids_take_their_own_parts(tmp_path: Path) -> None:
    image = shaken(DeiT(**SIZES, grids=GRIDS))
    model, report = started(image, tmp_path, grids=("6x6", "3x3"))
    assert_same(model, image, model.grids)
    left = {name for group in report.left_out.values() for name in group}
    assert left == {name for name in image.state_dict() if "4x4" in name}


def test_larger_clips_take_the_grid_of_the_same_rank(tmp_path: Path) -> None:
    image = shaken(DeiT(**SIZES, grids=GRIDS))
    model, report = started(image, tmp_path, img_size=96, grids=("12x12", "8x8", "6x6"))
    assert any("6x6 -> 12x12, 4x4 -> 8x8, 3x3 -> 6x6" in note for note in report.notes)
    assert torch.equal(model.patch_embed.short["6x6"].weight, image.patch_embed.short["3x3"].weight)
    assert torch.equal(model.blocks[1].temporal_norm1.short["8x8"].weight, image.blocks[1].norm1.short["4x4"].weight)


def test_what_cannot_be_a_start_is_refused(tmp_path: Path) -> None:
    lvvit = LVViT(**SIZES, grids=(6,), stem_widths=(8, 8, 8))
    with pytest.raises(UserError, match="an LV-ViT has another stem"):
        start_from(video(), saved(lvvit, tmp_path / "lvvit.safetensors"))
    deit = DeiT(**SIZES, grids=GRIDS)
    with pytest.raises(UserError, match=r"num_heads 4, the model has 2; set model\.num_heads=4"):
        start_from(video(num_heads=2), saved(deit, tmp_path / "deit.safetensors"))
    stems = DeiT(**SIZES, grids=GRIDS, **STEM)
    with pytest.raises(UserError, match=r"missing: patch_embed\.proj"):
        start_from(video(), saved(stems, tmp_path / "stems.safetensors"))
