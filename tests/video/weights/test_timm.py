"""Against timm's own models: what they say of a picture, a video model started from them says of a still clip."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

from revit.common.models.grid import TokenGrid
from revit.video.models.timesformer import TimeSformer
from revit.video.weights.start import start_from


def make(**changes: Any) -> TimeSformer:
    facts = {"img_size": 32, "grids": (4,), "num_frames": 3, "num_classes": 6, "embed_dim": 32, "depth": 2}
    return TimeSformer(**{**facts, "num_heads": 2, **changes}).eval()


def image_model(name: str) -> torch.nn.Module:
    facts = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 6}
    model = timm.create_model(name, pretrained=False, **facts).eval()
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.add_(0.2 * torch.randn_like(tensor))
    return model


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_a_vit(tmp_path: Path, suffix: str) -> None:
    theirs, path = image_model("vit_tiny_patch16_224"), tmp_path / f"vit.{suffix}"
    save = torch.save if suffix == "pth" else save_file
    save(theirs.state_dict(), path)
    model = make()
    start_from(model, str(path))
    pictures = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        answer = model(pictures.unsqueeze(2).expand(-1, -1, 3, -1, -1)).logits
        assert torch.allclose(answer, theirs(pictures), atol=1e-5)


def test_a_distilled_deit_runs_at_a_shorter_grid_with_both_heads(tmp_path: Path) -> None:
    theirs, path = image_model("deit_tiny_distilled_patch16_224"), tmp_path / "deit.pth"
    torch.save({"model": theirs.state_dict()}, path)
    # The shorter grid of the model has the size of the source: everything must arrive there unchanged.
    model = make(img_size=64, grids=(8, 4))
    start_from(model, str(path))
    short = model.short_pos_embed["4x4"]
    assert torch.allclose(short, theirs.pos_embed, atol=1e-6)
    clips = torch.randn(2, 3, 1, 64, 64).expand(-1, -1, 3, -1, -1)
    with torch.no_grad():
        output = model(clips, TokenGrid(4, 4))
        tokens = model.patch_embed(clips[:, :, 0], TokenGrid(4, 4)).flatten(2).transpose(1, 2)
        prefix = torch.cat([theirs.cls_token, theirs.dist_token], dim=1).expand(2, -1, -1)
        features = theirs.norm(theirs.blocks(torch.cat([prefix, tokens], dim=1) + theirs.pos_embed))
        assert torch.allclose(output.logits, theirs.head(features[:, 0]), atol=1e-5)
        assert torch.allclose(output.distill_logits, theirs.head_dist(features[:, 1]), atol=1e-5)
