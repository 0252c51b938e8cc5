from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from revit.common.models.embed.patches import resize_patch_kernel, resize_positions
from revit.common.models.grid import TokenGrid
from revit.common.system.errors import UserError
from revit.common.weights.checkpoint import Checkpoint, save_checkpoint
from revit.common.weights.source import Source
from revit.video.models.timesformer import TimeSformer
from revit.video.weights.start import start_from

CLIP = (2, 3, 4, 32, 32)


def make(**changes: Any) -> TimeSformer:
    """A small model with every parameter random, zero starts included."""
    facts = {"img_size": 32, "grids": (4,), "num_frames": 4, "num_classes": 5, "embed_dim": 32, "depth": 2}
    model = TimeSformer(**{**facts, "num_heads": 4, "drop_path_rate": 0.0, **changes}).eval()
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.add_(0.2 * torch.randn_like(tensor))
    return model


def image_state(distilled: bool = False, num_classes: int = 7, patch: int = 8) -> dict[str, Tensor]:
    state = make(attention="space_only", grids=(32 // patch,), num_classes=num_classes).state_dict()
    if distilled:
        state["pos_embed"] = torch.randn(1, 2 + (32 // patch) ** 2, 32)
        state["dist_token"] = torch.randn(1, 1, 32)
        state["head_dist.weight"], state["head_dist.bias"] = (torch.randn(num_classes, 32), torch.randn(num_classes))
    return dict(state)


def answer(model: TimeSformer, grid: str | None = None, shape: tuple[int, ...] = CLIP) -> Tensor:
    clips = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return model(clips, TokenGrid.parse(grid) if grid else None).logits


@pytest.mark.parametrize("attention", ["divided_space_time", "joint_space_time", "space_only"])
@pytest.mark.parametrize("prefix", ["model.", "module.", ""])
def test_published_files_load_whole(tmp_path: Path, attention: str, prefix: str) -> None:
    source, target = make(attention=attention), make(attention=attention)
    state = {prefix + name: tensor for name, tensor in source.state_dict().items()}
    key = {"model.": "model_state", "module.": "state_dict", "": "model"}[prefix]
    torch.save({key: state, "epoch": 14, "cfg": "DATA:\n  NUM_FRAMES: 4\n"}, tmp_path / "published.pyth")
    report = start_from(target, str(tmp_path / "published.pyth"))
    assert sorted(report.loaded) == sorted(source.state_dict())
    assert not report.resized
    assert not report.remade
    assert torch.equal(answer(source), answer(target))


def test_image_weights_give_the_image_model_on_every_frame(tmp_path: Path) -> None:
    image = image_state(num_classes=5)
    torch.save({"model": image}, tmp_path / "vit.pth")
    model = make()
    with torch.no_grad():
        model.time_embed.zero_()
    report = start_from(model, str(tmp_path / "vit.pth"))
    state = model.state_dict()
    for number in range(2):
        for part in ("attn.qkv.weight", "attn.proj.bias", "norm1.weight"):
            assert torch.equal(state[f"blocks.{number}.temporal_{part}"], image[f"blocks.{number}.{part}"])
        assert not state[f"blocks.{number}.temporal_fc.weight"].any()
        assert not state[f"blocks.{number}.temporal_fc.bias"].any()
    still = torch.randn(2, 3, 1, 32, 32).expand(-1, -1, 4, -1, -1)
    frame_model = make(attention="space_only")
    frame_model.load_state_dict(image)
    with torch.no_grad():
        assert torch.allclose(model(still).logits, frame_model(still).logits, atol=1e-5)
    assert sum(map(len, report.derived.values())) == 2 * (6 + 2)
    assert any(text.startswith("time_embed") for text in report.remade)


def test_a_distilled_deit_brings_its_token_to_the_shorter_grids(tmp_path: Path) -> None:
    torch.save({"model": image_state(distilled=True, num_classes=5)}, tmp_path / "deit.pth")
    source = torch.load(tmp_path / "deit.pth", weights_only=True)["model"]
    model = make(grids=(4, 2))
    start_from(model, str(tmp_path / "deit.pth"))
    assert torch.equal(model.dist_token["shared"], source["dist_token"])
    assert torch.equal(model.head_dist["shared"].weight, source["head_dist.weight"])
    assert torch.equal(model.pos_embed, source["pos_embed"][:, [0, *range(2, 18)]])
    assert torch.equal(model.short_pos_embed["2x2"][:, :2], source["pos_embed"][:, :2])

    plain = make()
    report = start_from(plain, str(tmp_path / "deit.pth"))
    assert {"dist_token", "head_dist.weight", "head_dist.bias"} == {n for g in report.left_out.values() for n in g}


def test_sizes_are_fitted_and_said(tmp_path: Path) -> None:
    source = make()
    torch.save(source.state_dict(), tmp_path / "small.pth")
    model = make(img_size=48, grids=(3,), num_frames=6)
    report = start_from(model, str(tmp_path / "small.pth"))
    assert {change.name: change.how for change in report.resized} == {
        "pos_embed": "bicubic",
        "patch_embed.proj.weight": "pseudo-inverse",
        "time_embed": "linear",
    }
    expected = resize_patch_kernel(source.patch_embed.proj.weight, (16, 16))
    assert torch.allclose(model.patch_embed.proj.weight, expected)
    table = resize_positions(source.pos_embed, 1, TokenGrid(4, 4), TokenGrid(3, 3), "bicubic")
    assert torch.allclose(model.pos_embed, table)


def test_shorter_grids_start_from_the_longest(tmp_path: Path) -> None:
    source = make()
    torch.save(source.state_dict(), tmp_path / "plain.pth")
    model = make(grids=(4, 2))
    report = start_from(model, str(tmp_path / "plain.pth"))
    assert torch.equal(answer(model), answer(source))
    assert torch.equal(model.norm.short["2x2"].weight, source.norm.weight)
    assert torch.equal(model.head_dist["shared"].weight, source.head.weight)
    names = [name for how, group in report.derived.items() if "4x4" in how for name in group]
    assert set(names) == set(model.state_dict()) - set(source.state_dict())


def test_patch_embeddings_of_other_kinds(tmp_path: Path) -> None:
    source = make()
    torch.save(source.state_dict(), tmp_path / "plain.pth")
    shared = make(grids=(4, 2), patch_embed="shared")
    report = start_from(shared, str(tmp_path / "plain.pth"))
    assert torch.equal(answer(shared), answer(source))
    assert "zeros around" in str(report)
    stem = make(grids=(4, 2), patch_embed="stem", stem_widths=(8, 8, 8))
    before = stem.patch_embed.stems["4x4"][0].weight.clone()
    report = start_from(stem, str(tmp_path / "plain.pth"))
    assert torch.equal(stem.patch_embed.stems["4x4"][0].weight, before)
    assert any("stems" in text for text in report.remade)
    assert any("patch kernel" in why for why in report.left_out)


def test_another_class_count_remakes_the_head(tmp_path: Path) -> None:
    torch.save(make(num_classes=9).state_dict(), tmp_path / "nine.pth")
    model = make(grids=(4, 2))
    before = model.head.weight.clone()
    report = start_from(model, str(tmp_path / "nine.pth"))
    assert any("9 -> 5 classes" in text for text in report.remade)
    assert not torch.equal(model.head.weight, before)
    assert torch.equal(model.head_dist["shared"].weight, model.head.weight)
    assert not model.head.bias.any()


def named(model: TimeSformer, *names: str) -> Source:
    return Source("a source", "video", dict(model.state_dict()), label_names=names)


def test_class_names_travel_and_their_order_is_kept() -> None:
    source = make(num_classes=3)
    wanted = ("run", "play guitar", "swim")

    model = make(num_classes=3)
    report = start_from(model, named(source, "a", "b", "c"))
    assert report.label_names == ("a", "b", "c")

    report = start_from(model, named(source, "swim", "run", "Play_Guitar"), label_names=wanted)
    assert report.label_names == wanted
    assert torch.allclose(answer(model), answer(source)[:, [1, 2, 0]], atol=1e-6)
    assert any("another order" in text for text in report.notes)

    report = start_from(model, named(source, "x", "y", "z"), label_names=wanted)
    assert any("other class names" in text for text in report.remade)
    assert report.label_names == ()

    report = start_from(model, named(source, "x", "y", "z"), label_names=("0", "1", "2"))
    assert not report.remade
    assert report.label_names == ("x", "y", "z")


def test_our_checkpoint_is_a_start(tmp_path: Path) -> None:
    source = make(grids=(4, 2))
    with torch.no_grad():
        source.norm.short["2x2"].weight.add_(1.0)
    config = {"model": {"grids": ["4x4", "2x2"], "num_heads": 4}}
    names = ["a", "b", "c", "d", "e"]
    path = tmp_path / "ours.safetensors"
    save_checkpoint(path, Checkpoint("video", config, names, {"model": source.state_dict()}))
    model = make(grids=(4, 2))
    report = start_from(model, str(path))
    assert torch.equal(answer(model, "2x2"), answer(source, "2x2"))
    assert len(report.loaded) == len(source.state_dict())
    assert report.label_names == tuple(names)

    fewer = make(grids=(4,))
    report = start_from(fewer, str(path))
    assert torch.equal(answer(fewer), answer(source))
    assert any("2x2" in name for group in report.left_out.values() for name in group)


@pytest.mark.parametrize("attention", ["joint_space_time", "space_only"])
def test_time_that_the_model_has_no_place_for_is_left_out_and_said(tmp_path: Path, attention: str) -> None:
    torch.save(make().state_dict(), tmp_path / "divided.pth")
    report = start_from(make(attention=attention), str(tmp_path / "divided.pth"))
    left = {name for group in report.left_out.values() for name in group}
    assert "blocks.1.temporal_fc.weight" in left
    assert ("time_embed" in left) == (attention == "space_only")


def test_nothing_is_loaded_in_silence(tmp_path: Path) -> None:
    whole = make().state_dict()
    path = str(tmp_path / "weights.pth")
    model = make()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def refuse(state: dict[str, Tensor], message: str) -> None:
        torch.save(state, path)
        with pytest.raises(UserError, match=message):
            start_from(model, path)

    refuse({f"encoder.{name}": tensor for name, tensor in whole.items()}, "no vision transformer with a class token")
    refuse({**whole, "blocks.0.ls1.gamma": torch.ones(32)}, r"no place in the model: blocks\.0\.ls1\.gamma")
    refuse({name: t for name, t in whole.items() if "blocks.1.mlp" not in name}, r"missing: blocks\.1\.mlp")
    refuse(dict(make(embed_dim=16, num_heads=2).state_dict()), "shape that does not fit")
    refuse(dict(make(depth=3).state_dict()), r"no place in the model: blocks\.2")
    refuse({**whole, "pos_embed": torch.randn(1, 16, 32)}, "no square")
    heads = Source("hub", "video", dict(whole), facts={"num_heads": 8})
    with pytest.raises(UserError, match=r"num_heads 8, the model has 4; set model\.num_heads=8"):
        start_from(model, heads)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    for where, message in (
        (str(tmp_path / "absent.pth"), "no such file"),
        ("timm:no_such_model", "timm has no model"),
        (str(tmp_path), "config.json"),
    ):
        with pytest.raises(UserError, match=message):
            start_from(model, where)
