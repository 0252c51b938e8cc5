"""The families of As-ViT: its backbone, and its complexity measures on a fixed network and a fixed circle."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from parity_cases import Answer, Case, fill, pair
from torch import Tensor

from revit.image.models.asvit import AsViT
from revit.image.search.complexity import Circle, Curve, condition, curve_of, ntk, pooled, thetas_of

RENAMED = {".mlps.0.0.": ".norm2.", ".mlps.0.1.": ".mlp."}
"""What the published code calls otherwise."""


def asvit_name(published: str) -> str:
    """The name in this project of an entry of a published state dict."""
    for theirs, ours in RENAMED.items():
        published = published.replace(theirs, ours)
    return published


def _model(case: Case) -> AsViT:
    config = case.config
    model = AsViT(
        config["genotype"],
        pair(config["image_size"]),
        num_classes=config["num_classes"],
        in_chans=config.get("in_channels", 3),
        position="absolute" if config.get("position", "none").startswith("absolute") else "none",
    )
    shapes = case.facts["state_dict"]
    model.load_state_dict({asvit_name(name): fill(name, shape) for name, shape in shapes.items()})
    return model.eval()


def asvit(case: Case) -> Answer:
    """`asvit`: logits, and the mean over the tokens before and after the final norm."""
    model, images = _model(case), case.input()
    output = model(images)
    assert output.patch_features is not None
    arrays = {
        "logits": output.logits,
        "pooled_before_final_norm": pooled(model, images),
        "pooled": output.patch_features.mean(dim=1),
    }
    return Answer(model, arrays, _one(case), asvit_name)


def asvit_complexity(case: Case) -> Answer:
    """`asvit_complexity`: every measure in both precisions and for both radii; no network's output is compared."""
    arrays: dict[str, Tensor] = {}
    for bits in (64, 32):
        model = _model(case).to(torch.float64 if bits == 64 else torch.float32)
        for name, radius in (("unit", 1.0), ("sqrtN", math.sqrt(math.prod(case.facts["input_shape"][1:])))):
            arrays |= _of_curve(_curve(case, model, radius), f"{name}_fp{bits}", case)
            if bits == 64:
                curve = _curve(case, model, radius)
                assert curve.a is not None
                arrays |= {f"v_{name}": curve.v, f"a_{name}": curve.a}
        arrays |= _of_kernel(_ntk(case, model), f"fp{bits}")
    return Answer(_model(case), arrays, _one(case), asvit_name, measure_tolerance)


def _one(case: Case) -> tuple[int, ...]:
    return (1, *case.facts["input_shape"][1:])


def _curve(case: Case, model: AsViT, radius: float) -> Curve:
    """On the circle that the case describes in words."""
    config = case.config
    shape = tuple(case.facts["input_shape"][1:])
    z = np.random.default_rng(config["basis_seed"]).standard_normal((2, math.prod(shape)))
    u0 = z[0] / np.linalg.norm(z[0])
    u1 = z[1] - (z[1] @ u0) * u0
    u1 = u1 / np.linalg.norm(u1)
    kind = next(model.parameters()).dtype
    directions = (torch.from_numpy(u).view(shape).to(kind) for u in (u0, u1))
    kind_of_grid = "open" if "without" in config["theta_grid"] else "closed"
    thetas = thetas_of(config["thetas"], kind_of_grid).to(kind)
    return curve_of(model, Circle(*directions, radius), thetas, second=True)


def _of_curve(curve: Curve, name: str, case: Case) -> Mapping[str, Tensor]:
    assert curve.a is not None
    measures = {
        f"LE_{name}": curve.length(),
        f"kappa_{name}": curve.curvature(),
        f"LE_kappa_{name}": curve.length_curvature_published(tuple(case.config["theta_batches"])),
        f"LE_kappa_paper_{name}": curve.length_curvature(),
        f"LE_kappa_norm_constant_{name}": float((curve.a.norm(dim=1) / curve.v.norm(dim=1)).sum()),
    }
    independent = {f"independent_{key}": value for key, value in measures.items()}
    return {key: torch.tensor(value, dtype=torch.float64) for key, value in {**measures, **independent}.items()}


def _ntk(case: Case, model: AsViT) -> Tensor:
    config = case.config
    shape = (config["ntk_images"], *case.facts["input_shape"][1:])
    images = np.random.default_rng(config["ntk_input_seed"]).standard_normal(shape, dtype=np.float32)
    return ntk(model, torch.from_numpy(images).to(next(model.parameters()).dtype))


def _of_kernel(kernel: Tensor, name: str) -> Mapping[str, Tensor]:
    found = torch.tensor(condition(kernel), dtype=torch.float64)
    return {
        f"ntk_matrix_{name}": kernel,
        f"ntk_eigenvalues_{name}": torch.linalg.eigvalsh(kernel),
        f"ntk_condition_{name}": found,
        f"independent_ntk_condition_{name}": found,
    }


MEASURE_TOLERANCES = {"fp64": 1e-6, "LE": 1e-4, "kappa": 1e-3, "ntk": 5e-3}
"""Relative, as the case says; float32 by the kind of measure."""


def measure_tolerance(name: str) -> float:
    """How far a number of `asvit_complexity` may be off, relative to the largest of its array."""
    if "fp32" not in name:
        return MEASURE_TOLERANCES["fp64"]
    kinds = ("ntk", "kappa", "LE")  # LE_kappa is a kappa
    return next(MEASURE_TOLERANCES[kind] for kind in kinds if kind in name)
