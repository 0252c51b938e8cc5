"""As-ViT cases made up here: other genotypes, sizes, angles and batches, answered by a reference written from the
description alone."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from parity_cases import Case, fill, write_case
from reference_asvit import answers, derivatives, kernel, shapes_of
from test_parity import check_case
from torch import Tensor


def config_of(genotype: str, image_size: int, classes: int = 7, chans: int = 3) -> dict[str, Any]:
    *stages, last = [[int(number) for number in part.split(",")] for part in genotype.split("|")]
    return {
        "genotype": genotype,
        "image_size": image_size,
        "num_classes": classes,
        "in_channels": chans,
        "stages": stages,
        "last_heads": last[0],
        "width": last[1],
    }


def facts_of(family: str, config: dict[str, Any], batch: int) -> dict[str, Any]:
    shapes = shapes_of(config)
    size = config["image_size"]
    return {
        "family": family,
        "config": config,
        "input_shape": [batch, config["in_channels"], size, size],
        "input_seed": 5,
        "state_dict": shapes,
        "params": sum(math.prod(shape) for shape in shapes.values()),
    }


@pytest.mark.parametrize(
    ("genotype", "image_size", "chans"),
    [
        ("4,2,2,1|2,1,3,1|3,2,2,1|2,1,4,1|16,8", 32, 3),
        ("5,8,3,1|3,4,2,2|2,1,5,1|4,1,2,1|8,12", 64, 3),
        ("6,1,2,2|4,2,2,1|4,1,2,1|3,1,6,2|8,9", 64, 1),
        ("7,4,6,1|2,2,2,1|2,2,2,3|2,1,2,1|16,11", 96, 3),
        ("8,2,3,1|4,1,2,1|4,1,4,1|4,1,6,1|32,16", 32, 4),
    ],
)
def test_backbones(tmp_path, genotype, image_size, chans):
    config = config_of(genotype, image_size, chans=chans)
    facts = facts_of("asvit", config, batch=2)
    weights = {name: fill(name, shape) for name, shape in facts["state_dict"].items()}
    images = Case(tmp_path, facts, {}).input()
    expected = {name: array.numpy() for name, array in answers(config, weights, images).items()}
    check_case(write_case(tmp_path / "case", facts, **expected))


def test_a_wrong_answer_is_noticed(tmp_path):
    config = config_of("4,2,2,1|2,1,3,1|3,2,2,1|2,1,4,1|16,8", 32)
    facts = facts_of("asvit", config, batch=1)
    weights = {name: fill(name, shape) for name, shape in facts["state_dict"].items()}
    other = {**config, "stages": [[4, 4, 2, 1], *config["stages"][1:]]}
    images = Case(tmp_path, facts, {}).input()
    expected = {name: array.numpy() for name, array in answers(other, weights, images).items()}
    with pytest.raises(AssertionError, match="logits"):
        check_case(write_case(tmp_path / "case", facts, **expected))


def measures(v: Tensor, a: Tensor, batches: list[int]) -> dict[str, float]:
    """As the notes define them, one angle after the other."""
    found = dict.fromkeys(("LE", "kappa", "LE_kappa_paper", "LE_kappa_norm_constant", "LE_kappa"), 0.0)
    for one, two in zip(v, a):
        vv, va, aa = float(one @ one), float(one @ two), float(two @ two)
        found["LE"] += math.sqrt(vv)
        found["kappa"] += vv**-1.5 * math.sqrt(vv * aa - va**2)
        found["LE_kappa_paper"] += math.sqrt(aa - va**2 / vv) / math.sqrt(vv)
        found["LE_kappa_norm_constant"] += math.sqrt(aa / vv)
    first = 0
    for size in batches:
        part = slice(first, first + size)
        found["LE_kappa"] += float(a[part].norm(dim=1).sum() * (1 / v[part].norm(dim=1)).sum())
        first += size
    return found


@pytest.mark.parametrize(
    ("genotype", "thetas", "batches", "pictures", "grid"),
    [
        ("5,2,2,1|2,1,2,1|3,2,2,1|2,1,3,1|8,8", 3, [2, 1], 3, "linspace from 0 to 2*pi with both ends included"),
        ("8,1,3,1|3,2,2,2|2,1,2,1|4,1,2,1|8,9", 2, [2], 5, "linspace from 0 to 2*pi without the last"),
    ],
)
def test_measures(tmp_path, genotype, thetas, batches, pictures, grid):
    config = config_of(genotype, 32) | {
        **{"thetas": thetas, "theta_batches": batches, "theta_grid": grid, "basis_seed": 3},
        **{"ntk_images": pictures, "ntk_input_seed": 4},
    }
    facts = facts_of("asvit_complexity", config, batch=thetas)
    weights = {name: fill(name, shape).double() for name, shape in facts["state_dict"].items()}
    shape = facts["input_shape"][1:]
    z = torch.from_numpy(np.random.default_rng(3).standard_normal((2, math.prod(shape))))
    u0 = z[0] / z[0].norm()
    u1 = z[1] - (z[1] @ u0) * u0
    u0, u1 = (u.view(shape) for u in (u0, u1 / u1.norm()))
    last = 2 * math.pi * (1 if "both" in grid else (thetas - 1) / thetas)
    angles = torch.linspace(0, last, thetas, dtype=torch.float64)
    expected: dict[str, Any] = {}
    for name, radius in (("unit", 1.0), ("sqrtN", math.sqrt(math.prod(shape)))):
        v, a = derivatives(config, weights, u0, u1, radius, angles)
        expected |= {f"v_{name}": v.numpy(), f"a_{name}": a.numpy()}
        for key, value in measures(v, a, batches).items():
            expected |= {f"{key}_{name}_fp{bits}": np.float64(value) for bits in (64, 32)}
    pictures_ = np.random.default_rng(4).standard_normal((pictures, *shape), dtype=np.float32)
    matrix = kernel(config, weights, torch.from_numpy(pictures_).double()).numpy()
    values = np.linalg.eigvalsh(matrix)
    expected |= {"ntk_matrix_fp64": matrix, "ntk_eigenvalues_fp64": values}
    expected |= {f"ntk_condition_fp{bits}": values[-1] / values[0] for bits in (64, 32)}
    case = write_case(tmp_path / "case", facts, **expected)
    check_case(case)
    off = dataclasses.replace(case, expected={"LE_unit_fp64": expected["LE_unit_fp64"] * (1 + 3e-6)})
    with pytest.raises(AssertionError, match="LE_unit_fp64"):
        check_case(off)


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield
