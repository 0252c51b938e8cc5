"""DeiT and LV-ViT weights as their authors store them, in plain, distilled and resizable models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from revit.common.models.embed.patches import resize_patch_kernel, resize_positions
from revit.common.models.grid import TokenGrid
from revit.common.models.vit import ResizableTransformer
from revit.common.system.errors import UserError
from revit.common.weights.checkpoint import Checkpoint, save_checkpoint
from revit.common.weights.source import Source, read_source
from revit.image.models.transformers import DeiT, LVViT
from revit.image.weights import start_from

SIZES: dict[str, Any] = {"img_size": 32, "grids": (4,), "num_classes": 6, "embed_dim": 32, "depth": 2, "num_heads": 2}
FEW: dict[str, Any] = {"stem_widths": (8, 8, 8)}


def deit(**changes: Any) -> DeiT:
    return shaken(DeiT(**{**SIZES, **changes}))


def lvvit(**changes: Any) -> LVViT:
    return shaken(LVViT(**{**SIZES, **FEW, **changes}))


def shaken(model: Any, spread: float = 0.2) -> Any:
    """In evaluation mode, every parameter and BN statistic random."""
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 1.5)
            elif tensor.is_floating_point():
                tensor.add_(spread * torch.randn_like(tensor))
    return model.eval()


def from_timm(name: str) -> nn.Module:
    facts = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 6}
    return shaken(timm.create_model(name, pretrained=False, **facts))


def answer(model: ResizableTransformer, grid: str | None = None, side: int = 32) -> Tensor:
    pictures = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return model(pictures, TokenGrid.parse(grid) if grid else None).prediction


def source_of(model: nn.Module, **facts: Any) -> Source:
    return Source("a source", "image", dict(model.state_dict()), facts=facts)


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize("name", ["deit_tiny_patch16_224", "deit_tiny_distilled_patch16_224"])
def test_a_deit_of_timm_answers_the_same(tmp_path: Path, name: str, suffix: str) -> None:
    theirs, path = from_timm(name), tmp_path / f"deit.{suffix}"
    if suffix == "pth":  # as the authors' training script stores it
        torch.save({"model": theirs.state_dict(), "epoch": 299}, path)
    else:
        save_file(theirs.state_dict(), path)
    model = deit(distillation="every_grid" if "distilled" in name else "none")
    report = start_from(model, str(path))
    assert sorted(report.loaded) == sorted(theirs.state_dict())
    pictures = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(model(pictures).prediction, theirs(pictures), atol=1e-5)


def test_a_distilled_deit_in_models_of_other_kinds() -> None:
    theirs = from_timm("deit_tiny_distilled_patch16_224")
    state = theirs.state_dict()

    plain = deit()
    report = start_from(plain, source_of(theirs))
    left = {name for group in report.left_out.values() for name in group}
    assert left == {"dist_token", "head_dist.weight", "head_dist.bias"}
    assert torch.equal(plain.pos_embed, state["pos_embed"][:, [0, *range(2, 18)]])

    for kind, keys in (("shared", ("shared",)), ("per_grid", ("2x2",))):
        model = deit(grids=(4, 2), distillation=kind)
        start_from(model, source_of(theirs))
        assert torch.equal(answer(model), answer(plain))
        for key in keys:
            assert torch.equal(model.dist_token[key], state["dist_token"])
            assert torch.equal(model.head_dist[key].weight, state["head_dist.weight"])
        assert torch.equal(model.short_pos_embed["2x2"][:, :2], state["pos_embed"][:, :2])

    every = deit(grids=(4, 2), distillation="every_grid")
    start_from(every, source_of(theirs))
    pictures = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(every(pictures).prediction, theirs(pictures), atol=1e-5)
    assert torch.equal(every.short_pos_embed["2x2"][:, :2], state["pos_embed"][:, :2])


def test_a_distilled_model_starts_from_a_plain_one() -> None:
    plain = deit()
    model = deit(distillation="every_grid")
    report = start_from(model, source_of(plain))
    assert torch.equal(model.dist_token, plain.cls_token)
    assert torch.equal(model.head_dist.weight, plain.head.weight)
    assert torch.equal(model.pos_embed[:, :2], plain.pos_embed[:, :1].expand(-1, 2, -1))
    assert any("distillation row" in change.how for change in report.resized)

    students = deit(grids=(4, 2))
    start_from(model, source_of(students))
    assert torch.equal(model.dist_token, students.dist_token["shared"])
    assert torch.equal(model.head_dist.weight, students.head_dist["shared"].weight)


def test_every_student_gets_the_shared_token() -> None:
    source = deit(grids=(4, 2, 1))
    model = deit(grids=(4, 2, 1), distillation="per_grid")
    start_from(model, source_of(source))
    for grid in ("4x4", "2x2", "1x1"):
        assert torch.equal(answer(model, grid), answer(source, grid))
    back = deit(grids=(4, 2, 1))
    report = start_from(back, source_of(shaken(model)))
    assert torch.equal(answer(back, "2x2"), answer(model, "2x2"))
    left = {name for group in report.left_out.values() for name in group}
    assert "dist_token.1x1" in left


@pytest.mark.parametrize("wrapper", [None, "state_dict", "state_dict_ema", "both"])
def test_published_lvvit_files(tmp_path: Path, wrapper: str | None) -> None:
    source, path = lvvit(), tmp_path / "lvvit.pth.tar"
    state = dict(source.state_dict())
    if wrapper == "both":
        other = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
        torch.save({"state_dict": other, "state_dict_ema": state, "epoch": 309}, path)
    else:
        torch.save(state if wrapper is None else {wrapper: state, "arch": "lvvit_s"}, path)
    assert "(LV-ViT)" in read_source(str(path)).where
    model = lvvit()
    report = start_from(model, str(path))
    assert sorted(report.loaded) == sorted(state)
    assert torch.equal(answer(model), answer(source))
    assert any("averaged" in note for note in report.notes) == (wrapper == "both")


def test_an_lvvit_with_other_classes_gets_both_heads_anew() -> None:
    model = lvvit(grids=(4, 2))
    report = start_from(model, source_of(lvvit(num_classes=9)))
    assert any("9 -> 6 classes" in text for text in report.remade)
    left = {name for group in report.left_out.values() for name in group}
    assert left == {"head.weight", "head.bias", "aux_head.weight", "aux_head.bias"}
    for head in (model.head, model.aux_head):
        assert not head.bias.any()
        assert 0.01 < float(head.weight.detach().std()) < 0.03


def test_classes_in_another_order_reach_every_head() -> None:
    names, order = ("a", "b", "c", "d", "e", "f"), [3, 1, 5, 0, 2, 4]
    source = lvvit()
    state = Source("a source", "image", dict(source.state_dict()), label_names=tuple(names[i] for i in order))
    model = lvvit()
    report = start_from(model, state, label_names=names)
    assert report.label_names == names
    expected = torch.empty_like(answer(source))
    expected[:, order] = answer(source)
    assert torch.allclose(answer(model), expected, atol=1e-6)


def test_an_lvvit_brings_its_stem_to_every_grid() -> None:
    source = lvvit()
    model = lvvit(grids=(4, 2))
    start_from(model, source_of(source))
    assert torch.equal(answer(model), answer(source))
    short = model.patch_embed.short["2x2"]
    assert torch.equal(short.conv2.weight, source.patch_embed.conv2.weight)
    assert torch.equal(short.bn3.running_var, source.patch_embed.bn3.running_var)
    assert torch.allclose(short.proj.weight, resize_patch_kernel(source.patch_embed.proj.weight, (8, 8)))
    assert torch.equal(model.norm.short["2x2"].weight, source.norm.weight)


def test_another_resolution() -> None:
    """The published way of fine-tuning at 384: only the table grows."""
    source = deit()
    model = deit(img_size=48, grids=(6,))
    report = start_from(model, source_of(source))
    assert [change.name for change in report.resized] == ["pos_embed"]
    table = resize_positions(source.pos_embed, 1, TokenGrid(4, 4), TokenGrid(6, 6), "bicubic")
    assert torch.allclose(model.pos_embed, table)


@pytest.mark.parametrize("make", [deit, lvvit])
def test_every_grid_of_another_resolution_starts_from_its_own(tmp_path: Path, make: Any) -> None:
    source = make(grids=(4, 2))
    config = {"model": {"grids": ["4x4", "2x2"], "num_heads": 2}}
    names = [str(number) for number in range(6)]
    path = tmp_path / "ours.safetensors"
    save_checkpoint(path, Checkpoint("image", config, names, {"model": source.state_dict()}))
    model = make(img_size=64, grids=(8, 4))
    report = start_from(model, str(path))
    assert any("4x4 -> 8x8, 2x2 -> 4x4" in note for note in report.notes)
    for block in (0, 1):
        ours, theirs = model.blocks[block].norm2.short["4x4"], source.blocks[block].norm2.short["2x2"]
        assert torch.equal(ours.weight, theirs.weight)
    kernels = [m.patch_embed.short[grid] for m, grid in ((model, "4x4"), (source, "2x2"))]
    states = [kernel.state_dict() for kernel in kernels]
    assert all(torch.equal(a, b) for a, b in zip(states[0].values(), states[1].values()))
    table = source.short_pos_embed["2x2"]
    expected = resize_positions(table, 2, TokenGrid(2, 2), TokenGrid(4, 4), "bicubic")
    assert torch.allclose(model.short_pos_embed["4x4"], expected)
    again = make(grids=(4, 2))
    start_from(again, str(path))
    assert torch.equal(answer(again, "2x2"), answer(source, "2x2"))


def test_weights_of_another_family_are_refused() -> None:
    with pytest.raises(UserError, match=r"LV-ViT.*DeiT.*model\.name"):
        start_from(deit(), source_of(lvvit()))
    with pytest.raises(UserError, match=r"DeiT.*LV-ViT.*model\.name"):
        start_from(lvvit(), source_of(deit()))
    video = Source("clips", "video", dict(deit().state_dict()))
    with pytest.raises(UserError, match="weights of a video model"):
        start_from(deit(), video)
    with pytest.raises(UserError, match="weights of a video model"):
        start_from(deit(), source_of(nn.ParameterDict({"time_embed": torch.ones(1)})))
    with pytest.raises(UserError, match=r"model\.skip_lam=3"):
        start_from(lvvit(), source_of(lvvit(), skip_lam=3.0))
    with pytest.raises(UserError, match=r"num_heads 4"):
        start_from(deit(), source_of(deit(), num_heads=4))
