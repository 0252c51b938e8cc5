"""The page's parts on classes and token lengths, made of what an evaluation saw."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from revit.common.evaluation.confusion import (
    NONE_RIGHT,
    assigned_against_needed,
    by_length,
    confused_pairs,
    confusion,
    per_class,
)
from revit.common.evaluation.record import ADAPTIVE, Seen

MOST_WORST = 15
MOST_IN_TABLE = 20
"""Classes of a confusion matrix with numbers; more become a picture."""
MOST_PIXELS = 1000
"""Sides of that picture; of more classes several share a pixel."""
MOST_IN_MAP = 5000
"""Beyond, a matrix shows nothing."""
DARK = np.array([16, 56, 107])


def class_parts(seen: Seen) -> dict[str, Any]:
    """What the template wants of classes and lengths."""
    classes = [_with_interval(row) for row in per_class(seen)]
    parts: dict[str, Any] = {
        "classes": classes,
        "worst": classes[:MOST_WORST],
        "worst_caption": f"The worst of {len(classes)} classes."
        if len(classes) > MOST_WORST
        else f"All {len(classes)} classes that have samples, the worst first.",
        "confused": [{**row, "share": f"{row['share']:.1f} %"} for row in confused_pairs(seen)],
        "answers": "Answers are the adaptive ones."
        if seen.policy == ADAPTIVE
        else f"Answers at {seen.policy}.",
    }
    if len(seen.label_names) <= MOST_IN_TABLE:
        parts["matrix"] = _matrix(seen)
    elif len(seen.label_names) <= MOST_IN_MAP:
        parts["map"] = _map(confusion(seen))
    if seen.lengths is not None:
        parts |= _length_parts(seen)
    return parts


def _with_interval(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "top1": _percent(row["top1"]), "interval": f"{row['low']:.1f} to {row['high']:.1f}"}


def _percent(value: float | None) -> str | None:
    return None if value is None else f"{value:.2f}"


def _length_parts(seen: Seen) -> dict[str, Any]:
    fixed = {f"at {grid}": f"top-1 % at {grid}" for grid in seen.grids}
    rows = [
        {
            "length": row["length"],
            "inputs": row["inputs"],
            "share": f"{100 * row['share']:.1f} %",
            "top1": _percent(row["top1"]),
            **{f"at {grid}": _percent(value) for grid, value in row["top1_at"].items()},
        }
        for row in by_length(seen)
    ]
    needed = [
        {"assigned": grid, **{str(place): count for place, count in enumerate(counts)}}
        for grid, counts in assigned_against_needed(seen).items()
    ]
    return {
        "lengths": rows,
        "length_columns": {
            "length": "assigned",
            "inputs": "inputs",
            "share": "share",
            "top1": "top-1 % as assigned",
            **fixed,
        },
        "lengths_caption": (
            "Inputs by the length that the assigner gave them: how well they were answered, and how well the same inputs "
            "are answered at every fixed length. A good assigner gives short lengths to inputs on which a longer one gains little."
        ),
        "needed": needed,
        "needed_columns": {
            "assigned": "assigned",
            **{
                str(place): name
                for place, name in enumerate((*(f"needs {grid}" for grid in seen.grids), NONE_RIGHT))
            },
        },
    }


def _matrix(seen: Seen) -> dict[str, Any]:
    table = confusion(seen)
    of = table.sum(dim=1).clamp_min(1)
    rows = []
    for name, counts, total in zip(seen.label_names, table.tolist(), of.tolist()):
        shares = [count / total for count in counts]
        cells = [
            {
                "count": count,
                "colour": ",".join(map(str, _colour(np.array(share)).tolist())),
                "ink": "#fff" if share > 0.45 else "#1a1a1a",
            }
            for count, share in zip(counts, shares)
        ]
        rows.append({"name": name, "cells": cells})
    return {"names": seen.label_names, "rows": rows}


def _map(table: Tensor) -> dict[str, Any]:
    """The matrix as a PNG picture, a share of 0 white."""
    classes = len(table)
    each = -(-classes // MOST_PIXELS)
    side = -(-classes // each)
    padded = np.zeros((side * each, side * each))
    padded[:classes, :classes] = table.numpy()
    blocks = padded.reshape(side, each, side, each).sum(axis=(1, 3))
    shares = blocks / np.maximum(blocks.sum(axis=1, keepdims=True), 1)
    picture = Image.fromarray(_colour(shares))
    scale = max(1, 400 // side)
    picture = picture.resize((side * scale, side * scale), Image.Resampling.NEAREST)
    out = io.BytesIO()
    picture.quantize(64).save(out, format="PNG", optimize=True)
    source = f"data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}"
    return {"source": source, "width": picture.width, "height": picture.height, "classes": classes}


def _colour(shares: np.ndarray) -> np.ndarray:
    """Shares (...) -> RGB (..., 3), white to dark; small ones are made visible by a square root."""
    strength = np.sqrt(shares)[..., None]
    return (255 + strength * (DARK - 255)).round().astype(np.uint8)
