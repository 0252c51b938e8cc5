"""Token-label targets and losses a second time, straight from the description: loops over single numbers.

It shares nothing with the package: no torch, no region-align operator, everything in float64.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

Array = np.ndarray


def dense_map(values: Array, numbers: Array, classes: int) -> Array:
    """(k, H, W) twice -> (classes, H, W)"""
    dense = np.zeros((classes, *values.shape[1:]))
    for (k, row, col), number in np.ndenumerate(numbers):
        dense[number, row, col] = values[k, row, col]
    return dense


def at(dense: Array, y: float, x: float) -> Array:
    """Bilinear reading at a point counted from cell centres: 0 beyond one cell outside, the edge's value before that."""
    height, width = dense.shape[1:]
    if y < -1 or y > height or x < -1 or x > width:
        return np.zeros(len(dense))
    y, x = min(max(y, 0.0), height - 1), min(max(x, 0.0), width - 1)
    row, col = int(y), int(x)
    below, right = min(row + 1, height - 1), min(col + 1, width - 1)
    upper = dense[:, row, col] * (1 - (x - col)) + dense[:, row, right] * (x - col)
    lower = dense[:, below, col] * (1 - (x - col)) + dense[:, below, right] * (x - col)
    return upper * (1 - (y - row)) + lower * (y - row)


def aligned(dense: Array, box: tuple[float, float, float, float], rows: int, cols: int) -> Array:
    """The box (x0, y0, x1, y1) in cells counted from centres, at least one cell long, as (classes, rows, cols)."""
    x0, y0, x1, y1 = box
    high, wide = max(y1 - y0, 1.0) / rows, max(x1 - x0, 1.0) / cols
    num_y, num_x = math.ceil(high), math.ceil(wide)
    result = np.zeros((len(dense), rows, cols))
    for row, col in np.ndindex(rows, cols):
        samples = [
            at(dense, y0 + (row + (i + 0.5) / num_y) * high, x0 + (col + (j + 0.5) / num_x) * wide)
            for i in range(num_y)
            for j in range(num_x)
        ]
        result[:, row, col] = np.mean(samples, axis=0)
    return result


def softmax(logits: Array) -> Array:
    raised = np.exp(logits - logits.max(axis=0))
    return raised / raised.sum(axis=0)


def published_target(config: Mapping[str, Any], inputs: Mapping[str, Array]) -> Array:
    """(B, classes, 2 + S * S): one-hot label, class target, patch targets, all with the on and off values."""
    classes, size = config["classes"], config["token_label_size"]
    on, off = config["on_value"], config["off_value"]
    columns = []
    for values, numbers, crop, label in zip(
        inputs["label_value"], inputs["label_index"], inputs["crop_top_left_h_w"].astype(np.float64), inputs["y"]
    ):
        dense = dense_map(values, numbers, classes)
        cells = dense.shape[-1]
        top, left, height, width = crop
        # What stands where x should be is the top: the published quirk.
        box = tuple(edge * cells - 0.5 for edge in (top, left, top + height, left + width))
        one_hot = np.full((classes, 1), off)
        one_hot[label] = on
        regions = [aligned(dense, box, side, side).reshape(classes, -1) for side in (1, size)]
        columns.append(np.concatenate([one_hot, *(softmax(region) * on + off for region in regions)], axis=1))
    return np.stack(columns)


def cross_entropy(logits: Array, target: Array) -> float:
    """One row of logits against one row of targets."""
    logits = logits.astype(np.float64)
    return float(-(target * (logits - logits.max() - np.log(np.exp(logits - logits.max()).sum()))).sum())


def published_losses(config: Mapping[str, Any], inputs: Mapping[str, Array], target: Array) -> dict[str, float]:
    """loss_nomix, loss_mix, loss_ground_truth."""
    count = len(target)
    dense = np.mean(
        [
            cross_entropy(inputs["aux_logits"][b, s], target[b, :, 2 + s])
            for b in range(count)
            for s in range(target.shape[2] - 2)
        ]
    )

    def loss(class_targets: list[Array]) -> float:
        return float(dense + np.mean([cross_entropy(inputs["cls_logits"][b], class_targets[b]) for b in range(count)]))

    plain = [target[b, :, 1] for b in range(count)]
    row0, col0, row1, col1 = config["mix_box_rows_cols"]
    own = 1 - (row1 - row0) * (col1 - col0) / (target.shape[2] - 2)
    mixed = [own * plain[b] + (1 - own) * plain[count - 1 - b] for b in range(count)]
    corrected = []
    for b in range(count):
        share = 0.5 if plain[b].argmax() == target[b, :, 0].argmax() else 0.9
        corrected.append(share * plain[b] + (1 - share) * target[b, :, 0])
    return {"loss_nomix": loss(plain), "loss_mix": loss(mixed), "loss_ground_truth": loss(corrected)}
