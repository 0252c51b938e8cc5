"""Token-label cases made up here, answered by a second implementation: other sizes, counts and values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from parity_cases import read_case
from reference_token_label import published_losses, published_target
from test_parity import check_case

PUBLISHED = {
    "classes": 12,
    "top_k": 5,
    "label_map": 9,
    "token_label_size": 7,
    "smoothing": 0.1,
    "on_value": 1 - 0.1 + 0.1 / 12,
    "off_value": 0.1 / 12,
    "mix_box_rows_cols": [1, 2, 4, 7],
}


def made_inputs(config: dict[str, Any], batch: int) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(batch)
    classes, k, cells, size = (config[key] for key in ("classes", "top_k", "label_map", "token_label_size"))
    order = draw.random((batch, classes, cells, cells)).argsort(axis=1)[:, :k]
    height_width = draw.uniform(0.05, 1.0, (batch, 2))  # down to less than a cell
    corner = draw.random((batch, 2)) * (1 - height_width)
    return {
        "label_value": np.sort(draw.normal(2, 4, (batch, k, cells, cells)), axis=1)[:, ::-1].astype(np.float32),
        "label_index": order.astype(np.int16),
        "crop_top_left_h_w": np.concatenate([corner, height_width], axis=1).astype(np.float32),
        "y": draw.integers(0, classes, batch),
        "cls_logits": draw.standard_normal((batch, classes), dtype=np.float32),
        "aux_logits": draw.standard_normal((batch, size**2, classes), dtype=np.float32),
    }


@pytest.mark.parametrize(
    ("changes", "batch"),
    [
        ({}, 4),
        ({}, 1),  # the published helper fails here
        ({"classes": 30, "top_k": 3, "label_map": 12, "token_label_size": 5}, 3),
        ({"classes": 5, "label_map": 4, "token_label_size": 10}, 2),  # every class named; fewer cells than tokens
        ({"classes": 8, "top_k": 1, "label_map": 18, "token_label_size": 4, "mix_box_rows_cols": [0, 0, 4, 4]}, 2),
        ({"smoothing": 0.3, "on_value": 1.0, "off_value": 0.0}, 2),
        ({"on_value": 0.8, "off_value": 0.05, "mix_box_rows_cols": [2, 2, 2, 5]}, 2),  # an empty box
    ],
)
def test_any_config_is_answered(tmp_path: Path, changes: dict[str, Any], batch: int) -> None:
    config = {**PUBLISHED, **changes}
    inputs = made_inputs(config, batch)
    target = published_target(config, inputs)
    facts = {
        "family": "lvvit_token_label",
        "config": config,
        "input_shape": [batch, 2, config["top_k"], config["label_map"], config["label_map"]],
        "input_seed": batch,
        "state_dict": {},
        "params": 0,
    }
    (tmp_path / "case.json").write_text(json.dumps(facts))
    losses = published_losses(config, inputs, target)
    np.savez(tmp_path / "expected.npz", **inputs, target=target, **losses)
    check_case(read_case(tmp_path))
