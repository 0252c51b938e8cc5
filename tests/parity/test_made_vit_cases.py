"""Picture cases made up here: timm answers for DeiT, a reference straight from the description for LV-ViT."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from parity_cases import Case, fill_model, filled, pair, write_case
from reference_lvvit import lvvit
from test_parity import check_case
from torch import Tensor

DEIT = {
    "image_size": 64,
    "patch_size": 16,
    "embed_dim": 32,
    "depth": 2,
    "heads": 4,
    "mlp_ratio": 4,
    "qkv_bias": True,
    "norm": "LayerNorm eps 1e-6",
    "act": "GELU exact (erf)",
    "class_token": True,
    "distillation_token": False,
    "num_classes": 10,
    "pre_norm": True,
    "pos_embed": "learned, covers prefix tokens, added after concatenation",
}
LVVIT = {
    "image_size": 64,
    "patch_size": 16,
    "embed_dim": 32,
    "depth": 2,
    "heads": 4,
    "head_dim": 8,
    "mlp_ratio": 3,
    "qkv_bias": False,
    "norm": "LayerNorm eps 1e-5",
    "act": "GELU exact",
    "skip_lam": 2.0,
    "class_token": True,
    "num_classes": 10,
}
STEM = (
    "conv 7x7 stride 2 pad 3 ({chans}->{width}, no bias), BN, ReLU; conv 3x3 stride 1 pad 1 ({width}->{width}, no "
    "bias), BN, ReLU; same again; then conv {kernel}x{kernel} stride {kernel} ({width}->embed_dim, with bias)"
)


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


def made(folder: Path, family: str, config: dict[str, Any], state: dict[str, Any], images: Tensor) -> Case:
    """A case without its expected arrays yet; `state` maps names to shapes."""
    facts = {"family": family, "config": config, "input_shape": list(images.shape), "input_seed": 7}
    is_weight = [name for name in state if not name.endswith(("running_mean", "running_var", "tracked"))]
    params = sum(int(torch.Size(state[name]).numel()) for name in is_weight)
    return Case(folder, {**facts, "state_dict": state, "params": params}, {})


def images_of(config: dict[str, Any], chans: int = 3) -> Tensor:
    height, width = pair(config["image_size"])
    return torch.zeros(2, chans, height, width)


@pytest.mark.parametrize("distilled", [False, True])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"patch_size": 8, "image_size": 48, "depth": 1, "heads": 2},
        {"image_size": [48, 80], "mlp_ratio": 3, "qkv_bias": False},
        {"image_size": 70, "num_classes": 3},  # a remainder that the convolution cuts off
        {"in_chans": 1, "norm": "LayerNorm eps 1e-5"},
        {"num_classes": 0},
    ],
)
def test_any_deit_is_built(tmp_path: Path, changes: dict[str, Any], distilled: bool) -> None:
    config = {**DEIT, **changes, "distillation_token": distilled}
    theirs = timm.create_model(
        "deit_small_distilled_patch16_224" if distilled else "deit_small_patch16_224",
        pretrained=False,
        img_size=pair(config["image_size"]),
        num_heads=config["heads"],
        in_chans=config.get("in_chans", 3),
        norm_layer=partial(torch.nn.LayerNorm, eps=float(config["norm"].split()[-1])),
        **{key: config[key] for key in ("patch_size", "embed_dim", "depth", "mlp_ratio", "qkv_bias")},
        num_classes=config["num_classes"],
    ).eval()
    fill_model(theirs)
    shapes = {name: list(tensor.shape) for name, tensor in theirs.state_dict().items()}
    case = made(tmp_path / "case", "deit", config, shapes, images_of(config, config.get("in_chans", 3)))
    features = theirs.forward_features(case.input())
    expected = {"logits": theirs(case.input()), "logits_cls": theirs.head(features[:, 0])}
    if distilled:
        expected["logits_dist"] = theirs.head_dist(features[:, 1])
    check_case(write_case(case.folder, case.facts, **{name: x.numpy() for name, x in expected.items()}))


@pytest.mark.parametrize(
    ("changes", "width", "chans"),
    [
        ({}, 64, 3),
        ({"patch_size": 8, "image_size": 40, "skip_lam": 1.0, "depth": 1}, 16, 3),
        ({"embed_dim": 24, "heads": 2, "head_dim": 12, "skip_lam": 3.0, "qkv_bias": True}, 128, 3),
        ({"head_dim": 16, "mlp_ratio": 4, "num_classes": 3}, 8, 1),  # heads wider than width / heads
        ({"image_size": [32, 96]}, 8, 3),
        ({"image_size": 70}, 8, 3),  # a remainder that the last convolution cuts off
    ],
)
def test_any_lvvit_is_built(tmp_path: Path, changes: dict[str, Any], width: int, chans: int) -> None:
    config = {**LVVIT, **changes}
    kernel = config["patch_size"] // 2
    config["stem"] = STEM.format(chans=chans, width=width, kernel=kernel)
    shapes = lvvit_shapes(config, width, chans)
    case = made(tmp_path / "case", "lvvit", config, shapes, images_of(config, chans))
    expected = lvvit(filled(shapes), case.input(), config["heads"], config["skip_lam"], (kernel, kernel))
    check_case(write_case(case.folder, case.facts, **{name: x.numpy() for name, x in expected.items()}))


def lvvit_shapes(config: dict[str, Any], width: int, chans: int) -> dict[str, list[int]]:
    """Names and shapes of a published LV-ViT."""
    D, patch, classes = config["embed_dim"], config["patch_size"], config["num_classes"]
    inner, hidden = config["heads"] * config["head_dim"], int(D * config["mlp_ratio"])
    rows, cols = (side // patch for side in pair(config["image_size"]))
    shapes: dict[str, list[int]] = {"cls_token": [1, 1, D], "pos_embed": [1, 1 + rows * cols, D]}
    for number, (before, side) in enumerate([(chans, 7), (width, 3), (width, 3)], start=1):
        shapes[f"patch_embed.conv{number}.weight"] = [width, before, side, side]
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"patch_embed.bn{number}.{part}"] = [width]
        shapes[f"patch_embed.bn{number}.num_batches_tracked"] = []
    shapes |= {"patch_embed.proj.weight": [D, width, patch // 2, patch // 2], "patch_embed.proj.bias": [D]}
    linears = {"head": (D, classes), "aux_head": (D, classes)}
    norms = ["norm"]
    for number in range(config["depth"]):
        block = f"blocks.{number}"
        norms += [f"{block}.norm1", f"{block}.norm2"]
        linears |= {f"{block}.attn.qkv": (D, 3 * inner), f"{block}.attn.proj": (inner, D)}
        linears |= {f"{block}.mlp.fc1": (D, hidden), f"{block}.mlp.fc2": (hidden, D)}
    for name in norms:
        shapes |= {f"{name}.weight": [D], f"{name}.bias": [D]}
    for name, (before, after) in linears.items():
        shapes[f"{name}.weight"] = [after, before]
        if "qkv" not in name or config["qkv_bias"]:
            shapes[f"{name}.bias"] = [after]
    return shapes


@pytest.mark.parametrize(
    ("family", "change"),
    [
        ("deit", {"act": "GELU tanh"}),
        ("deit", {"norm": "RMSNorm eps 1e-6"}),
        ("deit", {"class_token": False}),
        ("deit", {"rotary": True}),
        (
            "lvvit",
            {"stem": "conv 3x3 stride 2 pad 1 (3->64, no bias), BN, ReLU; then conv 8x8 stride 8 (64->embed_dim)"},
        ),
        ("lvvit", {"stem": STEM.format(chans=3, width=64, kernel=4)}),
    ],
)
def test_another_model_is_refused(tmp_path: Path, family: str, change: dict[str, Any]) -> None:
    config = {**(DEIT if family == "deit" else LVVIT), **change}
    case = made(tmp_path / "case", family, config, {}, images_of(config))
    with pytest.raises((ValueError, TypeError)):
        check_case(case)
