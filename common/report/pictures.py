"""The page's confusion matrix and examples, made from an evaluation's record."""

from __future__ import annotations

import base64
import io
import os
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from revit.common.evaluation.confusion import confusion
from revit.common.evaluation.record import ADAPTIVE, Example, Seen

MOST_IN_TABLE = 20
"""Classes of a confusion matrix with numbers; more become a picture."""
MOST_PIXELS = 1000
"""Sides of that picture; of more classes several share a pixel."""
MOST_IN_PICTURE = 5000
"""Classes beyond which a matrix shows nothing."""
DARK = np.array([16, 56, 107])


def confusion_matrix(record: Seen) -> dict[str, Any]:
    """Return the confusion as `matrix` (a table) or `map` (a picture), by the number of classes; neither of too many."""
    if len(record.label_names) <= MOST_IN_TABLE:
        return {"matrix": _matrix(record)}
    return {"map": _map(confusion(record))} if len(record.label_names) <= MOST_IN_PICTURE else {}


def _matrix(record: Seen) -> dict[str, Any]:
    rows = []
    for name, counts in zip(record.label_names, confusion(record).tolist()):
        shares = [count / max(sum(counts), 1) for count in counts]
        cells = [
            {
                "count": count,
                "colour": ",".join(map(str, _colour(np.array(share)).tolist())),
                "ink": "#fff" if share > 0.45 else "#1a1a1a",
            }
            for count, share in zip(counts, shares)
        ]
        rows.append({"name": name, "cells": cells})
    return {"names": record.label_names, "rows": rows}


def _map(table: Tensor) -> dict[str, Any]:
    """Return the matrix as a PNG picture, a share of 0 white."""
    classes = len(table)
    each = -(-classes // MOST_PIXELS)
    side = -(-classes // each)
    padded = np.zeros((side * each, side * each))
    padded[:classes, :classes] = table.numpy()
    blocks = padded.reshape(side, each, side, each).sum(axis=(1, 3))
    shares = blocks / np.maximum(blocks.sum(axis=1, keepdims=True), 1)
    scale = max(1, 400 // side)
    size = (side * scale, side * scale)
    picture = Image.fromarray(_colour(shares)).resize(size, Image.Resampling.NEAREST)
    png = io.BytesIO()
    picture.quantize(64).save(png, format="PNG", optimize=True)
    return {"source": _data_url("png", png.getvalue()), "size": size, "classes": classes}


def _colour(shares: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Shares (...) -> RGB (..., 3), white to dark; small ones are made visible by a square root."""
    strength = np.sqrt(shares)[..., None]
    colours: NDArray[np.uint8] = (255 + strength * (DARK - 255)).round().astype(np.uint8)
    return colours


def examples(record: Seen) -> list[dict[str, Any]]:
    """Return for each class of the record's examples the pictures at each length, longest first."""
    if record.lengths is None:
        return []
    classes: dict[int, list[list[dict[str, Any]]]] = {}
    for example in record.examples:
        cells = classes.setdefault(int(record.targets[example.row]), [[] for _ in record.grids])
        if frames := _frames(example):
            probability = float(record.probabilities[ADAPTIVE][example.row])
            title = f"{os.path.basename(example.name)}, {100 * probability:.0f} % sure"
            cells[int(record.lengths[example.row, 0])].append({"frames": frames, "title": title})
    return [
        {
            "name": record.label_names[number],
            "cells": [{"length": grid, "shown": shown} for grid, shown in zip(record.grids, cells)],
        }
        for number, cells in classes.items()
    ]


def _frames(example: Example) -> list[dict[str, Any]]:
    """Return the example's pictures; none where one of them is no picture."""
    frames = []
    for data in example.frames:
        try:
            with Image.open(io.BytesIO(data), formats=["JPEG"]) as picture:
                frames.append({"source": _data_url("jpeg", data), "size": picture.size})
        except OSError:
            return []
    return frames


def _data_url(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
