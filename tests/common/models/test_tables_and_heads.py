"""Position tables and distillation heads are objects, and their parameters lie in the model under the published names."""

from __future__ import annotations

import pytest
import torch

from revit.common.models.grid import TokenGrid
from revit.image.models.transformers import DeiT

SIZES = {"num_classes": 3, "embed_dim": 8, "depth": 1, "num_heads": 2}
HEADS = {
    "none": [],
    "shared": ["dist_token.shared", "head_dist.shared.weight", "head_dist.shared.bias"],
    "per_grid": [
        *("dist_token.4x4", "dist_token.2x2", "head_dist.4x4.weight", "head_dist.4x4.bias"),
        *("head_dist.2x2.weight", "head_dist.2x2.bias"),
    ],
    "every_grid": ["dist_token", "head_dist.weight", "head_dist.bias"],
}
TABLES = ("pos_embed", "short_pos_embed", "dist_pos_embed")


@pytest.mark.parametrize("positions", ["separate", "shared_zero_pad", "shared_interpolate"])
@pytest.mark.parametrize("distillation", HEADS)
def test_names_of_parameters(positions, distillation):
    model = DeiT(32, (8, 4, 2), positions=positions, distillation=distillation, **SIZES)
    names = [name for name, _ in model.named_parameters()]
    heads = [name for name in names if name.split(".")[0] in ("dist_token", "head_dist")]
    assert sorted(heads) == sorted(HEADS[distillation])
    tables = ["pos_embed"]
    if positions == "separate":
        tables += ["short_pos_embed.4x4", "short_pos_embed.2x2"]
    elif distillation in ("shared", "per_grid"):
        tables += ["dist_pos_embed"]
    assert sorted(name for name in names if name.split(".")[0] in TABLES) == sorted(tables)
    assert {*tables, "cls_token"} <= model.no_weight_decay()


def test_a_shared_table_is_cropped_padded_or_resized():
    """At a grid with more columns than the longest: what is missing is zero."""
    model = DeiT((32, 32), ("8x8", "2x16"), positions="shared_zero_pad", distillation="none", **SIZES)
    wide = TokenGrid(2, 16)
    as_map = model.pos_embed[:, 1:].unflatten(1, (8, 8))
    table = model.position_table(wide, wide)
    found = table[:, 1:].unflatten(1, (2, 16))
    assert torch.equal(table[:, :1], model.pos_embed[:, :1])
    assert torch.equal(found[:, :, :8], as_map[:, :2])
    assert not found[:, :, 8:].any()


def test_a_flexible_table_adds_nothing_to_the_prefix():
    model = DeiT(32, (8, 4), patch_embed="flexi", kernel_size=8, position_grid=4, **SIZES)
    images = torch.randn(2, 3, 32, 32)
    prefix, patches, _ = model.embed(images, TokenGrid(4, 4))
    assert torch.equal(prefix, model.cls_token)
    plain = model.patch_embed(images, TokenGrid(4, 4)).flatten(2).transpose(1, 2)
    assert torch.equal(patches, plain + model.pos_embed)
    assert [name for name, _ in model.named_parameters() if "dist" in name or "short" in name] == []
