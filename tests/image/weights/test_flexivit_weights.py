"""FlexiViT's weights on their ways: from fixed patches and back, from timm's files, through our checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from revit.common.models.embed.patches import resize_patch_kernel, resize_positions
from revit.common.models.grid import TokenGrid
from revit.common.system.errors import UserError
from revit.common.weights.source import Source, read_source
from revit.image.modality import open_classifier
from revit.image.models.transformers import DeiT
from revit.image.weights import start_from
from revit.video.models.timesformer import TimeSformer
from revit.video.weights.start import start_from as start_clips

SIZES: dict[str, Any] = {"embed_dim": 128, "depth": 2, "num_heads": 2, "num_classes": 4, "drop_path_rate": 0.0}
TIMM = {"embed_dim": 128, "depth": 2, "num_heads": 2, "num_classes": 4, "img_size": 48}


def plain(grid: int = 4, seed: int = 1, **changes: Any) -> DeiT:
    torch.manual_seed(seed)
    return DeiT(32, (grid,), **{**SIZES, "pos_std": 0.5, **changes}).eval()


def flexible(kernel: int = 8, table: int = 4, grids: tuple[int, ...] = (4, 2), seed: int = 2) -> DeiT:
    torch.manual_seed(seed)
    arguments = {**SIZES, "pos_std": 0.5, "kernel_size": kernel, "position_grid": table}
    return DeiT(32, grids, patch_embed="flexi", **arguments).eval()


def source_of(model: torch.nn.Module, **facts: Any) -> Source:
    return Source("weights", "image", dict(model.state_dict()), facts=facts)


@torch.no_grad()
def answer(model: torch.nn.Module, grid: int | None = None, size: int = 32) -> torch.Tensor:
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    return model(images, None if grid is None else TokenGrid(grid, grid)).prediction


@pytest.mark.parametrize("distillation", ["none", "every_grid"])
def test_a_fixed_model_starts_a_flexible_one_exactly_at_its_own_size(distillation):
    """The kernel as it is, positions too; the class token takes its row of the table up. A distillation token goes."""
    fixed, model = plain(distillation=distillation), flexible()
    report = start_from(model, source_of(fixed))
    with torch.no_grad():
        images = torch.randn(2, 3, 32, 32)
        tokens = fixed.embed(images, fixed.grids[0])
        ours = model.embed(images, TokenGrid(4, 4))
    assert torch.equal(ours[0], tokens[0][:, :1])
    torch.testing.assert_close(ours[1], tokens[1])
    assert "the class token and its row of the position table, added up" in report.derived
    if distillation == "none":
        torch.testing.assert_close(answer(model, 4), answer(fixed), atol=1e-6, rtol=0)


def test_the_published_rules_where_sizes_differ():
    fixed, model = plain(), flexible(kernel=12, table=3)
    start_from(model, source_of(fixed))
    kernel = resize_patch_kernel(fixed.patch_embed.proj.weight, (12, 12))
    torch.testing.assert_close(model.patch_embed.proj.weight, kernel)
    zoomed = resize_positions(fixed.pos_embed[:, 1:], 0, TokenGrid(4, 4), TokenGrid(3, 3), "corners")
    torch.testing.assert_close(model.pos_embed, zoomed)
    assert torch.equal(model.pos_embed[0, [0, 2, 6, 8]], fixed.pos_embed[0, [1, 4, 13, 16]])  # the corners


@pytest.mark.parametrize("grid", [4, 2, 8])
def test_a_fixed_model_gets_a_flexible_ones_answers_at_its_grid(grid):
    model = flexible(kernel=11, table=5)
    fixed = plain(grid)
    report = start_from(fixed, source_of(model, position_grid=TokenGrid(5, 5)))
    torch.testing.assert_close(answer(fixed), answer(model, grid), atol=1e-6, rtol=0)
    assert any("no position to its class token" in note for note in report.notes)


def test_flexible_to_flexible_and_back_loses_nothing_where_the_table_grows():
    small, large = flexible(kernel=8, table=3), flexible(kernel=8, table=6)
    start_from(large, source_of(small, position_grid=TokenGrid(3, 3)))
    again = flexible(kernel=8, table=3, seed=5)
    start_from(again, source_of(large, position_grid=TokenGrid(6, 6)))
    torch.testing.assert_close(again.pos_embed, small.pos_embed, atol=1e-5, rtol=0)


def test_clips_start_from_flexible_pictures():
    sizes = {**SIZES, "patch_embed": "flexi", "kernel_size": 8, "position_grid": 4, "num_frames": 2}
    model, images = TimeSformer(32, (4, 2), **sizes).eval(), flexible()
    start_clips(model, source_of(images, position_grid=TokenGrid(4, 4)))
    frames = torch.randn(2, 3, 1, 32, 32)
    with torch.no_grad():  # at the start a clip that stands still is its picture
        clip = model(frames.expand(-1, -1, 2, -1, -1), TokenGrid(2, 2)).logits
        torch.testing.assert_close(clip, images(frames[:, :, 0], TokenGrid(2, 2)).logits, atol=1e-5, rtol=0)


@pytest.mark.parametrize("attention", ["divided_space_time", "joint_space_time", "space_only"])
def test_a_fixed_timesformer_starts_a_flexible_one_exactly_and_gets_it_back(attention):
    sizes = {**SIZES, "num_frames": 2, "attention": attention, "pos_std": 0.5, "time_std": 0.5}
    sizes |= {"temporal_fc_std": 0.1}
    fixed, again = TimeSformer(32, (4,), **sizes).eval(), TimeSformer(32, (4,), **sizes).eval()
    model = TimeSformer(32, (4, 2), patch_embed="flexi", kernel_size=8, position_grid=4, **sizes).eval()
    start_clips(model, Source("weights", "video", dict(fixed.state_dict())))
    facts = {"position_grid": TokenGrid(4, 4)}
    start_clips(again, Source("weights", "video", dict(model.state_dict()), facts=facts))
    clips = torch.randn(2, 3, 2, 32, 32)
    with torch.no_grad():
        expected = fixed(clips).logits
        for one in (model, again):
            torch.testing.assert_close(one(clips, TokenGrid(4, 4)).logits, expected, atol=1e-6, rtol=0)


def timm_flexivit(folder: Path) -> tuple[torch.nn.Module, str]:
    """A file in the form of timm's FlexiViT, and the network that wrote it."""
    network = timm.create_model("flexivit_small", pretrained=False, **TIMM).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    torch.save(network.state_dict(), folder / "flexi.pth")
    return network, str(folder / "flexi.pth")


def test_timms_flexivit_answers_as_timm(tmp_path):
    network, file = timm_flexivit(tmp_path)
    classifier = open_classifier(file)
    model = classifier.networks.model
    with torch.no_grad():
        images = torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(answer(model, size=48), network(images), atol=1e-5, rtol=0)
    assert answer(model, 5, size=48).shape == (2, 4)  # at any other grid too
    assert classifier.report is not None
    assert any("already resized to 16x16" in note for note in classifier.report.notes)
    assert classifier.normalizer.state_dict() is not None
    assert "FlexiViT's pixel mean" in classifier.assumed


def test_timms_flexivit_starts_fixed_and_flexible_models(tmp_path):
    network, file = timm_flexivit(tmp_path)
    images = torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    fixed = DeiT(48, (3,), **SIZES).eval()
    flexi = DeiT(48, (6, 3, 2), patch_embed="flexi", kernel_size=16, position_grid=3, **SIZES).eval()
    wide = DeiT(48, (6, 3, 2), patch_embed="flexi", **SIZES).eval()  # 32 pixels, 7 x 7
    for model in (fixed, flexi, wide):
        report = start_from(model, file)
        assert any("already resized to 16x16" in note for note in report.notes)
    with torch.no_grad():
        for model in (fixed, flexi):
            torch.testing.assert_close(model(images, TokenGrid(3, 3)).logits, network(images), atol=1e-5, rtol=0)
        weight = resize_patch_kernel(network.patch_embed.proj.weight, (32, 32))
        torch.testing.assert_close(wide.patch_embed.proj.weight, weight)


def test_the_table_timm_enlarged_is_found_again(tmp_path):
    """Its converter enlarges 7 x 7 to the grid of the file."""
    network, file = timm_flexivit(tmp_path)
    state = network.state_dict()
    table = torch.randn(1, 49, 128)
    state["pos_embed"] = resize_positions(table, 0, TokenGrid(7, 7), TokenGrid(15, 15), "linear")
    torch.save(state, file)
    model = DeiT(240, (15,), patch_embed="flexi", **SIZES)
    start_from(model, file)
    torch.testing.assert_close(model.pos_embed, table, atol=1e-5, rtol=0)


def test_deit_iii_is_a_deit_after_its_scales_are_multiplied_in(tmp_path):
    arguments = {**TIMM, "patch_size": 16}
    network = timm.create_model("deit3_small_patch16_224", pretrained=False, **arguments).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    torch.save(network.state_dict(), tmp_path / "deit3.pth")
    source = read_source(str(tmp_path / "deit3.pth"))
    assert any("multiplied into the layers" in note for note in source.notes)
    fixed = DeiT(48, (3,), **SIZES).eval()
    flexi = DeiT(48, (3,), patch_embed="flexi", kernel_size=16, position_grid=3, **SIZES).eval()
    images = torch.randn(2, 3, 48, 48)
    for model in (fixed, flexi):
        start_from(model, source)
        with torch.no_grad():
            torch.testing.assert_close(model(images).logits, network(images), atol=1e-5, rtol=1e-5)


def test_a_stem_has_no_kernel_for_a_flexible_model():
    stem = plain(grid=2, patch_embed="stem", stem_widths=(8, 8, 8, 8))
    with pytest.raises(UserError, match=r"patch_embed\.proj"):
        start_from(flexible(), source_of(stem))
