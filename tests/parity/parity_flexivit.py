"""The family of FlexiViT's resizing: of patch kernels, by three rules, and of the position table. No network."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from parity_cases import Answer, Case
from torch import Tensor

from revit.common.models.embed.patches import resize_patch_kernel, resize_positions
from revit.common.models.grid import TokenGrid

RULES: Mapping[str, Mapping[str, Any]] = {
    "pi": {},
    "pi_antialias": {"antialias": True},
    "timm_default": {"mode": "bicubic", "antialias": True},
}


def resized(case: Case) -> Answer:
    """`flexivit_pi_resize`: the input is the kernel; the position table is made from the seed after its own."""
    config = case.config
    wanted = [(config["out_channels"], config["in_channels"]), pair(config["kernel_in"])]
    kernel = case.input()
    if (tuple(kernel.shape[:2]), tuple(kernel.shape[2:])) != tuple(wanted):
        raise ValueError(f"the kernel has shape {tuple(kernel.shape)}, where the config says {wanted}")
    arrays: dict[str, Tensor] = {}
    for size in config["sizes_out"]:
        for rule, how in RULES.items():
            arrays[f"{rule}_{name_of(size)}"] = resize_patch_kernel(kernel, pair(size), **how)
    return Answer(None, arrays | positions(case))


def positions(case: Case) -> dict[str, Tensor]:
    """pos_S of every S that the case asks for, of a table whose shape and seed the notes tell."""
    told = re.search(r"shape \(1, *(\d+), *(\d+), *(\d+)\) from seed (\d+)", case.facts.get("notes", ""))
    shape_and_seed = map(int, told.groups()) if told else (7, 7, case.config["out_channels"], None)
    rows, cols, width, seed = shape_and_seed
    seed = case.facts["input_seed"] + 1 if seed is None else seed
    values = np.random.default_rng(seed).standard_normal((1, rows, cols, width), dtype=np.float32)
    table = torch.from_numpy(values).flatten(1, 2)
    arrays = {}
    for name in case.expected:
        if found := re.fullmatch(r"pos_(\d+(?:x\d+)?)", name):
            target = TokenGrid.parse(found[1])
            flat = resize_positions(table, 0, TokenGrid(rows, cols), target, "linear")
            arrays[name] = flat.unflatten(1, (target.rows, target.cols))
    return arrays


def pair(size: int | list[int]) -> tuple[int, int]:
    """A side, or height and width -> height and width."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def name_of(size: int | list[int]) -> str:
    return str(size) if isinstance(size, int) else "x".join(map(str, size))
