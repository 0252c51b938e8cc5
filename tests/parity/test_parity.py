"""Every case under $PARITY_DIR (default: `cases`, beside this file) against the published implementations.

What is built depends on a case's `family` and `config`; a family or a config that cannot be built fails.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from parity_asvit import asvit, asvit_complexity
from parity_cases import Answer, Case, case_folders, read_case
from parity_dynamicvit import dynamicvit, dynamicvit_losses
from parity_flexivit import resized
from parity_timesformer import from_source, plain
from parity_toe import selections
from parity_token_label import targets_and_losses
from parity_vit import deit, lvvit

from revit.common.costs.flops import count

ROOT = Path(os.environ.get("PARITY_DIR") or Path(__file__).parent / "cases")
FOLDERS = case_folders(ROOT)
# Absolute. Float32 sums in another order (fused attention) differ by a few 1e-6 at a logit spread of 1.
TOLERANCE = 5e-5
GMACS_TOLERANCE = 1e-3

FAMILIES: Mapping[str, Callable[[Case], Answer]] = {
    "timesformer": plain,
    "timesformer_from_image": from_source,
    "timesformer_resized": from_source,
    "deit": deit,
    "lvvit": lvvit,
    "lvvit_token_label": targets_and_losses,
    "flexivit_pi_resize": resized,
    "dynamicvit": dynamicvit,
    "dynamicvit_losses": dynamicvit_losses,
    "asvit": asvit,
    "asvit_complexity": asvit_complexity,
    "toe_select": selections,
}


def test_there_are_cases() -> None:
    assert FOLDERS, f"no case under {ROOT}"


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_case(folder: Path) -> None:
    check_case(read_case(folder))


def check_case(case: Case) -> None:
    """Fails with every difference between the case and this project."""
    family = case.facts["family"]
    assert family in FAMILIES, f"nothing here builds the family {family}"
    answer = FAMILIES[family](case)
    faults = [*array_faults(case, answer), *model_faults(case, answer)]
    assert not faults, "\n".join(faults)


def array_faults(case: Case, answer: Answer) -> list[str]:
    faults = []
    for name, expected in case.expected.items():
        if name not in answer.arrays:
            faults.append(f"nothing here answers {name}")
            continue
        found = answer.arrays[name].detach().numpy()
        allowed = TOLERANCE if answer.relative is None else answer.relative(name) * np.abs(expected).max()
        if found.shape != expected.shape:
            faults.append(f"{name}: shape {found.shape}, published {expected.shape}")
        elif np.issubdtype(expected.dtype, np.integer):
            if not np.array_equal(found, expected):
                faults.append(f"{name}: {found}, published {expected}")
        elif not np.allclose(found, expected, rtol=0, atol=allowed):
            faults.append(f"{name}: differs by {np.abs(found - expected).max():.2e}, allowed {allowed:.0e}")
    return faults


def model_faults(case: Case, answer: Answer) -> list[str]:
    model, facts = answer.model, case.facts
    if model is None:
        return []
    faults = []
    own = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    published = {answer.own_name(name): list(shape) for name, shape in facts["state_dict"].items()}
    if own != published:
        names = sorted(name for name in own.keys() | published.keys() if own.get(name) != published.get(name))
        faults.append(f"state dict: {len(names)} entries differ, {names[:5]}")
    params = sum(parameter.numel() for parameter in model.parameters())
    if params != facts["params"]:
        faults.append(f"{params} parameters, published {facts['params']}")
    if "fvcore_gmacs" in facts and answer.one_input_shape is not None:
        gmacs, wanted = count(model, answer.one_input_shape).gmacs, facts["fvcore_gmacs"]
        if abs(gmacs - wanted) > GMACS_TOLERANCE * wanted:
            faults.append(f"{gmacs:.9f} GMACs, published {wanted:.9f}")
    return faults


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield
