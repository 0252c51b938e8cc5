"""DynamicViT cases made up here, answered by a reference straight from the description."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from parity_cases import Case, filled, pair, write_case
from reference_dynamicvit import dynamicvit
from test_made_vit_cases import DEIT, LVVIT, STEM, lvvit_shapes
from test_parity import check_case

RATE = 0.6


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


def predictor_shapes(width: int, num_stages: int) -> dict[str, list[int]]:
    shapes: dict[str, list[int]] = {}
    layers = {"in_conv.1": (width, width), "out_conv.0": (width, width // 2)}
    layers |= {"out_conv.2": (width // 2, width // 4), "out_conv.4": (width // 4, 2)}
    for stage in range(num_stages):
        name = f"score_predictor.{stage}"
        shapes |= {f"{name}.in_conv.0.weight": [width], f"{name}.in_conv.0.bias": [width]}
        for layer, (before, after) in layers.items():
            shapes |= {f"{name}.{layer}.weight": [after, before], f"{name}.{layer}.bias": [after]}
    return shapes


def deit_shapes(config: dict[str, Any]) -> dict[str, list[int]]:
    D, patch, hidden = config["embed_dim"], config["patch_size"], config["embed_dim"] * config["mlp_ratio"]
    rows, cols = (side // patch for side in pair(config["image_size"]))
    shapes = {"cls_token": [1, 1, D], "pos_embed": [1, 1 + rows * cols, D]}
    shapes |= {"patch_embed.proj.weight": [D, 3, patch, patch], "patch_embed.proj.bias": [D]}
    layers = {"head": (D, config["num_classes"])}
    for number in range(config["depth"]):
        block = f"blocks.{number}"
        shapes |= {f"{block}.norm{i}.{part}": [D] for i in (1, 2) for part in ("weight", "bias")}
        layers |= {f"{block}.attn.qkv": (D, 3 * D), f"{block}.attn.proj": (D, D)}
        layers |= {f"{block}.mlp.fc1": (D, hidden), f"{block}.mlp.fc2": (hidden, D)}
    for name, (before, after) in layers.items():
        shapes |= {f"{name}.weight": [after, before], f"{name}.bias": [after]}
    return shapes | {"norm.weight": [D], "norm.bias": [D]}


def check(folder: Path, config: dict[str, Any], shapes: dict[str, list[int]], kernel: int, **more: Any) -> None:
    size, stages = pair(config["image_size"]), config["pruning_before_blocks"]
    shapes = {**shapes, **predictor_shapes(config["embed_dim"], len(stages))}
    counted = [shape for name, shape in shapes.items() if not re.search("running|tracked", name)]
    facts = {
        "family": "dynamicvit",
        "config": config,
        "input_shape": [2, 3, *size],
        "input_seed": 7,
        "state_dict": shapes,
        "params": sum(int(torch.Size(shape).numel()) for shape in counted),
    }
    images = Case(folder, facts, {}).input()
    rates = config["token_ratio"]
    expected = dynamicvit(filled(shapes), images, config["heads"], (kernel, kernel), stages, rates, **more)
    check_case(write_case(folder, facts, **{name: array.numpy() for name, array in expected.items()}))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"image_size": [48, 80], "num_classes": 3},
        {"token_ratio": [0.9, 0.81, 0.729]},
        {"token_ratio": [0.5], "pruning_before_blocks": [2]},
        {"token_ratio": [1.0, 1.0], "pruning_before_blocks": [0, 3]},
        {"patch_size": 8, "image_size": 80, "embed_dim": 24, "heads": 2},  # 100 tokens
    ],
)
def test_any_dynamicvit_deit_is_built(tmp_path: Path, changes: dict[str, Any]) -> None:
    rates = [RATE, RATE**2, RATE**3]
    config = {**DEIT, "depth": 4, "pruning_before_blocks": [1, 2, 3], "token_ratio": rates, **changes}
    check(tmp_path / "case", config, deit_shapes(config), config["patch_size"])


@pytest.mark.parametrize("changes", [{}, {"token_ratio": [0.8, 0.3], "skip_lam": 1.0}])
def test_any_dynamicvit_lvvit_is_built(tmp_path: Path, changes: dict[str, Any]) -> None:
    config = {**LVVIT, "depth": 3, "pruning_before_blocks": [1, 2], "token_ratio": [RATE, RATE**2], **changes}
    kernel = config["patch_size"] // 2
    config["stem"] = STEM.format(chans=3, width=8, kernel=kernel)
    shapes = lvvit_shapes(config, 8, 3)
    check(tmp_path / "case", config, shapes, kernel, skip_lam=config["skip_lam"])
