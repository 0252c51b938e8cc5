from __future__ import annotations

from typing import Any

import pytest
import timm
import torch

from revit.common.system.errors import UserError
from revit.common.weights.read import WeightFile
from revit.common.weights.source import Source, image_transformer, read_source
from revit.image.models.transformers import DeiT, LVViT
from revit.image.weights import infer, start_from


def source_of(model: torch.nn.Module, **facts: Any) -> Source:
    return Source("weights", "image", dict(model.state_dict()), facts=facts)


def same_answers(model: Any, source: Source) -> bool:
    again = infer(source).model
    start_from(again, source)
    pictures = torch.randn(1, 3, model.img_size, model.img_size)
    with torch.no_grad():
        return torch.equal(model.eval()(pictures).prediction, again.eval()(pictures).prediction)


@pytest.mark.parametrize("distillation", ["none", "every_grid"])
@pytest.mark.parametrize("qkv_bias", [True, False])
def test_shapes_give_a_deit(distillation: str, qkv_bias: bool) -> None:
    model = DeiT(48, (3,), 5, 128, 2, 2, mlp_ratio=3.0, qkv_bias=qkv_bias, distillation=distillation, drop_path_rate=0)
    found = infer(source_of(model))
    assert isinstance(found.model, DeiT)
    assert found.pictures.pixels.img_size == 48
    assert found.pictures.pixels.crop_pct == 0.875
    assert "heads 64 wide" in found.assumed
    assert same_answers(model, source_of(model))


def test_shapes_give_an_lvvit() -> None:
    model = LVViT(48, (3,), 5, 128, 2, 2, stem_widths=(8, 12, 16), drop_path_rate=0)
    found = infer(source_of(model))
    assert isinstance(found.model, LVViT)
    assert found.pictures.pixels.img_size == 48
    assert found.pictures.pixels.crop_pct == 0.9
    assert found.assumed[:2] == ("2 heads", "residual branches divided by 2")
    assert same_answers(model, source_of(model))


@pytest.mark.parametrize(
    ("width", "depth", "heads", "skip_lam", "crop_pct"),
    [(240, 12, 4, 1.0, 0.9), (384, 16, 6, 2.0, 0.9), (512, 20, 8, 2.0, 1.0), (768, 24, 12, 3.0, 1.0)],
)
def test_the_published_lvvits(width: int, depth: int, heads: int, skip_lam: float, crop_pct: float) -> None:
    with torch.device("meta"):  # the large ones would take seconds to fill
        state = {
            "patch_embed.proj.weight": torch.empty(width, 64, 8, 8),
            "pos_embed": torch.empty(1, 197, width),
            "head.weight": torch.empty(1000, width),
            **{f"patch_embed.conv{number}.weight": torch.empty(64, 64, 3, 3) for number in (1, 2, 3)},
            **{f"blocks.{block}.mlp.fc1.weight": torch.empty(3 * width, width) for block in range(depth)},
        }
        found = infer(Source("weights", "image", state))
    assert found.model.blocks[0].attn.num_heads == heads
    assert found.model.blocks[0].skip_lam == skip_lam
    assert found.pictures.pixels.crop_pct == crop_pct
    assert found.pictures.pixels.img_size == 224


def test_what_the_source_says_goes_before_guesses() -> None:
    written = {
        "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5),
        "crop_pct": 1.0,
        "crop_mode": "squash",
        "interpolation": "bilinear",
        "input_size": (3, 48, 48),
    }
    model = DeiT(48, (3,), 5, 64, 1, 4, drop_path_rate=0)
    source = image_transformer(
        "a folder", WeightFile(dict(model.state_dict())), {"pretrained_cfg": written, "label_names": list("abcde")}
    )
    assert source is not None
    assert source.label_names == tuple("abcde")
    found = infer(source)
    pixels = found.pictures.pixels
    assert (pixels.mean, pixels.crop_pct, pixels.crop_mode) == ((0.5, 0.5, 0.5), 1.0, "squash")
    assert pixels.interpolation == "bilinear"
    assert found.assumed == ("heads 64 wide",)
    assert found.label_names == tuple("abcde")


def test_timm_says_what_its_models_want(monkeypatch: pytest.MonkeyPatch) -> None:
    create = timm.create_model

    def untrained(name: str, pretrained: bool) -> torch.nn.Module:
        assert pretrained
        return create(name, pretrained=False)

    monkeypatch.setattr(timm, "create_model", untrained)
    source = read_source("timm:vit_tiny_patch16_224")
    found = infer(source)
    wanted = create("vit_tiny_patch16_224").pretrained_cfg
    pixels = found.pictures.pixels
    assert (pixels.mean, pixels.std, pixels.crop_pct) == (wanted["mean"], wanted["std"], wanted["crop_pct"])
    assert (found.model.blocks[0].attn.num_heads, found.assumed) == (3, ("heads 64 wide", "the classes of imagenet-1k"))
    assert found.label_names[1] == "goldfish, Carassius auratus"
    with pytest.raises(UserError, match="no vision transformer with a class token"):
        read_source("timm:resnet18")


def test_what_cannot_classify_pictures_is_refused() -> None:
    model = DeiT(48, (3,), 5, 64, 1, 1)
    state = dict(model.state_dict())
    with pytest.raises(UserError, match="video model"):
        infer(Source("weights", "video", state))
    headless = {name: tensor for name, tensor in state.items() if not name.startswith("head")}
    with pytest.raises(UserError, match="not a whole DeiT"):
        infer(Source("weights", "image", headless))
    with pytest.raises(UserError, match="no square picture"):
        infer(Source("weights", "image", {**state, "pos_embed": torch.zeros(1, 7, 64)}))
    with pytest.raises(UserError, match=r"200 .* 3 heads"):
        infer(source_of(DeiT(48, (3,), 5, 200, 1, 2)))
    stem = LVViT(48, (3,), 5, 128, 2, 2, stem_widths=(8, 12, 16)).state_dict()
    for shape in ((8,), ()):
        broken = {**stem, "patch_embed.conv2.weight": torch.zeros(shape)}
        with pytest.raises(UserError, match=r"patch_embed\.conv2\.weight has shape"):
            infer(Source("weights", "image", broken))
    del stem["patch_embed.conv2.weight"]
    with pytest.raises(UserError, match=r"not a whole LV-ViT.*patch_embed.conv2.weight is missing"):
        infer(Source("weights", "image", dict(stem)))
