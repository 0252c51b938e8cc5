"""Token Expansion cases made up here, answered by a second implementation: other N, rates, repetitions and stages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from parity_cases import Case, write_case
from reference_toe import selections
from test_parity import check_case

CASE = {"N_patch_tokens": 49, "class_token": True, "r0": 0.25, "keep_rates": [0.5, 0.75, 1.0], "k": 2}
CLEAR = 1e-6
"""A difference of similarities that float32 does not turn around."""


def made(folder: Path, config: dict[str, Any], batch: int = 2, width: int = 16) -> Case:
    """A case whose every decision is clear."""
    N, P = config["N_patch_tokens"], int(config["class_token"])
    facts = {"family": "toe_select", "config": config, "input_shape": [batch, N + P, width], "params": 0}
    facts |= {"state_dict": {}, "fvcore_gmacs": None}
    for seed in range(50):
        case = Case(folder, {**facts, "input_seed": seed}, {})
        arrays, smallest = selections(config, case.input().numpy())
        if smallest > CLEAR:
            return write_case(folder / "case", case.facts, **arrays)
    raise AssertionError("no input is clear")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"N_patch_tokens": 36, "r0": 0.2, "keep_rates": [0.4, 0.7, 1.0]},  # a step of 4, not 5
        {"N_patch_tokens": 48, "r0": 0.3, "keep_rates": [0.6, 0.8, 1.0], "k": 3},
        {"r0": 0.1, "keep_rates": [0.25, 0.5, 0.75, 0.9], "k": 1},  # four stages, never all
        {"r0": 0.4, "keep_rates": [0.5, 1.0], "k": 5},
        {"r0": 0.5, "keep_rates": [0.5, 0.8], "k": 2},  # nothing is added at first
        {"keep_rates": [0.9], "N_patch_tokens": 30},
        {"class_token": False, "N_patch_tokens": 25},
        {"N_patch_tokens": 64, "r0": 0.34, "keep_rates": [0.35, 0.36, 0.37], "k": 4},
    ],
)
def test_any_config_is_answered(tmp_path: Path, changes: dict[str, Any]) -> None:
    check_case(made(tmp_path, {**CASE, **changes}))


def test_many_random_configs_are_answered(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    for number in range(25):
        N, stages = int(draw.integers(8, 40)), int(draw.integers(1, 5))
        rates = np.sort(draw.uniform(0.15, 1, stages + 1)).round(2).tolist()
        if draw.random() < 0.5:
            rates[-1] = 1.0
        config = {**CASE, "N_patch_tokens": N, "r0": rates[0], "keep_rates": rates[1:], "k": int(draw.integers(1, 4))}
        check_case(made(tmp_path / str(number), config, batch=1, width=8))


def test_what_a_case_says_beside_is_checked(tmp_path: Path) -> None:
    for wrong in ({"N_patch_tokens": 50}, {"N_g": 4}, {"distance": "euclidean"}, {"weighted": True}):
        case = Case(tmp_path, {"family": "toe_select", "config": {**CASE, **wrong}}, {})
        facts = {**case.facts, "input_shape": [1, 50, 4], "input_seed": 0}
        with pytest.raises(ValueError, match=r"contradict|no token expansion"):
            check_case(Case(tmp_path, facts, {}))
