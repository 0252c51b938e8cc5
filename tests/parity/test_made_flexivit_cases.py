"""FlexiViT cases made up here, answered by a second implementation: whole matrices, written out pixel by pixel in numpy."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm.layers.patch_embed
import torch
from numpy.typing import NDArray
from parity_cases import write_case
from test_parity import array_faults, check_case

Floats = NDArray[np.float64]


def axis(old: int, new: int, antialias: bool) -> Floats:
    """(new, old): a bilinear resize of one axis with half-pixel centres, edges clamped (or weights cut off and scaled up)."""
    matrix = np.zeros((new, old))
    stretch = max(old / new, 1.0) if antialias else 1.0
    for target in range(new):
        centre = (target + 0.5) * old / new - 0.5
        if antialias:
            for source in range(old):
                matrix[target, source] = max(0.0, 1 - abs(source - centre) / stretch)
            matrix[target] /= matrix[target].sum()
        else:
            low = math.floor(centre)
            for source, weight in ((low, low + 1 - centre), (low + 1, centre - low)):
                matrix[target, min(max(source, 0), old - 1)] += weight
    return matrix


def pi(kernel: Floats, size: tuple[int, int], antialias: bool = False) -> Floats:
    rows, cols = (axis(old, new, antialias) for old, new in zip(kernel.shape[2:], size))
    resize = np.kron(rows, cols)
    flat = kernel.reshape(*kernel.shape[:2], -1) @ np.linalg.pinv(resize.T).T
    return flat.reshape(*kernel.shape[:2], *size)


def positions(seed: int, width: int, size: int) -> Floats:
    table = np.random.default_rng(seed).standard_normal((1, 7, 7, width), dtype=np.float32)
    matrix = axis(7, size, antialias=True)
    return np.einsum("yr,xc,brcd->byxd", matrix, matrix, table.astype(np.float64))


def facts(kernel: int | list[int], sizes: list[Any], shape: tuple[int, int], seed: int) -> dict[str, Any]:
    sides = [kernel, kernel] if isinstance(kernel, int) else kernel
    config = {"kernel_in": kernel, "sizes_out": sizes, "out_channels": shape[0], "in_channels": shape[1]}
    note = f"pos_S: position embedding of shape (1,7,7,{shape[0]}) from seed {seed + 1} resized to SxS."
    return {
        "family": "flexivit_pi_resize",
        "config": config,
        "input_shape": [*shape, *sides],
        "input_seed": seed,
        "state_dict": {},
        "params": 0,
        "notes": note,
    }


def answers(case: dict[str, Any]) -> dict[str, NDArray[np.float32]]:
    kernel = np.random.default_rng(case["input_seed"]).standard_normal(case["input_shape"], dtype=np.float32)
    wide = kernel.astype(np.float64)
    found: dict[str, Floats] = {}
    for size in case["config"]["sizes_out"]:
        pair = (size, size) if isinstance(size, int) else tuple(size)
        name = str(size) if isinstance(size, int) else f"{size[0]}x{size[1]}"
        found[f"pi_{name}"] = pi(wide, pair)
        found[f"pi_antialias_{name}"] = pi(wide, pair, antialias=True)
        published = timm.layers.patch_embed.resample_patch_embed(torch.from_numpy(kernel), list(pair))
        found[f"timm_default_{name}"] = published.double().numpy()
    for size in (3, 6, 9, 16):
        found[f"pos_{size}"] = positions(case["input_seed"] + 1, case["config"]["out_channels"], size)
    return {name: array.astype(np.float32) for name, array in found.items()}


CASES = {
    "other sizes": facts(20, [10, 14, 24], (4, 3), 5),
    "one channel": facts(8, [5, 7, 12], (3, 1), 6),
    "one size": facts(14, [14], (2, 6), 7),
    "not square": facts([12, 8], [[6, 10], [9, 8]], (5, 2), 8),
}


@pytest.mark.parametrize("name", CASES)
def test_made_case(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    check_case(write_case(tmp_path / "case", case, **answers(case)))


def test_what_differs_is_told(tmp_path: Path) -> None:
    case = CASES["one channel"]
    expected = answers(case)
    expected["pi_5"] = expected["pi_5"] + np.float32(1e-3)
    from parity_flexivit import resized

    made = write_case(tmp_path / "case", case, **expected)
    assert [fault.split(":")[0] for fault in array_faults(made, resized(made))] == ["pi_5"]
